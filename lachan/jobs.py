"""Due work is rows; messages only wake (design decision 12).

A job is a row with ``due_at``, a lease and a fence. Any worker may take it; one that dies loses its lease and another
takes the row over, with a higher fence. Work is done at least once, so what it does must be idempotent. A job that fails
is tried again with growing pauses; after `TRIES` failures it is kept as ``poisoned``, visible and counted, and its
``last_error`` says why. Recurring work is one row per name that is put off instead of removed.
"""

import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, wake
from lachan.database import Json, UtcDateTime, insert_ignore, metadata
from lachan.ids import new_id
from lachan.log import get as get_logger
from lachan.wiring import resolve

if TYPE_CHECKING:
    from lachan.runtime import Runtime

LEASE = timedelta(seconds=30)
TRIES = 10
POLL = 0.25  # seconds that a lost wake-up can cost
log = get_logger(__name__)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(80), nullable=False),
    sa.Column("key", sa.String(200), nullable=False, unique=True),
    sa.Column("payload", Json, nullable=False),
    sa.Column("state", sa.String(10), nullable=False, server_default="open"),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_error", sa.Text),
    sa.Index("ix_jobs_due", "state", "due_at"),
)


@dataclass(frozen=True)
class Job:
    """A job as its function meets it; ``attempt`` counts from 1, ``fence`` grows with every take-over."""

    id: str
    kind: str
    payload: dict[str, Any]
    attempt: int
    fence: int


class Again(Exception):
    """Raised inside a job: nothing failed, run it again at ``due_at``."""

    def __init__(self, due_at: datetime) -> None:
        super().__init__(due_at.isoformat())
        self.due_at = due_at


def enqueue(
    connection: sa.Connection,
    kind: str,
    payload: Mapping[str, Any],
    *,
    due_at: datetime | None = None,
    key: str | None = None,
) -> str | None:
    """Make work due, in the caller's transaction.

    Args:
        connection: an open `Database.write`.
        kind: a name of some room's ``JOBS``, or ``event:<handler>``.
        payload: JSON-able arguments.
        due_at: when; now by default.
        key: at most one open job has a given key.

    Returns:
        The job's id, or None when an open job has that key already.
    """
    job_id = new_id()
    inserted = insert_ignore(
        connection,
        jobs,
        {"id": job_id, "kind": kind, "key": key or job_id, "payload": dict(payload), "due_at": due_at or clock.now()},
        index=("key",),
    )
    return job_id if inserted else None


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
        bed = wake.Sleeper(self.rt.settings.data, "work")
        try:
            plan(self.rt)
            while not stop.is_set():
                if not self.run_due(limit=100):
                    bed.sleep(POLL)
        finally:
            bed.close()

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
    from lachan import outbox

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


def poke(connection: sa.Connection, name: str) -> None:
    """Make recurring work due at once, in the caller's transaction."""
    connection.execute(
        jobs.update().where(jobs.c.key == f"every:{name}", jobs.c.due_at > clock.now()).values(due_at=clock.now())
    )


def poisoned(connection: sa.Connection) -> int:
    """How many jobs were given up."""
    return connection.execute(sa.select(sa.func.count()).where(jobs.c.state == "poisoned")).scalar_one()


def _period(rt: "Runtime", kind: str) -> timedelta:
    return timedelta(seconds=rt.wiring.recurring[kind.partition(":")[2]][0])
