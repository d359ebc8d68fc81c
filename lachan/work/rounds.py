"""Whose turn it is: a lane's next jobs, so that nobody who has much to do stands before one who has little.

Steps of `Rounds.take`, in a unit: what has fallen due joins its sender's line; all of `Rank.FIRST`, then the rest; of each
rank one job a sender, from the sender after the last one served, then a second one each, and so on. Of one vendor, or of one
site, at most `SHARE` of a batch is taken while others wait, and a batch does one of each vendor before a second one of any,
for it is done one after the other. Of a lane's threads, if they are more than two, one is never at work for a vendor that
all the others work for: whoever else comes finds it free. Who waits for a peer that does not answer (`Work.serial`, `Work.most`) is passed over.

Limits: each process goes round by itself, so with two of them a sender has two turns a round, as everybody has; a site's
share is kept among the `WINDOW` senders that one step sees.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import sqlalchemy as sa

from lachan.wiring import Lane, Rank, Wiring
from lachan.work import queue
from lachan.work.jobs import Job

SHARE = 0.75  # of a batch: most for one vendor, and for one site, while others wait
WINDOW = 32  # senders that one step of a walk sees


@dataclass
class Busy:
    """What is at work in this process now, of all lanes."""

    senders: Counter[tuple[str, str]] = field(default_factory=Counter)  # kind and sender
    vendors: Counter[tuple[Lane, str]] = field(default_factory=Counter)  # batches with jobs of a vendor
    kinds: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Count jobs that were claimed, one batch of a lane."""
        with self.lock:
            self.vendors.update((lane, vendor) for vendor in _vendors(jobs))
            self.kinds.update(job.kind for job in jobs)
            self.senders.update((job.kind, job.sender) for job in jobs)

    def remove(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Forget jobs of a batch, which are at work no more."""
        with self.lock:
            self.vendors.subtract((lane, vendor) for vendor in _vendors(jobs))
            self.vendors += Counter()
            self.kinds.subtract(job.kind for job in jobs)
            self.senders.subtract((job.kind, job.sender) for job in jobs)
            self.senders += Counter()  # without those that are at nothing: senders come and go


class Rounds:
    """One lane's turns, as this process goes round; not to be used by two threads at once.

    Args:
        lane: which.
        wired: what the rooms have.
        busy: what is at work in this process.
        threads: that work off the lane.
    """

    def __init__(self, lane: Lane, wired: Wiring, busy: Busy, *, threads: int = 1) -> None:
        self._lane, self._wired, self._busy = lane, wired, busy
        self._batches = threads - 1 if threads > 2 else None  # at once, with jobs of one vendor
        self._last = dict.fromkeys(Rank, ("", ""))

    def take(self, connection: sa.Connection, most: int) -> list[Job]:
        """Claim a lane's next jobs, in the caller's unit.

        Args:
            connection: the unit's.
            most: jobs.

        Returns:
            Them, in the order in which they are to be done; none if there is nothing that may be done now.
        """
        chosen: list[Any] = []
        for rank, first in queue.heads(connection, self._lane, self._last, most=WINDOW).items():
            if first and len(chosen) < most:
                chosen += self._of_rank(connection, rank, first, most - len(chosen), chosen)
        return queue.claim(connection, chosen) if chosen else []

    def _full(self) -> frozenset[str]:
        """Give the vendors for whom as many threads work as may."""
        if self._batches is None:
            return frozenset()
        with self._busy.lock:
            found = [
                vendor
                for (lane, vendor), count in self._busy.vendors.items()
                if count >= self._batches and lane == self._lane
            ]
        return frozenset(found)

    def _of_rank(
        self, connection: sa.Connection, rank: Rank, first: list[Any], most: int, before: Sequence[Any]
    ) -> list[Any]:
        batch = _Batch(self._wired, self._busy, most, before, full=self._full())
        batch.take(first)
        self._last[rank] = _go_on_after(first, batch) or self._last[rank]
        if len(first) < most and not batch.full:
            lines = queue.rest(connection, self._lane, rank, [(row.vendor, row.sender) for row in first], most=most)
            for following in list(zip_longest(*lines))[1:]:
                batch.take([row for row in following if row is not None])
        if batch.spilt and not batch.full:
            vendor = Counter(row.vendor for row in batch.spilt).most_common(1)[0][0]
            batch.take(queue.others(connection, self._lane, rank, vendor=vendor, most=WINDOW))
            batch.spill()
        return _vendors_in_turn(batch.chosen)


def _vendors(jobs: Sequence[Job]) -> set[str]:
    return {job.vendor for job in jobs} - {""}


def _vendors_in_turn(chosen: Sequence[Any]) -> list[Any]:
    """Order a rank's jobs of a batch, which are done one after the other: one of each vendor, who has least first, and so on."""
    total, before = Counter(row.vendor for row in chosen), Counter[str]()
    placed = []
    for row in chosen:
        placed.append((before[row.vendor], total[row.vendor], row))
        before[row.vendor] += 1
    return [row for *_, row in sorted(placed, key=lambda one: one[:2])]


def _go_on_after(first: Sequence[Any], batch: "_Batch") -> tuple[str, str] | None:
    """Give the last sender that was served before the first that was left out; whoever was left out begins next time."""
    chosen, spilt = {row.id for row in batch.chosen}, {row.id for row in batch.spilt}
    last = None
    for row in first:
        if row.id in spilt:
            break
        if row.id in chosen:
            last = row.vendor, row.sender
    if last is None and len(first) == WINDOW:  # nobody here may be served now: the next step looks further
        last = first[-1].vendor, first[-1].sender
    return last


class _Batch:
    """Jobs that are being chosen, with what was left out for its vendor's or site's share."""

    def __init__(self, wired: Wiring, busy: Busy, most: int, before: Sequence[Any], *, full: frozenset[str]) -> None:
        self.chosen: list[Any] = []
        self.spilt: list[Any] = []
        self._wired, self._busy, self._most, self._vendors = wired, busy, most, full
        self._share = max(1, int(most * SHARE))
        self._known = {row.id for row in before}
        self._count: Counter[tuple[str, ...]] = Counter()
        for row in before:
            self._tally(row)

    @property
    def full(self) -> bool:
        return len(self.chosen) >= self._most

    def take(self, rows: Sequence[Any]) -> None:
        """Choose what may be chosen, up to the shares."""
        for row in rows:
            if self.full:
                return
            if row.id in self._known or self._held(row):
                continue
            if row.vendor in self._vendors or any(self._count[name] >= self._share for name in _shares(row)):
                self.spilt.append(row)
            else:
                self._add(row)

    def spill(self) -> None:
        """Fill up with what was left out: nobody else wants the place."""
        for row in self.spilt:
            if not self.full and row.id not in self._known and row.vendor not in self._vendors and not self._held(row):
                self._add(row)

    def _add(self, row: Any) -> None:
        self.chosen.append(row)
        self._known.add(row.id)
        self._tally(row)
        for name in _shares(row):
            self._count[name] += 1

    def _tally(self, row: Any) -> None:
        self._count["kind", row.kind] += 1
        self._count["sender", row.kind, row.sender] += 1

    def _held(self, row: Any) -> bool:
        """Tell whether a job has to wait for one of its kind that is at work or chosen."""
        work = self._wired.work(row.kind)
        if work.serial and self._busy.senders[row.kind, row.sender] + self._count["sender", row.kind, row.sender]:
            return True
        return work.most is not None and self._busy.kinds[row.kind] + self._count["kind", row.kind] >= work.most


def _shares(row: Any) -> list[tuple[str, ...]]:
    return [(name, value) for name, value in (("vendor", row.vendor), ("site", row.site)) if value]
