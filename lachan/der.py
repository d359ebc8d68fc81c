"""A small DER writer and reader: just what certificates, CRLs and OCSP answers need.

Why not the library's builders: a certificate put together from ready-made parts costs a fifth of the builder's time, and
a builder's CRL loop is quadratic (docs/adr/0007). Steps: `tlv` wraps octets, the small functions above it write one ASN.1
type each, `Reader` takes a message apart again. Limits: definite lengths and single-octet tags only, which is all that
DER (X.690 10) and these formats use; nothing here checks meaning.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

NULL = b"\x05\x00"
TRUE = b"\x01\x01\xff"
_PRINTABLE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?"


_SHORT = [[bytes((tag, length)) for length in range(128)] for tag in range(256)]


class MalformedDer(ValueError):
    """The octets are not the DER that was expected."""


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element: tag octet, definite length in its shortest form, content (X.690 8.1.3)."""
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    return (_SHORT[tag][length] if (length := len(content)) < 128 else head(tag, length)) + content


def head(tag: int, length: int) -> bytes:
    """Tag and length of an element whose content is written elsewhere."""
    if length < 128:
        return bytes((tag, length))
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big")


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE (OF)."""
    return tlv(0x30, *parts)


def set_of(*parts: bytes) -> bytes:
    """Write SET OF: its elements in the order of their octets (X.690 11.6)."""
    return tlv(0x31, b"".join(sorted(parts)))


def explicit(number: int, *parts: bytes) -> bytes:
    """Give the constructed context-specific tag ``[number]``: EXPLICIT, or IMPLICIT of a constructed type."""
    return tlv(0xA0 | number, *parts)


@lru_cache(maxsize=256)
def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER from its dotted text."""
    arcs = [int(arc) for arc in dotted.split(".")]
    out = bytearray()
    for value in (arcs[0] * 40 + arcs[1], *arcs[2:]):
        chunk = [value & 0x7F]
        while value := value >> 7:
            chunk.append(0x80 | (value & 0x7F))
        out += bytes(reversed(chunk))
    return tlv(0x06, bytes(out))


def integer(value: int) -> bytes:
    """INTEGER, also negative ones, in the shortest form."""
    bits = value if value >= 0 else ~value
    return tlv(0x02, value.to_bytes(bits.bit_length() // 8 + 1, "big", signed=True))


def enumerated(value: int) -> bytes:
    """Give an ENUMERATED of a small non-negative value."""
    return tlv(0x0A, bytes((value,)))


def octets(content: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(0x04, content)


def bits(content: bytes) -> bytes:
    """BIT STRING of whole octets."""
    return tlv(0x03, b"\x00", content)


def utf8(text: str) -> bytes:
    """UTF8String."""
    return tlv(0x0C, text.encode())


def printable(text: str) -> bytes:
    """PrintableString.

    Raises:
        MalformedDer: a character is outside its alphabet (X.680 41.4).
    """
    if not text.isascii() or text.encode().translate(None, _PRINTABLE):
        raise MalformedDer(f"{text!r} has characters that PrintableString lacks")
    return tlv(0x13, text.encode("ascii"))


@lru_cache(maxsize=64)  # many certificates of a message begin and end in the same second
def moment(when: datetime) -> bytes:
    """Time of certificates and CRLs: UTCTime through 2049, GeneralizedTime later (RFC 5280 4.1.2.5)."""
    when = when.astimezone(UTC)
    if when.year < 2050:
        return tlv(0x17, when.strftime("%y%m%d%H%M%SZ").encode())
    return generalized(when)


def generalized(when: datetime) -> bytes:
    """GeneralizedTime in whole seconds, Zulu."""
    return tlv(0x18, when.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode())


def extension(identifier: str, value: bytes, *, critical: bool = False) -> bytes:
    """One X.509 extension around the DER of its value (RFC 5280 4.1)."""
    return tlv(0x30, oid(identifier), TRUE if critical else b"", tlv(0x04, value))


def relative_name(identifier: str, value: bytes) -> bytes:
    """Give a RelativeDistinguishedName of one attribute."""
    return tlv(0x31, tlv(0x30, oid(identifier), value))


def signed(body: bytes, algorithm: bytes, signature: bytes, *more: bytes) -> bytes:
    """Give the common outer shape of certificate, CRL and BasicOCSPResponse."""
    return sequence(body, algorithm, bits(signature), *more)


class Reader:
    """Take DER apart from front to back.

    Args:
        data: the octets; every read moves on by one element.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def peek(self) -> int:
        """Give the next tag octet, or -1 at the end."""
        return self._data[self._at] if self else -1

    def take(self, tag: int) -> bytes:
        """Give the content of the next element.

        Raises:
            MalformedDer: another tag stands there, or the element is cut short or not in its shortest form.
        """
        if self.peek() != tag:
            raise MalformedDer(f"expected tag {tag:#04x}, found {self.peek():#04x}")
        start, length = self._length(self._at + 1)
        if start + length > len(self._data):
            raise MalformedDer("an element is longer than the message")
        self._at = start + length
        return self._data[start : self._at]

    def inside(self, tag: int) -> Reader:
        """Give a reader of the next element's content."""
        return Reader(self.take(tag))

    def optional(self, tag: int) -> Reader | None:
        """Give a reader of the next element's content if it has this tag."""
        return self.inside(tag) if self.peek() == tag else None

    def skip(self) -> None:
        """Pass over the next element, whatever it is."""
        self.take(self.peek())

    def end(self) -> None:
        """Make sure that nothing is left.

        Raises:
            MalformedDer: octets follow.
        """
        if self:
            raise MalformedDer("octets follow the message")

    def _length(self, at: int) -> tuple[int, int]:
        if at >= len(self._data):
            raise MalformedDer("a length is missing")
        first = self._data[at]
        if first < 0x80:
            return at + 1, first
        size = first & 0x7F
        length = int.from_bytes(self._data[at + 1 : at + 1 + size], "big")
        if not 1 <= size <= 4 or length < 0x80 or length.bit_length() <= 8 * (size - 1):
            raise MalformedDer("a length is not in its shortest form")
        return at + 1 + size, length
