"""Due work is rows; messages only wake (design decisions 12 and 17).

A job is a row with a lane, ``due_at``, a lease and a fence. Any worker of the lane may take it; one that dies loses its
lease and another takes the row over, with a higher fence. Work is done at least once, so what it does must be idempotent.
A job that fails, or that goes on past the deadline of its kind, is tried again with growing pauses; after `TRIES` failures
it is kept as ``poisoned``, visible (``lachan jobs list``) and counted; its ``last_error`` says why, its key is free, and
``lachan jobs retry`` makes it due again. Recurring work is one row per name that is put off instead of removed.

**Who goes first.** A room's wiring says each kind's lane and deadline (`lachan.wiring.Work`, `lachan.wiring.Every`). Inside
a lane, all of `Rank.FIRST` goes before the rest; then senders take turns, whatever each of them has waiting; of one sender
the gravest goes first, and each 5 s of waiting are worth one step of severity (`STEP`). Whoever makes work due says whose
it is::

    jobs.enqueue(connection, "soar.run", {"run_id": run.id}, rank=Rank.FIRST)               # a person decided
    jobs.enqueue(connection, "soar.run", {"run_id": run.id}, sender=job.sender, severity=job.severity)
    jobs.enqueue(connection, "soar.http", {"run_id": run.id, "step": step}, sender=host)     # slow lane, by its wiring
    outbox.append(connection, alert, actor=DETECTOR, sender=line.principal.label)            # for the fact's handlers

A function of work meets them again in its `Job`, and passes on what it makes due itself. A job of the slow lane that has
done its part makes ``soar.run`` due in its last unit: the urgent lane takes over at once. ``vendor`` and ``site`` are the
device's; they limit only how many of one vendor or site are at work at a time.

**Times** are distances from the database's clock (`lachan.moments`). ``due_at`` is when; ``turn_at`` orders those of one
sender that are due, and is empty for what is put off; ``set_at`` is when this was written: a row from the future was
written by a clock that has been put right since, and keeps its distance, not its date.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import sqlalchemy as sa

from lachan import wiring
from lachan.database import Json, UtcDateTime, metadata
from lachan.ids import new_id
from lachan.log import get as get_logger
from lachan.moments import ahead, bind, moment, until
from lachan.statements import Statement, later
from lachan.wiring import Lane, Rank

if TYPE_CHECKING:
    from lachan.runtime import Runtime

Batch = Callable[["Runtime", list["Job"]], dict[str, datetime]]
LEASE = timedelta(seconds=3)
TRIES = 10
POLL = 0.25  # seconds that a lost wake-up can cost
STEP = 5.0  # seconds of waiting that are worth one step of severity
log = get_logger(__name__)

OPEN = sa.text("state = 'open'")
READY = sa.text("state = 'open' AND lease_until IS NULL AND turn_at IS NOT NULL")
PUT_OFF = sa.text("state = 'open' AND lease_until IS NULL AND turn_at IS NULL")
LEASED = sa.text("lease_until IS NOT NULL")
GIVEN_UP = sa.text("state = 'poisoned'")


def _index(name: str, *columns: str, where: sa.TextClause) -> sa.Index:
    return sa.Index(name, *columns, sqlite_where=where, postgresql_where=where)


jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(80), nullable=False),
    sa.Column("key", sa.String(200), nullable=False, unique=True),
    sa.Column("payload", Json, nullable=False),
    sa.Column("state", sa.String(10), nullable=False, server_default="open"),
    sa.Column("lane", sa.String(10), nullable=False, server_default="ordinary"),
    sa.Column("rank", sa.SmallInteger, nullable=False, server_default="1"),
    sa.Column("vendor", sa.String(100), nullable=False, server_default=""),
    sa.Column("site", sa.String(100), nullable=False, server_default=""),
    sa.Column("sender", sa.String(200), nullable=False, server_default=""),
    sa.Column("severity", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("set_at", UtcDateTime),
    sa.Column("turn_at", UtcDateTime),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_error", sa.Text),
    _index("ix_jobs_ready", "lane", "rank", "vendor", "sender", "turn_at", where=READY),
    _index("ix_jobs_put_off", "lane", "due_at", where=PUT_OFF),
    _index("ix_jobs_leased", "lease_until", where=LEASED),
    _index("ix_jobs_due", "lane", "due_at", where=READY),
    _index("ix_jobs_given_up", "kind", where=GIVEN_UP),
)
_GIVEN = ("id", "kind", "key", "payload", "lane", "rank", "vendor", "site", "sender", "severity")


def _new(dialect: str) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    return insert(jobs).values(
        due_at=moment(dialect, bind("due_in_")),
        set_at=moment(dialect, bind("ahead_")),
        turn_at=moment(dialect, bind("turn_in_")),
    )


INSERT = Statement(_new, columns=_GIVEN)  # of a key that is new for certain; its arguments: `row`
_INSERT_NEW = Statement(lambda dialect: _new(dialect).on_conflict_do_nothing(index_elements=["key"]), columns=_GIVEN)


class Gravity(IntEnum):
    """How grave it is; the words are Sigma's levels."""

    INFORMATIONAL = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @classmethod
    def of(cls, level: str | None) -> "Gravity":
        """Give the severity of a level's name; none or a strange one is the least."""
        return cls.__members__.get((level or "").upper(), cls.INFORMATIONAL)


