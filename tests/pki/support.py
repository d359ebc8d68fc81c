"""A device for the tests of the PKI: its own key, its requests, and the registry row and secret it needs."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AttributeOID, NameOID

from lachan import clock, devices, trust
from lachan.identity import Role, system
from lachan.runtime import Runtime
from lachan.work.outbox import StoredEvent, read
from pki import service
from tests.conftest import person

ADMIN = person("an", Role.ADMIN)


@dataclass(frozen=True)
class Camera:
    """A registered device with a secret that was not used yet."""

    id: str
    name: str
    serial: str
    secret: str

    def enrol(self, rt: Runtime, request: bytes, secret: str | None = None) -> service.Enrolled:
        return service.enrol(
            rt, device_name=self.name, secret=secret or self.secret, csr_der=request, source="192.0.2.1"
        )


def camera(rt: Runtime, name: str = "cam-1", vendor: str = "Vendor") -> Camera:
    new = devices.NewDevice(name=name, vendor=vendor, model="M1", serial_number=f"S-{name}", site="hoan-kiem")
    with rt.db.write() as connection:
        device = devices.register(connection, new, actor=system("test"))
        secret = service.issue_secret(rt, connection, ADMIN, device.id)
    return Camera(device.id, name, f"S-{name}", secret.secret)


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr(
    signer: object = None,
    *,
    subject: x509.Name | None = None,
    names: Sequence[x509.GeneralName] = (),
    challenge: bytes | None = None,
    authority: bool = False,
) -> bytes:
    """A DER request; an empty subject unless one is given."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if challenge is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge)
    signer = signer or key()
    algorithm = None if type(signer).__name__.startswith("Ed25519") else hashes.SHA256()
    return builder.sign(signer, algorithm).public_bytes(serialization.Encoding.DER)  # type: ignore[arg-type]


def named(name: str, serial: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.SERIAL_NUMBER, serial)] if serial else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def contain(rt: Runtime, device_id: str, answer: trust.Answer = trust.Answer.QUARANTINE) -> None:
    signal = trust.Signal(
        device_id=device_id, source="containment", answer=answer, reason="quarantined", ref="c-1", since=clock.now()
    )
    with rt.db.write() as connection:
        trust.set_signal(connection, signal)


def end_containment(rt: Runtime, device_id: str) -> None:
    with rt.db.write() as connection:
        trust.clear_signal(connection, device_id=device_id, source="containment", ref="c-1")


def facts(rt: Runtime, *names: str, device_id: str | None = None) -> list[StoredEvent]:
    with rt.db.read() as connection:
        return read(connection, limit=10_000, names=names, device_id=device_id)
