"""Judging a client certificate chain: pure functions of chain, anchors and time.

Steps: the signatures lead to an anchor (RFC 5280 6) → within its validity → made for TLS clients (extended key usage
clientAuth) → names exactly one device (``urn:uuid`` in the subject alternative name). `judge` raises; it never
returns a bool. Limits: whether it is registered and in force is not asked here (`api.device.access` does), and no URL
found inside a certificate is ever fetched.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from api.device.errors import CertificateMissing, CertificateRefused
from lachan.trust import CertificateKeys

MAX_CHAIN = 6
_WEAK = (hashes.MD5, hashes.SHA1)


@dataclass(frozen=True)
class Anchor:
    """An authority that the device door believes.

    Attributes:
        certificate: The authority's certificate.
        vendor: Whose devices it may speak for; None for our own authority, which speaks for all.
    """

    certificate: x509.Certificate
    vendor: str | None


@dataclass(frozen=True)
class Judged:
    """A chain that holds: the leaf, the device it names, and the anchors' limits.

    Attributes:
        certificate: The leaf.
        octets: The leaf as it came.
        device_id: UUID in the subject alternative name, lower case.
        vendors: Vendors that the matching anchors may speak for; None is any, and means our own authority.
        keys: By what a refusal would name the leaf.
    """

    certificate: x509.Certificate
    octets: bytes
    device_id: str
    vendors: frozenset[str | None]
    keys: CertificateKeys


def judge(chain: Sequence[bytes], anchors: Sequence[Anchor], *, at: datetime) -> Judged:
    """Verify a chain as the peer sent it.

    Args:
        chain: DER certificates, leaf first, in any order behind it.
        anchors: What to believe.
        at: The moment to judge for.

    Raises:
        CertificateMissing: If the chain is empty.
        CertificateRefused: ``reason`` is malformed, too-long, weak-signature, not-yet-valid, expired, unknown-issuer,
            wrong-purpose or no-device-name.
    """
    if not chain:
        raise CertificateMissing
    if len(chain) > MAX_CHAIN:
        raise refused("too-long", f"The chain has more than {MAX_CHAIN} certificates.")
    try:
        leaf, *rest = [x509.load_der_x509_certificate(der) for der in chain]
        if any(isinstance(item.signature_hash_algorithm, _WEAK) for item in (leaf, *rest)):
            raise refused("weak-signature", "A certificate of the chain is signed with MD5 or SHA-1.")
        device_id, keys = _device_id(leaf), CertificateKeys.of(leaf)
        _check_purpose(leaf)
    except ValueError as error:
        raise refused("malformed", f"A certificate cannot be read: {error}") from error
    check_validity(leaf, at=at)
    vendors = frozenset(anchor.vendor for anchor in anchors if _leads_to(leaf, rest, anchor.certificate, at))
    if not vendors:
        raise refused("unknown-issuer", "The certificate was not issued by an authority of this door.")
    return Judged(leaf, chain[0], device_id, vendors, keys)


def refused(reason: str, detail: str) -> CertificateRefused:
    """Give the refusal of a certificate for one reason."""
    return CertificateRefused(detail, reason=reason)


def check_validity(leaf: x509.Certificate, *, at: datetime) -> None:
    """Check the validity period.

    Raises:
        CertificateRefused: ``reason`` is not-yet-valid or expired.
    """
    if at < leaf.not_valid_before_utc:
        raise refused("not-yet-valid", f"The certificate is valid from {leaf.not_valid_before_utc.isoformat()}.")
    if at > leaf.not_valid_after_utc:
        raise refused("expired", f"The certificate was valid until {leaf.not_valid_after_utc.isoformat()}.")


def _leads_to(leaf: x509.Certificate, rest: list[x509.Certificate], anchor: x509.Certificate, at: datetime) -> bool:
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(anchor))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # an issuing authority may be the anchor itself
    store.set_time(at)
    between = [crypto.X509.from_cryptography(item) for item in rest]
    context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), between)
    try:
        context.verify_certificate()
    except crypto.X509StoreContextError:
        return False
    return leaf.fingerprint(hashes.SHA256()) != anchor.fingerprint(hashes.SHA256())  # an authority is no device


def _check_purpose(leaf: x509.Certificate) -> None:
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise refused("wrong-purpose", "The certificate is not made for TLS clients (extended key usage).")


def _device_id(leaf: x509.Certificate) -> str:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    urns = [
        uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.lower().startswith("urn:uuid:")
    ]
    if len(urns) != 1:
        raise refused("no-device-name", "The certificate names no device, or several (urn:uuid).")
    try:
        return str(uuid.UUID(urns[0][9:]))
    except ValueError:
        raise refused("no-device-name", "The device's urn:uuid cannot be read.") from None
