"""PKCS#10 requests: reading, proof of possession, and whom they claim to be.

Steps: `read` parses and verifies the signature, always; `check_binding` compares challengePassword with the TLS connection
(RFC 7030 3.5); `check_claims` refuses a first request that names anybody but the registered device; `check_unchanged`
holds a renewal to the names it renews (RFC 7030 4.2.2). Limits: what a request asks for beyond names and key (usages,
validity) is ignored, since the profile decides; a request to be an authority is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AttributeOID, NameOID

from lachan import der
from pki.errors import CsrMalformed, IdentityMismatch, KeyUnfit, ProofMismatch

LIMIT = 16 * 1024  # octets; an RSA-4096 request with many attributes stays far below
# SubjectPublicKeyInfo of a P-256 key up to and with the octet that says "uncompressed point" (RFC 5480 2)
P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
P256_SIZE = len(P256) + 64
_NO_NAME = b"\x30\x00"
WEAK_HASHES = (hashes.MD5, hashes.SHA1)
UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)  # fmt: skip


@dataclass(frozen=True)
class Csr:
    """A request whose signature has been verified.

    Attributes:
        request: the parsed request.
        subject: DER Name.
        spki: DER SubjectPublicKeyInfo.
        spki_sha256: its SHA-256, hex.
        names: subjectAltName, None if the request has none.
        is_p256: the key is a sound P-256 key in its usual encoding.
    """

    request: x509.CertificateSigningRequest
    subject: bytes
    spki: bytes
    spki_sha256: str
    names: x509.SubjectAlternativeName | None
    is_p256: bool

    def check_key(self, *, allowed: tuple[str, ...]) -> None:
        """Make sure that its key is of an allowed kind and strength (`check_key`).

        Raises:
            KeyUnfit: it is not.
        """
        if not (self.is_p256 and "p256" in allowed):
            check_key(self.spki, allowed=allowed)


class Registered(Protocol):
    """What the registry says of a device, as far as a request may name it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def serial_number(self) -> str:
        """Its vendor's number."""

    @property
    def address(self) -> str | None:
        """Its address."""


def read(data: bytes) -> Csr:
    """Parse a request and verify that whoever made it has the private key.

    Args:
        data: DER of a PKCS#10 CertificationRequest.

    Raises:
        CsrMalformed: it is too large or no PKCS#10, its signature does not verify or uses MD5 or SHA-1, or it asks
            for the basic constraint CA.
    """
    if len(data) > LIMIT:
        raise CsrMalformed(f"The request has {len(data)} octets; {LIMIT} is the limit.")
    try:
        request = x509.load_der_x509_csr(data)
        proven = request.is_signature_valid
        weak = isinstance(request.signature_hash_algorithm, WEAK_HASHES)
        subject, spki = _fields(request.tbs_certrequest_bytes)
        # A P-256 key in the one encoding that this head allows: its point was found on the curve when the proof was
        # verified with it, so nothing is left to check.
        usual = proven and len(spki) == P256_SIZE and spki.startswith(P256)
        if not usual:
            spki = request.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        extensions = request.extensions
    except UNREADABLE as error:
        raise CsrMalformed(f"The request is no usable PKCS#10: {error}.") from error
    if not proven or weak:
        raise CsrMalformed("The request's own signature does not verify (MD5 and SHA-1 are not accepted).")
    for extension in extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise CsrMalformed("The request asks for a certification authority; devices cannot be one.")
    names = next((e.value for e in extensions if isinstance(e.value, x509.SubjectAlternativeName)), None)
    return Csr(request, subject, spki, hashlib.sha256(spki).hexdigest(), names, usual)


def _fields(body: bytes) -> tuple[bytes, bytes]:
    """Give subject and SubjectPublicKeyInfo of a CertificationRequestInfo that was parsed before, as they stand there."""
    start, _ = _element(body, 0)
    _, subject = _element(body, start)  # behind the version
    _, spki = _element(body, subject)
    _, end = _element(body, spki)
    return body[subject:spki], body[spki:end]


def _subject(body: bytes) -> bytes:
    """Give the subject of a TBSCertificate that was parsed before, as it stands there."""
    at, _ = _element(body, 0)
    for _ in range(5):  # version, serial number, signature, issuer, validity
        _, at = _element(body, at)
    return body[at : _element(body, at)[1]]


