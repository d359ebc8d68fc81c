"""Due work is rows; messages only wake (design decision 12).

A job is a row with ``due_at``, a lease and a fence. Any worker may take it; one that dies loses its lease and another
takes the row over, with a higher fence. Work is done at least once, so what it does must be idempotent. A job that fails
is tried again with growing pauses; after `TRIES` failures it is kept as ``poisoned``, visible and counted, and its
``last_error`` says why. Recurring work is one row per name that is put off instead of removed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import Json, UtcDateTime, metadata
from lachan.ids import new_id
from lachan.log import get as get_logger
from lachan.statements import Statement, insert_new, later

if TYPE_CHECKING:
    from lachan.runtime import Runtime

Batch = Callable[["Runtime", list["Job"]], dict[str, datetime]]
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
INSERT = Statement(
    jobs.insert(), columns=("id", "kind", "key", "payload", "due_at")
)  # of a key that is new for certain
_INSERT_NEW = insert_new(jobs, "id", "kind", "key", "payload", "due_at", index=("key",))


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
        key: at most one open job has a given key; one that was given up has no claim to it and becomes due again.

    Returns:
        The job's id, or None when an open job has that key already.
    """
    job_id = new_id()
    values = {
        "id": job_id,
        "kind": kind,
        "key": key or job_id,
        "payload": dict(payload),
        "due_at": due_at or clock.now(),
    }
    if key is None:
        later(connection, [(INSERT, values)])
        return job_id
    if _INSERT_NEW.execute(connection, **values):
        return job_id
    given_up = sa.and_(jobs.c.key == values["key"], jobs.c.state == "poisoned")
    again = {"state": "open", "failures": 0, "lease_until": None, "fence": jobs.c.fence + 1}
    again |= {name: values[name] for name in ("id", "kind", "payload", "due_at")}
    return job_id if connection.execute(jobs.update().where(given_up).values(**again)).rowcount else None


def batched(function: Batch) -> Batch:
    """Mark a room's job function as one that takes all claimed jobs of its kind at once.

    It is called with ``(rt, jobs)`` and gives id → time for those that are to run again; an error fails all of them.
    """
    function.batched = True  # type: ignore[attr-defined]
    return function


def poke(connection: sa.Connection, name: str) -> None:
    """Make recurring work due at once, in the caller's transaction."""
    connection.execute(
        jobs.update().where(jobs.c.key == f"every:{name}", jobs.c.due_at > clock.now()).values(due_at=clock.now())
    )


def poisoned(connection: sa.Connection) -> int:
    """Tell how many jobs were given up."""
    return connection.execute(sa.select(sa.func.count()).where(jobs.c.state == "poisoned")).scalar_one()
