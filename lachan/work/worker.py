"""The worker: takes due jobs, several at a time, calls what they name, settles them together (design decision 12).

Steps of a round: claim up to `BATCH` due jobs in one unit; do them one after another (jobs of a kind whose function is
`lachan.work.jobs.batched` all at once); settle what was done in one unit, at once after anything that was slow, so that no
finished job waits behind it with its lease running out; give back what has not begun after `SHARE` seconds. Limits: a
worker that dies has its claimed jobs wait for the end of their leases.
"""

import threading
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.errors import DatabaseAway, Unavailable
from lachan.log import get as get_logger
from lachan.statements import Statement
from lachan.wiring import resolve
from lachan.work import outbox
from lachan.work.jobs import LEASE, POLL, TRIES, Again, Job, enqueue, jobs

if TYPE_CHECKING:
    from lachan.runtime import Runtime

BATCH = 16  # jobs that one worker claims at once
SLOW = 0.1  # seconds; what took longer is settled at once, with all before it
SHARE = 1.0  # seconds after which claimed jobs that have not begun are given back
Settlement = tuple[Job, dict[str, Any]]  # what to write into the job's row; nothing: it is done
PAUSE = 1.0  # seconds between two tries to reach a database that is away
log = get_logger(__name__)


class Worker:
    """Take due jobs in the order in which they fell due; any number of workers may share a database."""

    def __init__(self, rt: "Runtime", *, kinds: Sequence[str] | None = None) -> None:
        self.rt = rt
        self.kinds = kinds

    def run_due(self, limit: int = 1000) -> int:
        """Do all that is due now, at most ``limit`` jobs; tell how many were done."""
        done = 0
        while done < limit and (batch := self._claim(min(BATCH, limit - done))):
            done += self._work(batch)
        return done

    def run_forever(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; sleeps until woken or until the next job falls due."""
        waiter = self.rt.waker.waiter("work")
        try:
            planned = False
            while not stop.is_set():
                try:
                    planned = planned or plan(self.rt)
                    busy = self.run_due(limit=100)
                except DatabaseAway:  # it was said, once
                    busy = 0
                    stop.wait(PAUSE)
                if not busy:
                    waiter.wait(POLL)
        finally:
            waiter.close()

    def _claim(self, most: int) -> list[Job]:
        now = clock.now()
        due = _DUE if self.kinds is None else Statement(lambda name: _due(name, self.kinds))
        with self.rt.db.read() as connection:  # looking first keeps an idle worker off SQLite's one write lock
            if _LOOK.first(connection, now_=now) is None:
                return []

        def unit(connection: sa.Connection) -> list[Any]:
            rows = due.all(connection, now_=now, most_=most)
            if rows:
                _CLAIM.many(connection, [{"id_": row.id, "until_": now + LEASE} for row in rows])
            return rows

        rows = self.rt.db.run(unit, urgent=True)
        return [Job(row.id, row.kind, dict(row.payload), row.failures + 1, row.fence + 1) for row in rows]

    def _work(self, batch: list[Job]) -> int:
        begun, done, settled = time.monotonic(), 0, list[Settlement]()
        while batch and (not done or time.monotonic() - begun < SHARE):
            at = time.monotonic()
            first = batch[0]
            together = [job for job in batch if job.kind == first.kind] if _batched(self.rt, first) else [first]
            batch = [job for job in batch if job not in together]
            settled += self._do(together)
            done += len(together)
            if time.monotonic() - at > SLOW:
                self._settle(settled)
                settled = []
        self._settle(settled + [(job, {"lease_until": None}) for job in batch])
        return done

    def _do(self, together: list[Job]) -> list[Settlement]:
        job = together[0]
        try:
            later = run(self.rt, together)
        except Again as again:
            later = {job.id: again.due_at}
        except DatabaseAway:  # nobody's failure
            later = {one.id: clock.now() + timedelta(seconds=PAUSE) for one in together}
        except Exception as error:  # noqa: BLE001 - any failure of a room's work is its own; the worker goes on
            log.warning("job failed", kind=job.kind, job=job.id, attempt=job.attempt, error=str(error))
            return [(one, _failed(one, error)) for one in together]
        return [
            (one, {"due_at": later[one.id], "lease_until": None} if one.id in later else _done(self.rt, one))
            for one in together
        ]

    def _settle(self, settled: list[Settlement]) -> None:
        """Write what became of jobs, each under its fence: whoever has taken one over since decides about it."""

        def unit(connection: sa.Connection) -> None:
            if gone := [{"id_": job.id, "fence_": job.fence} for job, values in settled if not values]:
                _DELETE.many(connection, gone)
            for job, values in settled:
                if values:
                    mine = sa.and_(jobs.c.id == job.id, jobs.c.fence == job.fence)
                    connection.execute(jobs.update().where(mine).values(**values))

        if settled:
            self.rt.db.run(unit)


def run(rt: "Runtime", together: list[Job]) -> dict[str, datetime]:
    """Call what jobs of one kind name: an event's handler, recurring work, or a room's function.

    Returns:
        The ids of those that are to run again, with the time; only a batch function gives any.

    Raises:
        Again: the one job is to run again.
    """
    job = together[0]
    family, _, name = job.kind.partition(":")
    if family == "event":
        with rt.db.read() as connection:
            stored = outbox.get(connection, job.payload["event"])
        resolve(name)(rt, stored)
    elif family == "every":
        resolve(rt.wiring.recurring[name][1])(rt)
    elif _batched(rt, job):
        later: dict[str, datetime] = resolve(rt.wiring.jobs[job.kind])(rt, together)
        return later
    else:
        resolve(rt.wiring.jobs[job.kind])(rt, job)
    return {}


def plan(rt: "Runtime") -> bool:
    """Make sure that all recurring work has its row; call once at a worker's start. Return True: it has."""

    def unit(connection: sa.Connection) -> None:
        for name in rt.wiring.recurring:
            enqueue(connection, f"every:{name}", {}, key=f"every:{name}")

    rt.db.run(unit)
    return True


def _batched(rt: "Runtime", job: Job) -> bool:
    name = rt.wiring.jobs.get(job.kind)
    return name is not None and getattr(resolve(name), "batched", False)


def _done(rt: "Runtime", job: Job) -> dict[str, Any]:
    if not job.kind.startswith("every:"):
        return {}
    period = timedelta(seconds=rt.wiring.recurring[job.kind.partition(":")[2]][0])
    return {"due_at": clock.now() + period, "lease_until": None, "failures": 0}


def _failed(job: Job, error: Exception) -> dict[str, Any]:
    """Call in the handler of the exception: a failed job is tried again later, or given up.

    Never given up is recurring work, and what failed for something that does not answer, for example the signer.
    """
    recurring = job.kind.startswith("every:")
    kept = recurring or isinstance(error, Unavailable)
    return {
        "due_at": clock.now() + timedelta(seconds=min(0.2 * 2**job.attempt, 300)), "lease_until": None,
        "failures": min(job.attempt, TRIES) if recurring else job.attempt, "last_error": traceback.format_exc()[-4000:],
        "state": "poisoned" if job.attempt >= TRIES and not kept else "open",
    }  # fmt: skip


def _open(kinds: Sequence[str] | None) -> sa.Select[Any]:
    now = sa.bindparam("now_", type_=jobs.c.due_at.type)
    free = sa.or_(jobs.c.lease_until.is_(None), jobs.c.lease_until < now)
    query = sa.select(jobs.c.id, jobs.c.kind, jobs.c.payload, jobs.c.failures, jobs.c.fence)
    query = query.where(jobs.c.state == "open", jobs.c.due_at <= now, free).order_by(jobs.c.due_at, jobs.c.id)
    return query if kinds is None else query.where(sa.or_(*(jobs.c.kind == kind for kind in kinds)))


def _due(dialect: str, kinds: Sequence[str] | None = None) -> sa.Select[Any]:
    query = _open(kinds).limit(sa.bindparam("most_", type_=sa.Integer))
    return query.with_for_update(skip_locked=True) if dialect == "postgresql" else query


_LOOK = Statement(_open(None).with_only_columns(jobs.c.id).limit(1))
_DUE = Statement(_due)
_CLAIM = Statement(
    jobs.update()
    .where(jobs.c.id == sa.bindparam("id_"))
    .values(fence=jobs.c.fence + 1, lease_until=sa.bindparam("until_", type_=jobs.c.lease_until.type))
)
_DELETE = Statement(jobs.delete().where(jobs.c.id == sa.bindparam("id_"), jobs.c.fence == sa.bindparam("fence_")))
