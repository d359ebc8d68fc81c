"""A firmware house: keys as ``lachan init`` makes them, a signer that answers, and people with real sessions."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lachan import clock, devices
from lachan.identity import Principal, PrincipalKind, Role, people, system
from lachan.runtime import Runtime
from lachan.signer.context import InitContext
from lachan.signer.keystore import open_keys
from ota_signing import service, setup
from ota_signing.schemas import Release
from tests.support.signer import running_signer, short_folder  # noqa: F401

PLATFORM = Principal(kind=PrincipalKind.TOKEN, id="t1", name="ci", roles=frozenset({Role.PLATFORM}))
FIRMWARE = b"lachan test firmware " * 5000


@dataclass
class House:
    """What the tests of this room work with."""

    rt: Runtime
    root_ca: Path
    offline: Path
    people: dict[str, Principal] = field(default_factory=dict)

    def person(self, name: str, *roles: Role, vendor: str | None = None) -> Principal:
        """A person who has signed in; the same one when asked again."""
        if name not in self.people:
            with self.rt.db.write() as connection:
                people.add(connection, name=name, roles=roles or (Role.APPROVER,), actor=system("test"), vendor=vendor)
                link = people.make_link(connection, self.rt.settings.data, name=name, actor=system("test"))
                self.people[name] = people.sign_in(connection, self.rt.settings.data, link).principal
        return self.people[name]

    @property
    def platform(self) -> Principal:
        """A platform token, who proposes and publishes."""
        return PLATFORM

    def propose(self, version: str = "2.0.0", content: bytes = FIRMWARE, **more: object) -> Release:
        """An uploaded artifact, proposed for acme's cam1."""
        artifact = service.upload(self.rt, self.platform, [content], vendor="acme", name="fw.bin")
        return service.propose(self.rt, self.platform, artifact_id=artifact.id, model="cam1", version=version, **more)

    def approved(self, version: str = "2.0.0", content: bytes = FIRMWARE, **more: object) -> Release:
        """A release that An and Bình approved."""
        release = self.propose(version, content, **more)
        for name in ("an", "binh"):
            release = service.approve(self.rt, self.person(name), release.id, digest=release.digest)
        return release

    def published(self, version: str = "2.0.0", content: bytes = FIRMWARE, **more: object) -> Release:
        """A release that devices are offered."""
        return service.publish(self.rt, self.platform, self.approved(version, content, **more).id)

    def device(self, name: str = "cam-1", model: str = "cam1", vendor: str = "acme") -> Principal:
        """A registered device."""
        new = devices.NewDevice(name=name, vendor=vendor, model=model, serial_number=f"SN-{name}", site="s1")
        with self.rt.db.write() as connection:
            made = devices.register(connection, new, actor=system("test"))
        roles = frozenset({Role.DEVICE})
        return Principal(kind=PrincipalKind.DEVICE, id=made.id, name=name, roles=roles, vendor=vendor)


def certificates(public: ec.EllipticCurvePublicKey, folder: Path) -> Path:
    """Root, issuing authority and firmware certificate, where the signer looks for them; gives the root's PEM."""
    now = clock.now()
    names = {n: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("root", "issuing", "firmware")}
    keys = {n: ec.generate_private_key(ec.SECP256R1()) for n in ("root", "issuing")}
    publics = {"root": keys["root"].public_key(), "issuing": keys["issuing"].public_key(), "firmware": public}
    folder.mkdir(parents=True)
    for subject, issuer, name in (
        ("root", "root", "root.crt"), ("issuing", "root", "issuing.crt"),
        ("firmware", "issuing", "firmware-signing.crt"),
    ):  # fmt: skip
        builder = (
            x509.CertificateBuilder(names[issuer], names[subject], publics[subject], x509.random_serial_number())
            .not_valid_before(now - timedelta(days=9))
            .not_valid_after(now + timedelta(days=900))
            .add_extension(x509.BasicConstraints(ca=subject != "firmware", path_length=None), critical=True)
        )
        if subject == "firmware":
            uses = [ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION]
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        made = builder.sign(keys[issuer], hashes.SHA256())
        (folder / name).write_bytes(made.public_bytes(serialization.Encoding.DER))
        if subject == "root":
            pem = folder / "root.pem"
            pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return pem


@pytest.fixture
def quiet_house(rt: Runtime, tmp_path: Path, short_folder: Path) -> House:  # noqa: F811
    """A house whose signer does not run."""
    moved = Runtime(rt.settings.model_copy(update={"signer_socket": short_folder / "s"}), rt.db, rt.wiring)
    keys = open_keys(moved.settings.signer_home, create=True)
    root_ca = certificates(keys.generate("firmware-signing", "p256"), moved.settings.signer_home / "pki")
    context = InitContext(settings=moved.settings, db=moved.db, keys=keys, offline=tmp_path / "offline")
    setup.init(context)
    return House(moved, root_ca, context.offline)


@pytest.fixture
def house(quiet_house: House) -> Iterator[House]:
    """A house whose signer answers."""
    with running_signer(quiet_house.rt):
        yield quiet_house