def _element(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at a place begins and ends."""
    start, length = at + 2, data[at + 1]
    if length >= 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    return start, start + length


def check_key(spki: bytes, *, allowed: tuple[str, ...]) -> bytes:
    """Make sure that a public key is of an allowed kind and strength.

    Args:
        spki: DER SubjectPublicKeyInfo.
        allowed: kinds of the profile: p256, p384, ed25519, rsa.

    Returns:
        Its key identifier: SHA-1 of the key bits (RFC 5280 4.2.1.2).

    Raises:
        KeyUnfit: another kind or curve, or RSA outside 2048 to 4096 bit or with exponent below 65537.
    """
    if spki.startswith(P256) and len(spki) == P256_SIZE and "p256" in allowed:
        return _key_id_p256(spki[len(P256) - 1 :])
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnfit(f"The public key cannot be read: {error}.") from error
    kind = _kind(key)
    if kind not in allowed:
        raise KeyUnfit(f"A key of kind {kind} is not allowed here; allowed: {', '.join(allowed)}.")
    public = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public != spki:
        raise KeyUnfit("The public key is not encoded in its canonical form.")
    return x509.SubjectKeyIdentifier.from_public_key(key).digest  # type: ignore[arg-type]


def _key_id_p256(point: bytes) -> bytes:
    """Take the short way for the usual key: its head allows no other encoding, so only the point is left to check."""
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise KeyUnfit(f"The public key cannot be read: {error}.") from error
    return hashlib.sha1(point, usedforsecurity=False).digest()


def check_binding(csr: Csr, *, bindings: tuple[bytes, ...]) -> None:
    """Verify challengePassword, when present, as base64 of this connection's channel binding (RFC 7030 3.5).

    Args:
        csr: the request.
        bindings: what the TLS connection offers: tls-unique (TLS 1.2) or the RFC 9266 exporter (TLS 1.3).

    Raises:
        ProofMismatch: it is present and equals none of them.
    """
    try:
        attribute = csr.request.attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD)
    except x509.AttributeNotFound:
        return
    except UNREADABLE as error:
        raise CsrMalformed(f"The request's attributes cannot be read: {error}.") from error
    said = attribute.value.strip()
    if not any(hmac.compare_digest(said, base64.b64encode(binding)) for binding in bindings if binding):
        raise ProofMismatch("challengePassword is not the channel binding of this TLS connection.")


def check_claims(csr: Csr, device: Registered, *, domain: str) -> None:
    """Refuse a request that names another device; what it leaves out is fine, the registry fills it in.

    Raises:
        IdentityMismatch: CN, serialNumber or a subjectAltName is not this device's.
    """
    claims = {NameOID.COMMON_NAME: device.name, NameOID.SERIAL_NUMBER: device.serial_number}
    usual = csr.subject == _NO_NAME or csr.subject == der.sequence(der.relative_name("2.5.4.3", der.utf8(device.name)))
    for attribute in () if usual else csr.request.subject:
        wanted = claims.get(attribute.oid)
        if wanted is not None and attribute.value != wanted:
            what = attribute.rfc4514_attribute_name
            raise IdentityMismatch(f"{what} {attribute.value!r} is not {device.name}'s; registered is {wanted!r}.")
    ours = {f"urn:uuid:{device.id}", device.name, f"{device.name}.{domain}".lower()}
    if device.address:
        ours.add(device.address)
    for name in csr.names or ():
        said = str(name.value)
        if not isinstance(name, (x509.DNSName, x509.UniformResourceIdentifier, x509.IPAddress)) or said not in ours:
            raise IdentityMismatch(f"The subjectAltName {said!r} is not registered for {device.name}.")


def check_unchanged(csr: Csr, current: x509.Certificate, content: bytes) -> None:
    """Hold a renewal to the names of the certificate it renews (RFC 7030 4.2.2), whose octets are ``content``.

    A request without any subjectAltName claims nothing and is accepted (strongSwan 5.9 cannot write URI names); one that
    is present must be identical.

    Raises:
        IdentityMismatch: subject or subjectAltName differ.
    """
    if csr.subject != _subject(current.tbs_certificate_bytes) and csr.request.subject != current.subject:
        raise IdentityMismatch(
            f"The subject must stay {current.subject.rfc4514_string()!r}; the request says "
            f"{csr.request.subject.rfc4514_string()!r}."
        )
    if csr.names is not None and set(csr.names) != (names := _names_of(content)):
        wanted = ", ".join(sorted(str(name.value) for name in names))
        raise IdentityMismatch(f"The subjectAltName must stay {wanted}, or be left out.")


@lru_cache(maxsize=1024)
def _names_of(content: bytes) -> frozenset[x509.GeneralName]:
    extensions = x509.load_der_x509_certificate(content).extensions
    try:
        return frozenset(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return frozenset()


def _kind(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {"secp256r1": "p256", "secp384r1": "p384"}.get(key.curve.name, key.curve.name)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPublicKey):
        sound = 2048 <= key.key_size <= 4096 and key.public_numbers().e >= 65537
        return "rsa" if sound else f"rsa-{key.key_size}"
    return type(key).__name__
