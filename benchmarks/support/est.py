"""EST requests as finished bytes (RFC 7030): keys and CSRs are made before anything is measured."""

import base64
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Candidate:
    """A registered device that has not enrolled: its name and one-time secret."""

    name: str
    secret: str


@dataclass(frozen=True)
class Enrolled:
    """A device with key and certificate on disk, and the certificate's own names for renewals."""

    name: str
    key: Path
    certificate: Path


def request(path: str, kind: str, body: bytes, **headers: str) -> bytes:
    """Build a POST with those headers."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "User-Agent: b", f"Content-Type: {kind}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def csr(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateSigningRequest:
    """Make a CSR with that common name."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())


def enrol(who: Candidate, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Build a ``simpleenroll`` with the one-time secret."""
    word = base64.b64encode(f"{who.name}:{who.secret}".encode()).decode()
    body = base64.b64encode(csr(who.name, key or new_key()).public_bytes(Encoding.DER))
    return request("/.well-known/est/simpleenroll", "application/pkcs10", body, Authorization=f"Basic {word}")


def renew(who: Enrolled) -> bytes:
    """Build a ``simplereenroll``: a new key under the subject and names of the certificate in use (RFC 7030 4.2.2)."""
    current = x509.load_pem_x509_certificate(who.certificate.read_bytes())
    names = current.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    builder = x509.CertificateSigningRequestBuilder().subject_name(current.subject)
    made = builder.add_extension(names.value, critical=names.critical).sign(new_key(), hashes.SHA256())
    body = base64.b64encode(made.public_bytes(Encoding.DER))
    return request("/.well-known/est/simplereenroll", "application/pkcs10", body)


def keep(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, answer: bytes, issuers: bytes) -> Enrolled:
    """Write a device's key and chain from the answers of ``simpleenroll`` and ``cacerts``."""
    place = folder / f"{name}-{secrets.token_hex(2)}"
    own = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer))
    above = [c for c in pkcs7.load_der_pkcs7_certificates(base64.b64decode(issuers)) if c.subject != c.issuer]
    made = Enrolled(name, place.with_suffix(".key"), place.with_suffix(".pem"))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    made.certificate.write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in (*own, *above)))
    return made
