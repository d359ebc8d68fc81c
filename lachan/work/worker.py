"""The worker: takes due jobs, calls what they name, settles them (design decision 12)."""

import threading
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.log import get as get_logger
from lachan.wiring import resolve
from lachan.work import outbox
from lachan.work.jobs import LEASE, POLL, TRIES, Again, Job, enqueue, jobs

if TYPE_CHECKING:
    from lachan.runtime import Runtime

log = get_logger(__name__)


class Worker:
    """Takes due jobs one after another; any number of workers may share a database."""

    def __init__(self, rt: "Runtime", *, kinds: Sequence[str] | None = None) -> None:
        self.rt = rt
        self.kinds = kinds

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
        due = sa.and_(
            jobs.c.state == "open", jobs.c.due_at <= now, sa.or_(jobs.c.lease_until.is_(None), jobs.c.lease_until < now)
        )
        query = sa.select(jobs).where(due).order_by(jobs.c.due_at, jobs.c.id).limit(1)
        if self.kinds is not None:
            query = query.where(jobs.c.kind.in_(self.kinds))
        with self.rt.db.read() as connection:  # looking first keeps an idle worker off SQLite's one write lock
            if connection.execute(query).first() is None:
                return None
        with self.rt.db.write() as connection:
            if connection.dialect.name == "postgresql":
                query = query.with_for_update(skip_locked=True)
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            connection.execute(
                jobs.update().where(jobs.c.id == row["id"]).values(fence=row["fence"] + 1, lease_until=now + LEASE)
            )
        return Job(row["id"], row["kind"], dict(row["payload"]), row["failures"] + 1, row["fence"] + 1)

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
        mine = sa.and_(jobs.c.id == job.id, jobs.c.fence == job.fence)
        recurring = job.kind.startswith("every:")
        with self.rt.db.write() as connection:
            if recurring and values.get("state") != "poisoned" and "due_at" not in values:
                values = {"due_at": clock.now() + _period(self.rt, job.kind), "lease_until": None, "failures": 0}
            if recurring and "state" in values:
                values["state"] = "open"  # recurring work is never given up
                values["failures"] = min(job.attempt, TRIES)
            connection.execute(jobs.update().where(mine).values(**values) if values else jobs.delete().where(mine))


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
    with rt.db.write() as connection:
        for name in rt.wiring.recurring:
            enqueue(connection, f"every:{name}", {}, key=f"every:{name}")


def _period(rt: "Runtime", kind: str) -> timedelta:
    return timedelta(seconds=rt.wiring.recurring[kind.partition(":")[2]][0])
