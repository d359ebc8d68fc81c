"""Detached CMS signatures (RFC 5652) over a firmware's digest.

Why not the library's builder: it wants all bytes in memory and hashes them again. The signature that devices check
covers signed attributes, and these hold the SHA-256 that was already computed while the upload streamed in; so a
two-gigabyte image is signed from 32 bytes. Checked with ``openssl cms -verify -binary -inform DER -content FILE``.
Limits: one signer, ECDSA with SHA-256 (RFC 5754 3.3), DER only; no timestamp token.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lachan import der

_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_DATA = der.oid("1.2.840.113549.1.7.1")
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_SIGNING_TIME = "1.2.840.113549.1.9.5"
_SHA256 = der.oid("2.16.840.1.101.3.4.2.1")
_ECDSA_SHA256 = der.oid("1.2.840.10045.4.3.2")


def detached(
    sha256: bytes, *, chain: Sequence[x509.Certificate], sign: Callable[[bytes], bytes], at: datetime
) -> bytes:
    """Build a detached signature.

    Args:
        sha256: digest of the content, 32 bytes.
        chain: the signer's certificate first, then its issuers; a self-signed last one is left out, since whoever
            verifies must have it already.
        sign: makes a DER ECDSA signature with SHA-256 over the bytes it is given.
        at: the signing time; written in whole seconds.

    Returns:
        DER of a ContentInfo with SignedData version 1 (RFC 5652 5.1).

    Raises:
        ValueError: the digest has not 32 bytes.
    """
    if len(sha256) != 32:
        raise ValueError("a SHA-256 has 32 bytes")
    leaf = chain[0]
    attributes = der.set_of(
        _attribute(_CONTENT_TYPE, _DATA),
        _attribute(_SIGNING_TIME, der.moment(at)),
        _attribute(_MESSAGE_DIGEST, der.octets(sha256)),
    )
    signer = _signer(leaf, attributes, sign(attributes))
    carried = [c.public_bytes(Encoding.DER) for c in chain if c is leaf or c.issuer != c.subject]
    certificates = b"\xa0" + der.set_of(*carried)[1:]
    signed = der.sequence(
        der.integer(1), der.set_of(der.sequence(_SHA256)), der.sequence(_DATA), certificates, der.set_of(signer)
    )
    return der.sequence(_SIGNED_DATA, der.explicit(0, signed))


def _signer(leaf: x509.Certificate, attributes: bytes, signature: bytes) -> bytes:
    """Give a SignerInfo. The signature is over the SET OF attributes, which travel as [0] (RFC 5652 5.4)."""
    return der.sequence(
        der.integer(1),
        der.sequence(leaf.issuer.public_bytes(), der.integer(leaf.serial_number)),
        der.sequence(_SHA256),
        b"\xa0" + attributes[1:],
        der.sequence(_ECDSA_SHA256),
        der.octets(signature),
    )


def _attribute(name: str, value: bytes) -> bytes:
    return der.sequence(der.oid(name), der.set_of(value))
