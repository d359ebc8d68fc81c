"""Take log lines in: on disk, and only then the answer.

One `Ingest` per process that takes lines (the doors; the syslog listener has a stream of its own). Steps: refuse when the
detector is too far behind; append the batch, in pieces, to this process's stream; sync; wake the detector; answer.

Whether a batch counts once when it is sent twice: lines with an ``_id`` do, and lines of a batch with an
``Idempotency-Key`` do. A batch with neither is counted each time, since two equal lines are two events. The detector tells
what is repeated, because it alone sees the streams of all doors; the answer to a repetition is that of the first.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.ids import new_id
from lachan.runtime import Runtime
from siem_rules import segments, stream
from siem_rules.bulk import Item
from siem_rules.delivery import Delivery, Sender, line_key
from siem_rules.errors import BacklogFull, StreamBusy
from siem_rules.models import checkpoints

#: Most writers (door processes) of one data folder.
STREAMS = 16
#: Bytes that the detector may be behind before senders are told to wait.
HIGH_WATER = 256 << 20
#: Part of that which one sender may fill while the detector is behind; beyond it that sender waits, and nobody else.
SHARE = 16


def instance(rt: Runtime) -> "Ingest":
    """Give this process's way in, opened when first asked for and kept by the runtime."""
    return rt.keep(Ingest, lambda: Ingest(segments.opened(rt), lag=partial(lag, rt), wake=partial(rt.wake, "detect")))


def close(rt: Runtime) -> None:
    """Close this process's way in; the next `instance` opens it again."""
    rt.dismiss(Ingest)


@dataclass(frozen=True)
class Lag:
    """How many bytes of what is kept the detector has not looked at: in all, and by the senders it knows to be behind."""

    total: int = 0
    of: Mapping[str, int] = field(default_factory=dict)

    def of_sender(self, label: str, sent: int) -> int:
        """Tell how much of it is one sender's, who sent so many bytes since nothing lay here."""
        return self.of.get(label, 0) + min(sent, self.total - sum(self.of.values()))


def lag(rt: Runtime) -> Lag:
    """How far the detector is behind."""
    c = checkpoints.c
    with rt.db.read() as connection:
        rows = connection.execute(sa.select(c.stream, c.position, c.behind)).all()
    positions, of = {}, Counter[str]()
    for row in rows:
        positions[str(row.stream)] = int(row.position)
        of.update({label: int(behind[2]) for label, behind in row.behind.items()})
    log = segments.opened(rt)
    unseen = sum(max(0, log.position(name) - positions.get(name, 0)) for name in log.names())
    return Lag(unseen + of.total(), of)


def backlog(rt: Runtime) -> int:
    """Bytes that are kept and that the detector has not looked at yet."""
    return lag(rt).total


@dataclass(frozen=True)
class BulkAnswer:
    """What the sender is told: the items in order and whether any was refused."""

    took: int
    errors: bool
    items: list[dict[str, Any]]


class Ingest:
    """Take batches for one stream of its own.

    Args:
        log: where the lines are kept.
        lag: tells how far the detector is behind.
        wake: called after each batch.
        high_water: bytes of backlog at which senders are told to wait.
        prefix: what the stream's name begins with.

    Raises:
        StreamBusy: all streams have a living writer.
    """

    def __init__(
        self,
        log: stream.LogStream,
        *,
        lag: Callable[[], Lag],
        wake: Callable[[], None],
        high_water: int = HIGH_WATER,
        prefix: str = "bulk",
    ) -> None:
        self._writer = _first_free(log, prefix)
        self._lag, self._wake, self._high_water = lag, wake, high_water
        self._lock = threading.Lock()
        self._checked, self._behind = 0.0, Lag()
        self._sent: Counter[str] = Counter()

    def deliver(self, sender: Sender, items: list[Item], *, batch: str = "") -> BulkAnswer:
        """Keep the lines of a batch and tell the outcome of each item; returns when all is on disk.

        Args:
            sender: who delivers.
            items: what `siem_rules.bulk.read` found; their status is completed here.
            batch: the sender's key of the batch; empty without one.

        Raises:
            BacklogFull: the detector is too far behind, or this sender has filled its share; nothing was kept.
            OSError: the disk failed; what is kept is unknown, the sender must send again.
        """
        began = time.monotonic()
        self.check(sender)
        end = self.append(sender, items, batch=batch)
        self._writer.sync(end)
        if any(item.line is not None for item in items):
            self._wake()
        return told(items, end, began)

    def check(self, sender: Sender) -> None:
        """Refuse a sender who must wait; asks the database once a second.

        Raises:
            BacklogFull: as `deliver`.
        """
        if self.check_is_due(sender):
            self._checked, self._behind = time.monotonic(), self._lag()
            if self._behind.total <= self._high_water // SHARE:
                self._sent.clear()
        share, sent = self._high_water // SHARE, self._sent[sender.label]
        if self._behind.total > self._high_water:
            raise BacklogFull(f"The detector is {self._behind.total >> 20} MiB behind.", retry_after=5)
        if self._behind.total > share and self._behind.of_sender(sender.label, sent) > share:
            raise BacklogFull("The detector is behind, and much of that is yours.", retry_after=2)

    def check_is_due(self, sender: Sender) -> bool:
        """Tell whether the next `check` asks the database."""
        return time.monotonic() - self._checked > 1 or self._sent[sender.label] > self._high_water // SHARE

    def append(self, sender: Sender, items: list[Item], *, batch: str = "") -> int:
        """Put the lines of a batch behind the others; gives what `share` must reach before anybody is told that they are kept.

        Raises:
            OSError: the disk failed; what is kept is unknown.
        """
        with self._lock:
            return self._append(sender, items, batch)

    def append_at_once(self, sender: Sender, items: list[Item], *, batch: str = "") -> int | None:
        """Do `append`, or give None where that would wait for somebody else or for the disk.

        Raises:
            OSError: as `append`.
        """
        if self._writer.slow or not self._lock.acquire(blocking=False):
            return None
        try:
            return self._append(sender, items, batch)
        finally:
            self._lock.release()

    def _append(self, sender: Sender, items: list[Item], batch: str) -> int:
        good = [(place, item) for place, item in enumerate(items) if item.line is not None]
        keys = tuple(line_key(item.id, batch, place) for place, item in good)
        whole = Delivery(sender, clock.now(), batch, keys, tuple(item.line or b"" for _, item in good))
        for piece in whole.pieces():
            record = piece.pack()
            self._writer.append(record)
            self._sent[sender.label] += len(record)
        return self._writer.end

    def share(self) -> int:
        """Sync all that was appended, for many senders at once, wake the detector, and give how far it reaches.

        Raises:
            OSError: the disk failed.
        """
        end = self._writer.end
        self._writer.sync(end)
        self._wake()
        return end

    def close(self) -> None:
        """Let go of the stream."""
        self._writer.close()


def told(items: list[Item], end: int, began: float) -> BulkAnswer:
    """Make the answer about lines that are on disk up to ``end``, asked for at a monotonic moment."""
    found = [item.answer(identity=item.id or new_id(), sequence=end) for item in items]
    return BulkAnswer(int((time.monotonic() - began) * 1000), any(item.error is not None for item in items), found)


def _first_free(log: stream.LogStream, prefix: str) -> stream.StreamWriter:
    for number in range(STREAMS):
        try:
            return log.writer(f"{prefix}-{number}")
        except StreamBusy:
            continue
    raise StreamBusy(f"All {STREAMS} streams {prefix}-* have a writer.")
