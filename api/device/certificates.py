"""Judging a client certificate chain: pure functions of chain, anchors and time.

Steps: it can be read → within its validity → names exactly one device (``urn:uuid`` in the subject alternative name) → is no
authority, and may sign (key usage digitalSignature) → its path leads to an anchor under the strict rules of RFC 5280
(`api.device.paths`) → made for TLS clients: clientAuth under our own authority; under a manufacturer's clientAuth or no extended
key usage at all. `judge` raises; it never returns a bool, and whatever a strange certificate makes a parser raise is a refusal.
Limits: whether it is registered and in force is not asked here (`api.device.access` does), and no URL found inside a
certificate is ever fetched.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from api.device.errors import CertificateMissing, CertificateRefused
from api.device.paths import PathFault, StrictRule, check, extension
from lachan.trust import CertificateKeys

MAX_CHAIN = 6
_WEAK = (hashes.MD5, hashes.SHA1)
_log = logging.getLogger("lachan.api.device")


@dataclass(frozen=True)
class Anchor:
    """An authority that the device door believes.

    Attributes:
        certificate: The authority's certificate.
        vendor: Whose devices it may speak for; None for our own authority, which speaks for all.
        exceptions: Strict rules that a manufacturer's certificates may break.
    """

    certificate: x509.Certificate
    vendor: str | None
    exceptions: frozenset[StrictRule] = frozenset()


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
            wrong-purpose, not-strict or no-device-name.
    """
    if not chain:
        raise CertificateMissing
    if len(chain) > MAX_CHAIN:
        raise refused("too-long", f"The chain has more than {MAX_CHAIN} certificates.")
    try:
        return _judge(chain, anchors, at=at)
    except CertificateRefused:
        raise
    except Exception as error:  # noqa: BLE001 - strangers choose what is parsed, and with it what a parser raises
        _log.info(
            "a client certificate cannot be read: %s: %s", type(error).__name__, " ".join(str(error).split())[:200]
        )
        raise refused("malformed", "A certificate of the chain cannot be read.") from None


def _judge(chain: Sequence[bytes], anchors: Sequence[Anchor], *, at: datetime) -> Judged:
    leaf, *rest = [x509.load_der_x509_certificate(der) for der in chain]
    if any(isinstance(item.signature_hash_algorithm, _WEAK) for item in (leaf, *rest)):
        raise refused("weak-signature", "A certificate of the chain is signed with MD5 or SHA-1.")
    device_id, keys = _device_id(leaf), CertificateKeys.of(leaf)
    usage, purposes = _check_usage(leaf)
    check_validity(leaf, at=at)
    vendors, faults = set[str | None](), [PathFault("unknown-issuer", "")]
    for anchor in anchors:
        fault = check(leaf, rest, anchor.certificate, exceptions=anchor.exceptions, at=at)
        if fault is None and usage is None and StrictRule.NO_KEY_USAGE not in anchor.exceptions:
            fault = PathFault("not-strict", "It says no key usage, so not digitalSignature.")
        if fault is None and purposes is None and anchor.vendor is None:
            fault = PathFault("wrong-purpose", "It is not made for TLS clients (extended key usage).")
        if fault is None:
            vendors.add(anchor.vendor)
        else:
            faults.append(fault)
    if not vendors:
        told = next((fault for fault in faults if fault.reason != "unknown-issuer"), faults[0])
        if told.reason == "unknown-issuer":
            raise refused("unknown-issuer", "The certificate was not issued by an authority of this door.")
        raise refused(told.reason, f"The certificate does not hold: {told.words}")
    return Judged(leaf, chain[0], device_id, frozenset(vendors), keys)


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


def _check_usage(leaf: x509.Certificate) -> tuple[x509.KeyUsage | None, x509.ExtendedKeyUsage | None]:
    """Give key usage and extended key usage, as far as the certificate says them.

    Raises:
        CertificateRefused: ``reason`` is wrong-purpose: an authority; a key that may not sign; made for something else only.
    """
    constraints = extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise refused("wrong-purpose", "The certificate is an authority's.")
    usage, purposes = extension(leaf, x509.KeyUsage), extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and not usage.value.digital_signature:
        raise refused("wrong-purpose", "The certificate's key may not sign (key usage digitalSignature).")
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes.value:
        raise refused("wrong-purpose", "The certificate is not made for TLS clients (extended key usage).")
    return usage.value if usage else None, purposes.value if purposes else None


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
