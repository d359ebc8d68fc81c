"""Take log lines in: duplicates out, the rest on disk, and only then the answer.

One `Ingest` per process that takes lines (the doors; the syslog listener has a stream of its own). Steps: refuse when the
detector is too far behind; drop repeated lines by the sender's own keys; append the batch to this process's stream; sync;
wake the detector; answer.

Whether a batch counts once when it is sent twice: lines with an ``_id`` do, and lines of a batch with an
``Idempotency-Key`` do. A batch with neither is counted each time, since two equal lines are two events.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.ids import new_id
from lachan.runtime import Runtime
from siem_rules import segments, stream
from siem_rules.bulk import Item
from siem_rules.dedupe import Seen
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
    """This process's way in, opened when first asked for and kept by the runtime."""
    return rt.keep(
        Ingest, lambda: Ingest(segments.opened(rt), backlog=partial(backlog, rt), wake=partial(rt.wake, "detect"))
    )


def close(rt: Runtime) -> None:
    """Close this process's way in; the next `instance` opens it again."""
    rt.dismiss(Ingest)


def backlog(rt: Runtime) -> int:
    """Bytes that are kept and that the detector has not read yet."""
    with rt.db.read() as connection:
        rows = connection.execute(sa.select(checkpoints.c.stream, checkpoints.c.position)).all()
    positions = {str(name): int(position) for name, position in rows}
    log = segments.opened(rt)
    return sum(max(0, log.position(name) - positions.get(name, 0)) for name in log.names())


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
        backlog: tells how many bytes the detector is behind.
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
        backlog: Callable[[], int],
        wake: Callable[[], None],
        high_water: int = HIGH_WATER,
        prefix: str = "bulk",
    ) -> None:
        self._writer = _first_free(log, prefix)
        self._backlog, self._wake, self._high_water = backlog, wake, high_water
        self._seen = Seen()
        self._lock = threading.Lock()
        self._checked, self._behind = 0.0, 0
        self._sent: Counter[str] = Counter()
        for record in log.read(self._writer.name, log.starts(self._writer.name)[-2:][0], limit=1 << 40):
            for key in Delivery.unpack(record.payload).line_keys():
                if key is not None:
                    self._seen.add(key)

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
        self._check_backlog(sender)
        with self._lock:
            kept = self._sort_out(sender, items, batch)
            end = self._writer.end
            if kept is not None:
                try:
                    record = kept.pack()
                    end = self._writer.append(record)
                    self._sent[sender.label] += len(record)
                except OSError:
                    for key in kept.line_keys():
                        if key is not None:
                            self._seen.forget(key)
                    raise
        self._writer.sync(end)  # also for a repetition: what it repeats must be on disk before anybody is told so
        if kept is not None:
            self._wake()
        told = [item.answer(identity=item.id or new_id(), sequence=end) for item in items]
        took = int((time.monotonic() - began) * 1000)
        return BulkAnswer(took, any(item.error is not None for item in items), told)

    def close(self) -> None:
        """Let go of the stream."""
        self._writer.close()

    def _sort_out(self, sender: Sender, items: list[Item], batch: str) -> Delivery | None:
        good = [item for item in items if item.line is not None]
        keys = tuple(line_key(item.id, batch, place) for place, item in enumerate(items) if item.line is not None)
        whole = Delivery(sender, clock.now(), batch, keys, tuple(item.line or b"" for item in good))
        kept: list[int] = []
        for place, (item, key) in enumerate(zip(good, whole.line_keys(), strict=True)):
            if key is None or self._seen.add(key):
                kept.append(place)
            elif item.action == "create" and item.id is not None:
                item.status = 409
                item.error = {
                    "type": "version_conflict_engine_exception",
                    "reason": f"[{item.id}]: version conflict, document already exists (current version [1])",
                }
            else:
                item.status = 200
        if not kept:
            return None
        if len(kept) == len(good):
            return whole
        return Delivery(
            sender,
            whole.received,
            batch,
            tuple(whole.ids[place] for place in kept),
            tuple(whole.lines[place] for place in kept),
        )

    def _check_backlog(self, sender: Sender) -> None:
        now, share = time.monotonic(), self._high_water // SHARE
        if now - self._checked > 1 or self._sent[sender.label] > share:
            self._checked, self._behind = now, self._backlog()
            if self._behind <= share:
                self._sent.clear()
        if self._behind > self._high_water:
            raise BacklogFull(f"The detector is {self._behind >> 20} MiB behind.", retry_after=5)
        if self._behind > share and self._sent[sender.label] > share:
            raise BacklogFull("The detector is behind, and most of that is yours.", retry_after=2)


def _first_free(log: stream.LogStream, prefix: str) -> stream.StreamWriter:
    for number in range(STREAMS):
        try:
            return log.writer(f"{prefix}-{number}")
        except StreamBusy:
            continue
    raise StreamBusy(f"All {STREAMS} streams {prefix}-* have a writer.")
