"""The worker: takes due jobs, calls what they name, settles them (design decision 12)."""

import threading
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import UtcDateTime
from lachan.log import get as get_logger
from lachan.statements import Statement
from lachan.wiring import resolve
from lachan.work import outbox
from lachan.work.jobs import LEASE, POLL, TRIES, Again, Job, enqueue, jobs

if TYPE_CHECKING:
    from lachan.runtime import Runtime

log = get_logger(__name__)
_J, _NOW = jobs.c, sa.bindparam("now", type_=UtcDateTime)
_DONE = Statement(jobs.delete().where(_J.id == sa.bindparam("job"), _J.fence == sa.bindparam("mine")))


class Worker:
    """Takes due jobs one after another; any number of workers may share a database."""

    def __init__(self, rt: "Runtime", *, kinds: Sequence[str] | None = None) -> None:
        self.rt = rt
        due = sa.select(_J.id).where(
            _J.state == "open", _J.due_at <= _NOW, sa.or_(_J.lease_until.is_(None), _J.lease_until < _NOW)
        )
        if kinds is not None:
            due = due.where(sa.or_(sa.false(), *(_J.kind == kind for kind in kinds)))
        due = due.order_by(_J.due_at, _J.id).limit(1)
        self._look = Statement(due)
        mine = due.with_for_update(skip_locked=True).scalar_subquery()
        leased = jobs.update().where(_J.id == mine).values(fence=_J.fence + 1, lease_until=sa.bindparam("lease"))
        self._take = Statement(leased.returning(_J.id, _J.kind, _J.payload, _J.failures, _J.fence))

    def run_due(self, limit: int = 1000) -> int:
        """Do all that is due now, at most ``limit`` jobs; tell how many were done."""
        done = 0
        while done < limit and (job := self._claim()):
            self._do(job)
            done += 1
        return done

    def run_forever(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; sleeps until woken or until the next job falls due."""
        waiter = self.rt.waker.waiter("work")
        try:
            plan(self.rt)
            while not stop.is_set():
                if not self.run_due(limit=100):
                    waiter.wait(POLL)
        finally:
            waiter.close()

    def _claim(self) -> Job | None:
        now = clock.now()
        with self.rt.db.read() as connection:  # looking first keeps an idle worker off SQLite's one write lock
            if self._look.first(connection, now=now) is None:
                return None
        row = self.rt.db.run(lambda connection: self._take.first(connection, now=now, lease=now + LEASE))
        return row and Job(row.id, row.kind, row.payload, row.failures + 1, row.fence)

    def _do(self, job: Job) -> None:
        try:
            run(self.rt, job)
        except Again as again:
            self._settle(job, due_at=again.due_at, lease_until=None)
        except Exception as error:  # noqa: BLE001 - any failure of a room's work is its own; the worker goes on
            log.warning("job failed", kind=job.kind, job=job.id, attempt=job.attempt, error=str(error))
            pause = timedelta(seconds=min(0.2 * 2**job.attempt, 300))
            self._settle(
                job, due_at=clock.now() + pause, lease_until=None, failures=job.attempt,
                last_error=traceback.format_exc()[-4000:], state="poisoned" if job.attempt >= TRIES else "open",
            )  # fmt: skip
        else:
            self._settle(job)

    def _settle(self, job: Job, **values: Any) -> None:
        recurring = job.kind.startswith("every:")
        if recurring and values.get("state") != "poisoned" and "due_at" not in values:
            values = {"due_at": clock.now() + _period(self.rt, job.kind), "lease_until": None, "failures": 0}
        if recurring and "state" in values:
            values["state"] = "open"  # recurring work is never given up
            values["failures"] = min(job.attempt, TRIES)
        if not values:
            self.rt.db.run(lambda connection: _DONE.execute(connection, job=job.id, mine=job.fence))
            return
        put_off = jobs.update().where(_J.id == job.id, _J.fence == job.fence).values(**values)
        self.rt.db.run(lambda connection: connection.execute(put_off).rowcount)


def run(rt: "Runtime", job: Job) -> None:
    """Call what the job names: an event's handler, recurring work, or a room's job."""
    family, _, name = job.kind.partition(":")
    if family == "event":
        with rt.db.read() as connection:
            stored = outbox.get(connection, job.payload["event"])
        resolve(name)(rt, stored)
    elif family == "every":
        resolve(rt.wiring.recurring[name][1])(rt)
    else:
        resolve(rt.wiring.jobs[job.kind])(rt, job)


def plan(rt: "Runtime") -> None:
    """Make sure that all recurring work has its row; call once at a worker's start."""

    def unit(connection: sa.Connection) -> None:
        for name in rt.wiring.recurring:
            enqueue(connection, f"every:{name}", {}, key=f"every:{name}")

    rt.db.run(unit)


def _period(rt: "Runtime", kind: str) -> timedelta:
    return timedelta(seconds=rt.wiring.recurring[kind.partition(":")[2]][0])
