"""Files as answers: ranges (RFC 9110 14), read off the page cache on the loop and off the disk in a thread.

What the kernel has in memory is read where we stand (``preadv2`` with ``RWF_NOWAIT``), so that a 64 KiB range costs no
thread; what it has not is read in one, so that a slow disk stops nobody else. Pieces are up to 1 MiB, less when many read at
once: `BUFFERED` octets are shared out among all who do. The descriptor is opened before the answer begins and closed with
it; a file that is deleted or replaced meanwhile is still sent whole.

Limits: of several ranges in one request the first 16 are served as ``multipart/byteranges``; more are refused.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from api.answers import Headers, MachineAnswer
from lachan.errors import Invalid

PIECE = 1 << 20
LEAST = 1 << 16
BUFFERED = 64 << 20
MOST_RANGES = 16
_RANGES = re.compile(rb"bytes=\s*((?:\d*-\d*)(?:\s*,\s*(?:\d*-\d*))*)\s*", re.IGNORECASE)
_reading = 0
_small = memoryview(bytearray(LEAST))


class FileStream:
    """Parts of an open file, each with what comes before it.

    Args:
        descriptor: of the file; closed at the end.
        parts: offset, length and the octets before it; the last may be of length 0.
    """

    def __init__(self, descriptor: int, parts: list[tuple[int, int, bytes]]) -> None:
        self._descriptor, self._parts = descriptor, parts
        self.length = sum(length + len(before) for _, length, before in parts)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give the octets, up to 1 MiB at a time.

        Raises:
            OSError: the disk failed, or the file became shorter.
        """
        global _reading
        _reading += 1
        room = bytearray()
        try:
            for start, length, before in self._parts:
                if before:
                    yield before
                at, end = start, start + length
                while at < end:
                    wanted = min(end - at, max(LEAST, min(PIECE, BUFFERED // _reading)))
                    if len(room) < wanted:
                        room = bytearray(wanted)
                    piece = read_cached(self._descriptor, memoryview(room)[:wanted], at)
                    if piece is None:
                        piece = await asyncio.to_thread(os.pread, self._descriptor, wanted, at)
                    if not piece:
                        raise OSError("the file became shorter while it was sent")
                    at += len(piece)
                    yield piece
        finally:
            _reading -= 1
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    __del__ = close  # an answer that nobody sent


def read_cached(descriptor: int, room: memoryview, offset: int) -> bytes | None:
    """Read what the kernel has in memory into ``room``; None when it must ask the disk, or cannot tell.

    What is given is a view of ``room``, which must be gone before that is used again: TLS takes it at once.
    """
    try:
        done = os.preadv(descriptor, [room], offset, os.RWF_NOWAIT)
    except OSError:  # EAGAIN: not in memory; EOPNOTSUPP: this file system cannot tell
        return None
    return room[:done] if done else None  # type: ignore[return-value]  # what is sent need not be bytes


@dataclass(frozen=True)
class Served:
    """A file and how it is told of.

    Attributes:
        path: of the file.
        media_type: of its content.
        headers: further ones, for 200, 206 and 304 alike.
        etag: a strong entity tag, with its quotes.
    """

    path: Path
    media_type: bytes
    headers: Headers
    etag: bytes


def serve(found: Served, headers: dict[bytes, bytes]) -> MachineAnswer:
    """Answer with a file or the ranges of it that were asked for (RFC 9110 14.2).

    Args:
        found: the file.
        headers: of the request.

    Raises:
        FileNotFoundError: there is no such file.
        Invalid: more than 16 ranges.
    """
    told = [(b"accept-ranges", b"bytes"), *found.headers]
    descriptor = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        ranges = _wanted(headers, found.etag, size)
        if ranges is None:
            return _whole(descriptor, found, told, size)
        if not ranges:
            os.close(descriptor)
            return MachineAnswer(416, [*told, (b"content-range", b"bytes */%d" % size)])
        if len(ranges) > 1:
            return _several(descriptor, found, told, size, ranges)
        start, end = ranges[0]
        told += [(b"content-type", found.media_type), (b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size))]
        if end - start <= LEAST:
            piece = read_cached(descriptor, _small[: end - start], start)
            if piece is not None and len(piece) == end - start:
                os.close(descriptor)
                return MachineAnswer(206, told, bytes(piece), etag=found.etag)
        return MachineAnswer(206, told, FileStream(descriptor, [(start, end - start, b"")]), etag=found.etag)
    except BaseException:
        os.close(descriptor)
        raise


def _whole(descriptor: int, found: Served, told: Headers, size: int) -> MachineAnswer:
    told = [*told, (b"content-type", found.media_type)]
    return MachineAnswer(200, told, FileStream(descriptor, [(0, size, b"")]), etag=found.etag)


def _several(descriptor: int, found: Served, told: Headers, size: int, ranges: list[tuple[int, int]]) -> MachineAnswer:
    boundary = uuid4().hex.encode()
    parts = [
        (start, end - start,
         b"\r\n--%b\r\nContent-Type: %b\r\nContent-Range: bytes %d-%d/%d\r\n\r\n"
         % (boundary, found.media_type, start, end - 1, size))
        for start, end in ranges
    ]  # fmt: skip
    parts.append((size, 0, b"\r\n--%b--\r\n" % boundary))
    told = [*told, (b"content-type", b"multipart/byteranges; boundary=" + boundary)]
    return MachineAnswer(206, told, FileStream(descriptor, parts), etag=found.etag)


def _wanted(headers: dict[bytes, bytes], etag: bytes, size: int) -> list[tuple[int, int]] | None:
    """Give the ranges that are to be served as (start, end); None for the whole, empty when none can be satisfied."""
    asked = headers.get(b"range")
    condition = headers.get(b"if-range")
    if asked is None or (condition is not None and condition.strip() != etag):  # compared strongly (RFC 9110 13.1.5)
        return None
    match = _RANGES.fullmatch(asked)
    if match is None:  # another unit, or no range at all: ignored (RFC 9110 14.2)
        return None
    listed = match[1].split(b",")
    if len(listed) > MOST_RANGES:
        raise Invalid(f"At most {MOST_RANGES} ranges at once.", field="Range")
    found = []
    for one in listed:
        first, _, last = one.strip().partition(b"-")
        if not first and not last:
            return None
        if first and last and int(last) < int(first):
            return None
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if start < end:
            found.append((start, end))
    if len(found) > 1 and sum(end - start for start, end in found) > size:
        return None  # overlapping ones: the whole is less than they are together
    return found
