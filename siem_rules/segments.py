"""The log on disk: append, fsync in groups, read from any offset (design section 4, the embedded log stream).

A *stream* is a folder ``<data>/logs/<stream>`` with one writer (a file lock) and any readers. It holds segment files
named by the offset of their first byte; a record is length, CRC-32 and payload. Steps of a write:

1. `Writer.append` puts the record into the page cache and returns the offset behind it.
2. `Writer.sync` returns when everything before that offset is on disk; whoever comes while a sync runs shares the next
   one. Only then may anybody be told that the lines are kept.
3. The mark in the file ``synced`` moves; readers never read beyond it, so nothing is acted on that a power cut may undo.

After a crash the torn tail (a record that was never acknowledged) is cut off. Retention removes whole old segments.
Limits: one machine; a damaged record in the middle is an error that names the file, not a silent gap.
"""

import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from lachan.files import sync_folder
from lachan.runtime import Runtime
from siem_rules.errors import SegmentsDamaged, StreamBusy
from siem_rules.stream import LogStream, StreamRecord

_HEAD = struct.Struct(">II")  # payload length, CRC-32 of the payload
_MARK = struct.Struct(">Q")
SEGMENT_BYTES = 16 << 20
#: No record is larger; a length beyond it is damage, not data.
RECORD_BYTES = 64 << 20


class SegmentLog:
    """`siem_rules.stream.LogStream` on this machine's disk: a folder for each stream.

    Args:
        root: the folder of all streams.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Names of the streams, sorted."""
        return streams(self.root)

    def writer(self, name: str) -> "Writer":
        """Become a stream's writer (a file lock)."""
        return Writer(self.root / name)

    def read(self, name: str, start: int, *, limit: int) -> Iterator[StreamRecord]:
        """Give records from an offset on; see `read`."""
        return read(self.root / name, start, limit=limit)

    def record_at(self, name: str, offset: int) -> bytes | None:
        """Give the payload of one record; see `record_at`."""
        return record_at(self.root / name, offset)

    def position(self, name: str) -> int:
        """Give the offset up to which the stream is on disk."""
        return synced(self.root / name)

    def starts(self, name: str) -> list[int]:
        """Give the first offset of each segment."""
        return [base for base, _ in segment_files(self.root / name)]

    def expire(self, name: str, *, before: int, keep_bytes: int, older_than: float) -> int:
        """Remove old segments; see `expire`."""
        return expire(self.root / name, before=before, keep_bytes=keep_bytes, older_than=older_than)


def opened(rt: Runtime) -> LogStream:
    """Give the log of an installation: segments in its data folder."""
    return SegmentLog(rt.settings.data / "logs")


def streams(folder: Path) -> list[str]:
    """Names of the streams in a log folder, sorted."""
    with suppress(FileNotFoundError):
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    return []


def segment_files(stream: Path) -> list[tuple[int, Path]]:
    """First offset and path of each segment, in order."""
    with suppress(FileNotFoundError):
        names = sorted(entry.name for entry in os.scandir(stream) if entry.name.endswith(".segment"))
        return [(int(name[:20]), stream / name) for name in names]
    return []


def synced(stream: Path) -> int:
    """Give the offset up to which the stream is on disk; 0 for a new one."""
    with suppress(FileNotFoundError):
        content = (stream / "synced").read_bytes()
        if len(content) == _MARK.size:
            return int(_MARK.unpack(content)[0])
    return 0


