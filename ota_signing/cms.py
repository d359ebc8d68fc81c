"""Detached CMS signatures (RFC 5652) over a firmware's digest.

Why not the library's builder: it wants all bytes in memory and hashes them again. The signature that devices check
covers signed attributes, and these hold the SHA-256 that was already computed while the upload streamed in; so a
two-gigabyte image is signed from 32 bytes. Checked with ``openssl cms -verify -binary -inform DER -content FILE``.
Limits: one signer, ECDSA with SHA-256 (RFC 5754 3.3), DER only; no timestamp token.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_DATA = "1.2.840.113549.1.7.1"
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_SIGNING_TIME = "1.2.840.113549.1.9.5"
_SHA256 = "2.16.840.1.101.3.4.2.1"
_ECDSA_SHA256 = "1.2.840.10045.4.3.2"


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
    attributes = _set_of(
        _attribute(_CONTENT_TYPE, _oid(_DATA)),
        _attribute(_SIGNING_TIME, _time(at)),
        _attribute(_MESSAGE_DIGEST, _tlv(0x04, sha256)),
    )
    signer = _signer(leaf, attributes, sign(attributes))
    carried = [c.public_bytes(Encoding.DER) for c in chain if c is leaf or c.issuer != c.subject]
    algorithms = _set_of(_sequence(_oid(_SHA256)))
    certificates = b"\xa0" + _set_of(*carried)[1:]
    signed = _sequence(_tlv(0x02, b"\x01"), algorithms, _sequence(_oid(_DATA)), certificates, _set_of(signer))
    return _sequence(_oid(_SIGNED_DATA), _tlv(0xA0, signed))


def _signer(leaf: x509.Certificate, attributes: bytes, signature: bytes) -> bytes:
    """A SignerInfo. The signature is over the SET OF attributes, which travel as [0] (RFC 5652 5.4)."""
    return _sequence(
        _tlv(0x02, b"\x01"),
        _sequence(leaf.issuer.public_bytes(), _integer(leaf.serial_number)),
        _sequence(_oid(_SHA256)),
        b"\xa0" + attributes[1:],
        _sequence(_oid(_ECDSA_SHA256)),
        _tlv(0x04, signature),
    )


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def _sequence(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _set_of(*parts: bytes) -> bytes:
    return _tlv(0x31, b"".join(sorted(parts)))  # DER orders a SET OF by its encodings (X.690 11.6)


def _attribute(name: str, value: bytes) -> bytes:
    return _sequence(_oid(name), _set_of(value))


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(dotted: str) -> bytes:
    arcs = [int(arc) for arc in dotted.split(".")]
    content = bytearray()
    for arc in (arcs[0] * 40 + arcs[1], *arcs[2:]):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | (arc & 0x7F))
        content += bytes(reversed(septets))
    return _tlv(0x06, bytes(content))


def _time(at: datetime) -> bytes:
    at = at.astimezone(UTC)
    if at.year < 2050:  # RFC 5652 11.3
        return _tlv(0x17, at.strftime("%y%m%d%H%M%SZ").encode())
    return _tlv(0x18, at.strftime("%Y%m%d%H%M%SZ").encode())
