"""The worker: calls what due jobs name, and says what becomes of them (design decision 12).

`perform` does jobs of one kind and turns what happened into settlements; `Worker` claims and does what is due in the caller's
thread, lane by lane: for tests and commands. The role ``work`` has threads for each lane (`lachan.work.lanes`).
"""

import time
import traceback
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa

from lachan import clock
from lachan.errors import DatabaseAway, Unavailable
from lachan.log import get as get_logger
from lachan.wiring import Lane, resolve
from lachan.work import outbox, queue
from lachan.work.jobs import TRIES, Again, Job, enqueue
from lachan.work.queue import BACK, After, Settlement
from lachan.work.rounds import Busy, Rounds

if TYPE_CHECKING:
    from lachan.runtime import Runtime

BATCH = {Lane.URGENT: 16, Lane.ORDINARY: 16, Lane.SLOW: 1}  # jobs that one worker claims at once
SLOW = 0.1  # seconds; what took longer is settled at once, with all before it
SHARE = 0.25  # seconds after which claimed jobs that have not begun are given back
PAUSE = 1.0  # seconds between two tries to reach a database that is away
LONGEST = 300.0  # seconds: the longest pause between two tries
log = get_logger(__name__)


class Worker:
    """Do what is due in this thread; any number of workers may share a database.

    Args:
        rt: the open installation.
        kinds: only jobs of these kinds, whatever their lane.
    """

    def __init__(self, rt: "Runtime", *, kinds: Sequence[str] | None = None) -> None:
        self.rt = rt
        self.kinds = kinds
        busy = Busy()
        self._turns = {lane: Rounds(lane, rt.wiring, busy) for lane in Lane}

    def run_due(self, limit: int = 1000) -> int:
        """Do all that is due now, at most ``limit`` jobs, urgent ones first; tell how many were done."""
        done = 0
        while done < limit and (batch := self._claim(limit - done)):
            done += self._work(batch)
        return done

    def _claim(self, most: int) -> list[Job]:
        if self.kinds is not None:
            return self.rt.db.run(
                lambda connection: self._of_kinds(connection, self.kinds or (), min(most, 16)), urgent=True
            )
        with self.rt.db.read() as connection:  # looking first keeps off SQLite's one write lock
            found = queue.look(connection)
        if found.lost:
            self.rt.db.run(queue.free, urgent=True)
        for lane in Lane:
            if lane in found.lanes or found.lost:
                take = partial(self._turns[lane].take, most=min(BATCH[lane], most))
                batch = self.rt.db.run(take, urgent=True)
                if batch:
                    return batch
        return []

    def _of_kinds(self, connection: sa.Connection, kinds: Sequence[str], most: int) -> list[Job]:
        queue.free(connection)
        return queue.claim(connection, queue.of_kinds(connection, kinds, most=most))

    def _work(self, batch: list[Job]) -> int:
        begun, done, settled = time.monotonic(), 0, list[Settlement]()
        while batch and (not done or time.monotonic() - begun < SHARE):
            at = time.monotonic()
            together = alike(self.rt, batch)
            batch = [job for job in batch if job not in together]
            settled += perform(self.rt, together)
            done += len(together)
            if time.monotonic() - at > SLOW:
                self._settle(settled)
                settled = []
        self._settle(settled + [(job, BACK) for job in batch])
        return done

    def _settle(self, settled: list[Settlement]) -> None:
        if settled:
            self.rt.db.run(lambda connection: queue.settle(connection, settled))


def alike(rt: "Runtime", batch: Sequence[Job]) -> list[Job]:
    """Give the first job of a batch, with all of its kind if the kind's function takes them together."""
    first = batch[0]
    return [job for job in batch if job.kind == first.kind] if _batched(rt, first) else [first]


def perform(rt: "Runtime", together: list[Job]) -> list[Settlement]:
    """Do jobs of one kind, and say what becomes of each; fails for nothing that they do."""
    job = together[0]
    try:
        later = run(rt, together)
    except Again as again:
        later = {job.id: again.due_at}
    except DatabaseAway:  # nobody's failure
        return [(one, After(PAUSE, one.attempt - 1)) for one in together]
    except Exception as error:  # noqa: BLE001 - any failure of a room's work is its own; the worker goes on
        log.warning("job failed", kind=job.kind, job=job.id, attempt=job.attempt, error=str(error))
        kept = isinstance(error, Unavailable)
        return [(one, failed(one, traceback.format_exc(), kept=kept)) for one in together]
    return [(one, _later(one, later[one.id]) if one.id in later else _done(rt, one)) for one in together]


def run(rt: "Runtime", together: list[Job]) -> dict[str, datetime]:
    """Call what jobs of one kind name: an event's handler, recurring work, or a room's function.

    Returns:
        The ids of those that are to run again, with the time; only a batch function gives any.

    Raises:
        Again: the one job is to run again.
    """
    job = together[0]
    family, _, name = job.kind.partition(":")
    function = resolve(name if family == "event" else rt.wiring.work(job.kind).function)
    if family == "event":
        with rt.db.read() as connection:
            stored = outbox.get(connection, job.payload["event"])
        function(rt, stored)
    elif family == "every":
        function(rt)
    elif _batched(rt, job):
        later: dict[str, datetime] = function(rt, together)
        return later
    else:
        function(rt, job)
    return {}


def plan(rt: "Runtime") -> bool:
    """Make sure that all recurring work has its row and is due within its period, whatever clocks said; return True.

    Call it at a worker's start, when a clock was seen to go back, and now and then.
    """

    def unit(connection: sa.Connection) -> None:
        queue.put_right(connection)
        for name, each in rt.wiring.recurring.items():
            if enqueue(connection, f"every:{name}", {}, key=f"every:{name}") is None:
                queue.not_later(connection, f"every:{name}", each.seconds)

    rt.db.run(unit)
    return True


def failed(job: Job, error: str, *, kept: bool = False) -> After:
    """Say what becomes of a job that failed: it is tried again after a pause that doubles, or given up after `TRIES`.

    Args:
        job: which.
        error: why, for its row.
        kept: never give it up, for example because something does not answer; recurring work never is.
    """
    recurring = job.kind.startswith("every:")
    return After(
        min(0.2 * 2**job.attempt, LONGEST),
        min(job.attempt, TRIES) if recurring else job.attempt,
        error[-4000:],
        given_up=job.attempt >= TRIES and not (kept or recurring),
    )


def _batched(rt: "Runtime", job: Job) -> bool:
    work = rt.wiring.jobs.get(job.kind)
    return work is not None and getattr(resolve(work.function), "batched", False)


def _done(rt: "Runtime", job: Job) -> After | None:
    if not job.kind.startswith("every:"):
        return None
    return After(rt.wiring.recurring[job.kind.partition(":")[2]].seconds, 0)


def _later(job: Job, at: datetime) -> After:
    return After(max((at - clock.now()).total_seconds(), 0.0), job.attempt - 1)