class Writer:
    """The one writer of a stream.

    Args:
        stream: the stream's folder; made if missing.

    Raises:
        StreamBusy: another living process writes this stream.
    """

    def __init__(self, stream: Path) -> None:
        stream.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.stream, self.name = stream, stream.name
        self._lock = os.open(stream / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StreamBusy(f"{stream.name} has a writer already.", stream=stream.name) from error
        self._mark = os.open(stream / "synced", os.O_RDWR | os.O_CREAT, 0o600)
        files = segment_files(stream)
        self._base, path = files[-1] if files else (0, stream / f"{0:020}.segment")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.end = self._base + _repair(self._file)
        os.fsync(self._file)
        sync_folder(stream)
        self._synced = self.end
        os.pwrite(self._mark, _MARK.pack(self.end), 0)
        self._append_lock = threading.Lock()
        self._sync_lock = threading.Lock()

    @property
    def slow(self) -> bool:
        """Whether the next record begins a segment, which waits for the disk."""
        return self.end - self._base >= SEGMENT_BYTES

    def append(self, payload: bytes) -> int:
        """Put a record behind the others and return the offset behind it; not yet on disk.

        Raises:
            OSError: the disk is full or failed; nothing of the record stays.
        """
        record = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        with self._append_lock:
            if self.end - self._base >= SEGMENT_BYTES:
                self._roll()
            written = os.write(self._file, record)
            if written != len(record):
                os.ftruncate(self._file, self.end - self._base)
                raise OSError(28, "no space left for the record")
            self.end += len(record)
            return self.end

    def sync(self, upto: int) -> None:
        """Return when everything before ``upto`` is on disk.

        Raises:
            OSError: the disk failed; nobody may be told that the lines are kept.
        """
        with self._sync_lock:  # those who wait here find their bytes synced by the one before
            if self._synced >= upto:
                return
            with self._append_lock:
                end, file = self.end, self._file
            os.fsync(file)
            os.pwrite(self._mark, _MARK.pack(end), 0)
            self._synced = end

    def close(self) -> None:
        """Sync what is left and let go of the stream."""
        self.sync(self.end)
        for descriptor in (self._file, self._mark, self._lock):
            os.close(descriptor)

    def _roll(self) -> None:
        # The full segment must be on disk before its successor exists: a sync looks at the newest file only.
        os.fsync(self._file)
        before = self._file
        path = self.stream / f"{self.end:020}.segment"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._base = self.end
        os.dup2(self._file, before)  # a sync that holds the old number meets the new file
        os.close(self._file)
        self._file = before
        sync_folder(self.stream)


def read(stream: Path, start: int, *, limit: int = 4 << 20) -> Iterator[StreamRecord]:
    """Give records from an offset on, as far as they are on disk; at most about ``limit`` bytes.

    An offset that retention has removed continues at the oldest record that is left.

    Raises:
        SegmentsDamaged: a record's checksum is wrong.
    """
    durable = synced(stream)
    if start >= durable:
        return
    files = segment_files(stream)
    position = max(start, files[0][0]) if files else durable
    end = min(durable, position + limit)
    for (base, path), (following, _) in zip(files, [*files[1:], (durable, None)], strict=True):
        if following <= position or position >= end:
            continue
        with open(path, "rb") as file:
            file.seek(position - base)
            while position < min(following, end):
                record = _one(file.read(_HEAD.size), file, path, position)
                yield record
                position = record.end


def record_at(stream: Path, offset: int) -> bytes | None:
    """Give the payload of the record at an offset; None if retention has removed it."""
    for record in read(stream, offset, limit=1):
        return record.payload if record.offset == offset else None
    return None


def expire(stream: Path, *, before: int, keep_bytes: int, older_than: float) -> int:
    """Remove old segments that the detector no longer needs; return how many.

    Args:
        stream: the stream's folder.
        before: only segments that end at or before this offset may go.
        keep_bytes: go on removing while more than this is kept.
        older_than: segments last written before this time (seconds since the epoch) go whatever the size.
    """
    files = segment_files(stream)
    total = sum(path.stat().st_size for _, path in files)
    removed = 0
    for (_, path), (following, _) in pairwise(files):
        status = path.stat()
        if following > before or (total <= keep_bytes and status.st_mtime >= older_than):
            break
        path.unlink()
        total -= status.st_size
        removed += 1
    return removed


def _one(head: bytes, file: BinaryIO, path: Path, position: int) -> StreamRecord:
    if len(head) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        if length <= RECORD_BYTES:
            payload = file.read(length)
            if len(payload) == length and zlib.crc32(payload) == checksum:
                return StreamRecord(position, position + _HEAD.size + length, payload)
    raise SegmentsDamaged(f"Damaged record at offset {position}.", file=path.name, offset=position)


def _repair(descriptor: int) -> int:
    """Cut a torn tail off the newest segment; return the length that is good."""
    with open(descriptor, "rb", closefd=False) as file:
        size, good = os.fstat(descriptor).st_size, 0
        file.seek(0)
        while good < size:
            try:
                record = _one(file.read(_HEAD.size), file, Path("newest"), good)
            except SegmentsDamaged:
                os.ftruncate(descriptor, good)
                break
            good = record.end
    return good
