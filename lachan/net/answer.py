"""Read one HTTP/1.1 answer out of the bytes a stranger sent; every step is linear in them.

`Framing` tells while they arrive when the answer is whole (RFC 9112 6.3); `parse` takes it apart. The standard library's
`http.client` hands the head to its mail parser, which needs seconds for one hostile ``Content-Type`` of 64 KiB: measured.

Limits: at most `MOST_HEADERS`; header values are read as Latin-1; trailers and chunk extensions are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_HEADERS = 200


class NotHttp(ValueError):
    """What came back is no HTTP/1 answer, or its head is out of all proportion; the text says which."""


@dataclass(frozen=True)
class HttpAnswer:
    """What the peer answered.

    Attributes:
        status: HTTP status; 3xx is returned as it came, nothing was followed.
        headers: names (lower case) and values in their order.
        body: at most ``max_bytes``.
        truncated: the peer had more to say than we read, or stopped in the middle.
        address: the IP address that answered.
        elapsed: seconds from before the connection to the end of the answer.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    truncated: bool
    address: str
    elapsed: float

    def header(self, name: str) -> str:
        """Give the values of one header joined by ``, ``; empty when absent."""
        return ", ".join(value for key, value in self.headers if key == name.lower())


@dataclass(frozen=True)
class _Head:
    """A head that was read: its status, its headers, and where the body begins."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: int

    def first(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def chunked(self) -> bool:
        return (self.first("transfer-encoding") or "").lower().startswith("chunked")

    @property
    def length(self) -> int | None:
        text = self.first("content-length") or ""
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else None

    def bodiless(self, verb: str) -> bool:
        return verb == "HEAD" or self.status in (204, 304)


class Framing:
    """Tell when an answer is whole, looking at each byte of its head once."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._head: _Head | None = None
        self._begin = 0  # of the head that is being read; those of 1xx lie before it
        self._seen = 0

    def whole(self, raw: bytearray, *, closed: bool) -> bool:
        """Tell whether what was read so far is the whole answer; ``closed``: the peer has nothing more to say.

        Raises:
            NotHttp: it never will be one.
        """
        if not raw.startswith(b"HTTP/"[: len(raw)]):
            raise NotHttp("no HTTP status line")
        while self._head is None:
            end = _head_end(raw, max(self._begin, self._seen - 3))
            self._seen = len(raw)
            if end is None:
                return False
            head = _head(bytes(raw[self._begin : end]), body=end)
            if _interim(head):
                self._begin = self._seen = end
            else:
                self._head = head
        if self._head.bodiless(self._verb):
            return True
        if self._head.chunked:
            return raw.endswith(b"0\r\n\r\n", self._head.body)
        return closed if self._head.length is None else len(raw) - self._head.body >= self._head.length


def parse(raw: bytes, verb: str, *, complete: bool, address: str, elapsed: float) -> HttpAnswer:
    """Take an answer apart; what is missing of it makes it truncated.

    Args:
        raw: what was read, the beginning of an answer at least.
        verb: of the request; an answer to HEAD has no body.
        complete: whether all of it was read.
        address, elapsed: as in `HttpAnswer`.

    Raises:
        NotHttp: it is none.
    """
    begin = 0
    while True:
        end = _head_end(raw, begin)
        head = _head(raw[begin : len(raw) if end is None else end], body=len(raw) if end is None else end)
        if end is None or not _interim(head):
            break
        begin = end
    body = raw[head.body :]
    if head.bodiless(verb):
        body = b""
    elif head.chunked:
        body, ended = _joined(body)
        complete &= ended
    elif head.length is not None:
        complete &= len(body) >= head.length
        body = body[: head.length]
    return HttpAnswer(head.status, head.headers, body, not complete or end is None, address, elapsed)


def _interim(head: _Head) -> bool:
    return 100 <= head.status < 200 and head.status != 101


def _head_end(raw: bytes | bytearray, begin: int) -> int | None:
    """Where the head ends that begins before ``begin``; a device that forgets its carriage returns is understood, too."""
    ends = [at + len(mark) for mark in (b"\n\r\n", b"\n\n") if (at := raw.find(mark, begin)) >= 0]
    return min(ends, default=None)


def _head(raw: bytes, *, body: int) -> _Head:
    first, *lines = raw.rstrip(b"\r\n").split(b"\n", MOST_HEADERS + 1)
    version, _, rest = first.partition(b" ")
    code = rest[:3]
    if version not in (b"HTTP/1.0", b"HTTP/1.1") or not code.isdigit() or len(code) < 3 or code < b"100":
        raise NotHttp("no HTTP status line")
    if len(lines) > MOST_HEADERS:
        raise NotHttp(f"more than {MOST_HEADERS} header lines")
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and name.strip() == name and name:
            headers.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t\r")))
    return _Head(int(code), tuple(headers), body)


def _joined(raw: bytes) -> tuple[bytes, bool]:
    """Put the chunks together (RFC 9112 7.1); second value: the last one was there."""
    pieces: list[bytes] = []
    at = 0
    while (end := raw.find(b"\r\n", at)) >= 0:
        size = raw[at:end].partition(b";")[0].strip()
        if not size or len(size) > 8 or size.strip(b"0123456789abcdefABCDEF"):
            break
        count = int(size, 16)
        if count == 0:
            return b"".join(pieces), True
        pieces.append(raw[end + 2 : end + 2 + count])
        at = end + 2 + count + 2
    return b"".join(pieces), False
