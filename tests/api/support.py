"""A door to knock on: the three doors in a thread, a small authority, and clients.

`Town` is the tutorial: it makes an authority (its rows stand where `lachan init` puts the real one's), devices with
certificates of any kind of wrongness, people with sessions, tokens; `Town.open()` starts the real doors on free ports.
"""

import socket
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api import doors
from api.people.access import COOKIE
from lachan import clock, devices
from lachan.devices import Device, NewDevice
from lachan.identity import Role, people, system, tokens
from lachan.runtime import Runtime
from lachan.trust import CertificateKeys
from pki import models as pki_tables
from pki.issuing import record
from tests.support.malleable import twin_of

SETUP = system("test")
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Credential:
    """A certificate with its key, as files for ssl and curl."""

    certificate: x509.Certificate
    key: Key
    chain_file: Path
    key_file: Path

    @property
    def keys(self) -> CertificateKeys:
        """By what a refusal names the certificate."""
        return CertificateKeys.of(self.certificate)

    @property
    def twin(self) -> "Credential":
        """The same certificate and key with the signature written in its other form."""
        certificate = twin_of(self.certificate)
        chain_file = self.chain_file.with_suffix(".twin")
        chain_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        return replace(self, certificate=certificate, chain_file=chain_file)

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.DER)


SIGNS = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
)  # fmt: skip
SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)  # fmt: skip


