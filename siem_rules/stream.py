"""`LogStream`: where delivered lines are kept in order until the detector has read them (design section 4).

A log has *streams*, each with one writer at a time and any readers; a record's place is the offset of its first byte, which
never changes. What is acknowledged has been synced, and nobody reads what is not. The one implementation today are segments
on this machine's disk (`siem_rules.segments.SegmentLog`); a cluster's log will stand behind the same few words.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class StreamRecord(NamedTuple):
    """One record: where it starts, where the next one starts, and its bytes."""

    offset: int
    end: int
    payload: bytes


class StreamWriter(Protocol):
    """The one writer of a stream; may be shared by threads."""

    @property
    def name(self) -> str:
        """The stream's name."""

    @property
    def end(self) -> int:
        """The offset behind the last record, synced or not."""

    @property
    def slow(self) -> bool:
        """Whether the next `append` waits for the medium."""

    def append(self, payload: bytes) -> int:
        """Put a record behind the others and return the offset behind it; nobody may be told of it before `sync`.

        Raises:
            OSError: there is no room, or the medium failed; nothing of the record stays.
        """

    def sync(self, upto: int) -> None:
        """Return when everything before ``upto`` survives a power cut.

        Raises:
            OSError: the medium failed; nobody may be told that the lines are kept.
        """

    def close(self) -> None:
        """Sync what is left and let go of the stream."""


class LogStream(Protocol):
    """All streams of an installation."""

    def names(self) -> list[str]:
        """Names of the streams, sorted."""

    def writer(self, name: str) -> StreamWriter:
        """Become a stream's writer; a new name is a new stream.

        Raises:
            StreamBusy: it has a living writer.
        """

    def read(self, name: str, start: int, *, limit: int) -> Iterator[StreamRecord]:
        """Give records from an offset on, as far as they are synced; at most about ``limit`` bytes.

        An offset that retention has removed continues at the oldest record that is left.

        Raises:
            SegmentsDamaged: a record is not what was written.
        """

    def record_at(self, name: str, offset: int) -> bytes | None:
        """Give the payload of the record at an offset; None if retention has removed it."""

    def position(self, name: str) -> int:
        """Give the offset up to which the stream is synced; 0 for a new one."""

    def starts(self, name: str) -> list[int]:
        """Offsets, in order, at which reading may begin; the first is the oldest record that is left."""

    def expire(self, name: str, *, before: int, keep_bytes: int, older_than: float) -> int:
        """Remove old records that end at or before an offset; return how many parts went.

        Args:
            name: the stream.
            before: what the detector still needs begins here.
            keep_bytes: go on removing while more than this is kept.
            older_than: parts last written before this time (seconds since the epoch) go whatever the size.
        """