@dataclass(frozen=True)
class Job:
    """A job as its function meets it.

    Attributes:
        id: of the row; another one each time the key is made due anew.
        kind: a name of some room's jobs, ``event:<handler>`` or ``every:<name>``.
        payload: what it was made due with.
        attempt: counts from 1.
        fence: grows with every take-over.
        sender: whose turn it is.
        severity: of what it is about.
        vendor: of the device that it is about, if it is about one.
        site: of that device.
        rank: whether it goes before the rest.
    """

    id: str
    kind: str
    payload: dict[str, Any]
    attempt: int
    fence: int
    sender: str = ""
    severity: int = 0
    vendor: str = ""
    site: str = ""
    rank: int = Rank.TURN


class Again(Exception):
    """Raised inside a job: nothing failed, run it again at ``due_at``."""

    def __init__(self, due_at: datetime) -> None:
        super().__init__(due_at.isoformat())
        self.due_at = due_at


class Whose(TypedDict, total=False):
    """Whose work it is and how it stands in its lane; what is left out is as the wiring says for the kind, or empty.

    Attributes:
        lane: another one than the wiring says.
        rank: another one than the wiring says: `Rank.FIRST` for what a person decided.
        sender: whose turn it is: `lachan.identity.Principal.label`, or for requests to others the peer's host.
        severity: of what it is about.
        vendor: of the device that it is about.
        site: of that device.
    """

    lane: Lane
    rank: Rank | int
    sender: str
    severity: Gravity | int
    vendor: str | None
    site: str | None


def enqueue(
    connection: sa.Connection,
    kind: str,
    payload: Mapping[str, Any],
    *,
    due_at: datetime | None = None,
    key: str | None = None,
    **whose: Unpack[Whose],
) -> str | None:
    """Make work due, in the caller's transaction.

    Args:
        connection: an open `Database.write`.
        kind: a name of some room's ``jobs``, or ``event:<handler>``.
        payload: JSON-able arguments.
        due_at: when; now by default.
        key: at most one open job has a given key; one that was given up has no claim to it and becomes due again.
        whose: lane, rank, sender, severity, vendor, site: as of `Whose`.

    Returns:
        The job's id, or None when an open job has that key already.
    """
    values = row(kind, payload, due_at=due_at, key=key, **whose)
    job_id: str = values["id"]
    if key is None:
        later(connection, [(INSERT, values)])
        return job_id
    if _INSERT_NEW.execute(connection, **values):
        return job_id
    anew = {f"{name}_" if name in _GIVEN else name: value for name, value in values.items()}
    return job_id if _REVIVE.execute(connection, **anew) else None


def row(
    kind: str,
    payload: Mapping[str, Any],
    *,
    due_at: datetime | None = None,
    key: str | None = None,
    **whose: Unpack[Whose],
) -> dict[str, Any]:
    """Give the arguments of `INSERT` for a new job; its own as of `enqueue`."""
    work, job_id, now = wiring.load().work(kind), new_id(), ahead()
    due_in = now if due_at is None else until(due_at)
    severity = int(whose.get("severity", 0))
    return {
        "id": job_id, "kind": kind, "key": key or job_id, "payload": dict(payload), "lane": str(whose.get("lane", work.lane)),
        "rank": int(whose.get("rank", work.rank)), "vendor": whose.get("vendor") or "", "site": whose.get("site") or "",
        "sender": whose.get("sender", "")[:200], "severity": severity, "due_in_": due_in, "ahead_": now,
        "turn_in_": due_in - STEP * severity if due_in <= now else None,
    }  # fmt: skip


def batched(function: Batch) -> Batch:
    """Mark a room's job function as one that takes all claimed jobs of its kind at once.

    It is called with ``(rt, jobs)`` and gives id → time for those that are to run again; an error fails all of them.
    """
    function.batched = True  # type: ignore[attr-defined]
    return function


def poke(connection: sa.Connection, name: str) -> None:
    """Make recurring work due at once, in the caller's transaction."""
    _POKE.execute(connection, key_=f"every:{name}", now_=ahead())


def poisoned(connection: sa.Connection) -> int:
    """Tell how many jobs were given up."""
    return connection.execute(sa.select(sa.func.count()).select_from(jobs).where(GIVEN_UP)).scalar_one()


def oldest(connection: sa.Connection, lane: Lane) -> datetime | None:
    """Tell when the work of a lane that is free and due, or put off, fell or falls due first; None: there is none."""
    found: list[datetime] = []
    for free in (READY, PUT_OFF):  # each by its own index
        first = sa.select(jobs.c.due_at).where(free, jobs.c.lane == str(lane)).order_by(jobs.c.due_at).limit(1)
        found += connection.execute(first).scalars()
    return min(found, default=None)


def _revive(dialect: str) -> sa.Update:
    """Give a row that was given up, and whose key is wanted anew, all of the new one's values."""
    given = {name: sa.bindparam(f"{name}_", type_=jobs.c[name].type) for name in _GIVEN if name != "key"}
    times = {
        "due_at": moment(dialect, bind("due_in_")), "set_at": moment(dialect, bind("ahead_")),
        "turn_at": moment(dialect, bind("turn_in_")),
    }  # fmt: skip
    fresh = {"state": "open", "failures": 0, "lease_until": None, "last_error": None, "fence": jobs.c.fence + 1}
    return jobs.update().where(jobs.c.key == sa.bindparam("key_"), GIVEN_UP).values(**given, **times, **fresh)


def _poke(dialect: str) -> sa.Update:
    now = moment(dialect, bind("now_"))
    return (
        jobs.update()
        .where(jobs.c.key == sa.bindparam("key_"), jobs.c.due_at > now)
        .values(due_at=now, set_at=now, turn_at=now)
    )


_REVIVE = Statement(_revive)
_POKE = Statement(_poke)