class Authority:
    """A self-made issuing authority, which nobody knows."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder(self.name, self.name, self.key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=400))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(SIGNS_CERTIFICATES, critical=True)  # Python 3.13 verifies strictly (RFC 5280 4.2.1.3)
            .sign(self.key, hashes.SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        sans: list[x509.GeneralName],
        purposes: list[x509.ObjectIdentifier] | None = None,
        start: timedelta = timedelta(hours=-1),
        end: timedelta = timedelta(days=30),
        ca: bool = False,
        usage: x509.KeyUsage | None = SIGNS,
        more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        without: tuple[type[x509.ExtensionType], ...] = (),
        digest: hashes.HashAlgorithm | None = None,
    ) -> Credential:
        """A certificate; times are relative to now."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now + start)
            .not_valid_after(now + end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        identifiers = {
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
        }
        for identifier in identifiers:
            if type(identifier) not in without:
                builder = builder.add_extension(identifier, critical=False)
        if usage is not None:
            builder = builder.add_extension(usage, critical=True)
        for extension, critical in more:
            builder = builder.add_extension(extension, critical=critical)
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        if purposes is None:
            purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return self._keep(builder.sign(self.key, digest or hashes.SHA256()), key)

    def device(self, device: Device | str, **wrong: Any) -> Credential:
        """A device's certificate, right unless told otherwise."""
        device_id, name = (device, "x") if isinstance(device, str) else (device.id, device.name)
        return self.issue(name, sans=[x509.UniformResourceIdentifier(f"urn:uuid:{device_id}")], **wrong)

    def _keep(self, certificate: x509.Certificate, key: Key) -> Credential:
        stem = self.folder / uuid.uuid4().hex
        chain_file, key_file = stem.with_suffix(".pem"), stem.with_suffix(".key")
        chain_file.write_bytes(certificate.public_bytes(Encoding.PEM) + self.certificate.public_bytes(Encoding.PEM))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Credential(certificate, key, chain_file, key_file)


class OurAuthority(Authority):
    """The installation's: what it signs for a device is recorded, as pki does it."""

    def __init__(self, rt: Runtime, folder: Path) -> None:
        super().__init__(folder, "issuing")
        self.rt = rt

    def device(self, device: Device | str, *, recorded: bool = True, **wrong: Any) -> Credential:
        """A device's certificate, right unless told otherwise, and its row."""
        made = super().device(device, **wrong)
        if recorded:
            device_id = device if isinstance(device, str) else device.id
            with self.rt.db.write() as connection:
                record(
                    connection,
                    {
                        "certificate": made.der,
                        "authority": "issuing",
                        "subject": made.certificate.subject.rfc4514_string(),
                    },
                    profile="camera",
                    device_id=device_id,
                    actor=SETUP,
                )
        return made


@dataclass(frozen=True)
class Session:
    """Somebody who signed in: cookie and CSRF token."""

    secret: str
    csrf: str

    @property
    def headers(self) -> dict[str, str]:
        """What a browser page of ours would send."""
        return {"Cookie": f"{COOKIE}={self.secret}", "X-CSRF-Token": self.csrf}


class Town:
    """An installation with an authority, devices and people; see the module."""

    def __init__(self, rt: Runtime, folder: Path) -> None:
        self.rt = rt
        self.folder = folder
        self.authority = OurAuthority(rt, folder)
        der = self.authority.certificate.public_bytes(Encoding.DER)
        with rt.db.write() as connection:
            for name in ("root", "issuing"):
                connection.execute(
                    pki_tables.authorities.insert().values(name=name, certificate=der, created_at=clock.now())
                )
        self._server_certificates()
        self.ports: dict[str, int] = {}

    def _server_certificates(self) -> None:
        place = self.rt.settings.data / "doors"
        place.mkdir(mode=0o700, exist_ok=True)
        made = self.authority.issue(
            "localhost", sans=[x509.DNSName("localhost")], purposes=[ExtendedKeyUsageOID.SERVER_AUTH]
        )
        for door in ("people", "device"):
            (place / f"{door}.pem").write_bytes(made.chain_file.read_bytes())
            (place / f"{door}.key").write_bytes(made.key_file.read_bytes())
            (place / f"{door}.external").touch()

    def add_device(self, name: str, *, vendor: str = "acme", site: str = "site-1") -> Device:
        """A registered device."""
        new = NewDevice(name=name, vendor=vendor, model="m1", serial_number=f"sn-{name}", site=site)
        with self.rt.db.write() as connection:
            return devices.register(connection, new, actor=SETUP)

    def sign_in(self, name: str, *roles: Role, vendor: str | None = None) -> Session:
        """A new person who has signed in."""
        with self.rt.db.write() as connection:
            people.add(connection, name=name, roles=roles, actor=SETUP, vendor=vendor)
            link = people.make_link(connection, self.rt.settings.data, name=name, actor=SETUP)
            new = people.sign_in(connection, self.rt.settings.data, link)
        return Session(new.secret, new.csrf)

    def token(self, *roles: Role, vendor: str | None = None, site: str | None = None) -> str:
        """A machine's token."""
        with self.rt.db.write() as connection:
            return tokens.issue(
                connection, self.rt.settings.data, name="-".join(roles), roles=roles, actor=SETUP,
                valid=timedelta(days=1), vendor=vendor, site=site,
            )  # fmt: skip

    def context(self, credential: Credential | None = None) -> ssl.SSLContext:
        """A client's TLS context that trusts the doors, with or without a certificate of its own."""
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if credential is not None:
            context.load_cert_chain(credential.chain_file, credential.key_file)
        return context

    def url(self, door: str) -> str:
        """The base URL of a door."""
        return f"{'http' if door == 'status' else 'https'}://localhost:{self.ports[door]}"

    @contextmanager
    def client(self, door: str, credential: Credential | None = None, **more: Any) -> Iterator[httpx.Client]:
        """An HTTP client of one door."""
        with httpx.Client(base_url=self.url(door), verify=self.context(credential), timeout=10, **more) as client:
            yield client

    @contextmanager
    def open(self) -> Iterator["Town"]:
        """The doors, open until the end of the block."""
        sockets = {name: socket.create_server(("127.0.0.1", 0), backlog=512) for name in ("people", "device", "status")}
        self.ports = {name: made.getsockname()[1] for name, made in sockets.items()}
        stop, ready = threading.Event(), threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                doors.main(self.rt, sockets, stop, ready.set)
            except BaseException as error:
                failed.append(error)
                ready.set()

        thread = threading.Thread(target=run, name="doors")
        thread.start()
        try:
            assert ready.wait(30)
            if failed:
                raise failed[0]
            yield self
        finally:
            stop.set()
            thread.join(30)
            for made in sockets.values():
                made.close()
            assert not thread.is_alive()
        if failed:
            raise failed[0]
