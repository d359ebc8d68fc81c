"""The statements of the queue: what is due is found, claimed, kept, given back and settled by index, a batch at a time.

Rows that are open and free stand in one of two partial indexes: *ready* ones by lane, rank, vendor, sender and turn; those
put off by lane and due time. `promote` moves what has fallen due from the second to the first. `heads` walks the first as a
loose index scan: a step for each sender, whatever that sender has waiting, so that 10^5 rows of one cost as much as one.
Claims are optimistic: a row is taken by its id and the fence that was read; whoever was quicker has it.

Times are the database's (`lachan.moments`). A lease that ends later than any lease can was written under a clock that has been
put right since: it is as good as ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from lachan.moments import ahead, bind, moment
from lachan.statements import Done, Statement, pipeline
from lachan.wiring import Lane, Rank
from lachan.work.jobs import LEASE, LEASED, OPEN, PUT_OFF, READY, STEP, Job, jobs

PAGE = 64  # rows that one unit promotes or frees at most
SLACK = 1.0  # seconds: two statements of one database do not differ by more
_LEASE = LEASE.total_seconds()


@dataclass(frozen=True)
class Look:
    """What one look at the queue found.

    Attributes:
        lanes: those in which something can be claimed.
        lost: there are leases that ended.
    """

    lanes: frozenset[Lane]
    lost: bool


@dataclass(frozen=True)
class After:
    """What becomes of a job that is not done: it is due again.

    Attributes:
        seconds: from now.
        failures: that are counted.
        error: what is kept as its last error; None leaves the one before.
        given_up: it is not tried again.
    """

    seconds: float
    failures: int
    error: str | None = None
    given_up: bool = False


BACK = After(0.0, -1)  # not begun: given back as it was
Settlement = tuple[Job, After | None]  # what became of a job; None: it is done


def look(connection: sa.Connection) -> Look:
    """Look, by one statement, whether there is anything to claim."""
    row = _LOOK.first(connection, now_=ahead(), most_=ahead(_LEASE + SLACK))
    return Look(frozenset(lane for lane in Lane if getattr(row, lane)), bool(row.lost))


def heads(
    connection: sa.Connection, lane: Lane, after: Mapping[Rank, tuple[str, str]], *, most: int
) -> dict[Rank, list[Any]]:
    """Promote what has fallen due, then give, for each rank, the first job of each sender.

    Args:
        connection: of a unit.
        lane: whose.
        after: for each rank vendor and sender from whom the walk goes on; it comes round to them last.
        most: senders of a rank.
    """
    calls: list[Any] = [(_PROMOTE, {"lane_": str(lane), "now_": ahead()})]
    for rank, (vendor, sender) in after.items():
        here = {"lane_": str(lane), "rank_": int(rank), "vendor_": vendor, "sender_": sender, "most_": most}
        calls += [(_AFTER, here), (_UP_TO, here)]
    found = pipeline(connection, calls)[1:]
    return {rank: _around(found[2 * place], found[2 * place + 1], most) for place, rank in enumerate(after)}


def others(connection: sa.Connection, lane: Lane, rank: Rank, *, vendor: str, most: int) -> list[Any]:
    """Give the first job of each sender of other vendors than one."""
    here = {"lane_": str(lane), "rank_": int(rank), "vendor_": vendor, "most_": most}
    above, below = pipeline(connection, [(_ABOVE, here), (_BELOW, here)])
    return _around(above, below, most)


def rest(
    connection: sa.Connection, lane: Lane, rank: Rank, senders: Sequence[tuple[str, str]], *, most: int
) -> list[list[Any]]:
    """Give the first jobs of each of some senders, in their turn."""
    calls = [
        (_TOP, {"lane_": str(lane), "rank_": int(rank), "vendor_": vendor, "sender_": sender, "most_": most})
        for vendor, sender in senders
    ]
    return [list(done.rows) for done in pipeline(connection, calls)]


def of_kinds(connection: sa.Connection, kinds: Sequence[str], *, most: int) -> list[Any]:
    """Give due jobs of some kinds in the order in which they fell due, whatever their lane (for one who does only these)."""
    now = moment(connection.dialect.name, sa.literal(ahead()))
    query = sa.select(*_COLUMNS).where(OPEN, jobs.c.kind.in_(kinds), jobs.c.due_at <= now, jobs.c.lease_until.is_(None))
    return list(connection.execute(query.order_by(jobs.c.due_at, jobs.c.id).limit(most)))


def claim(connection: sa.Connection, rows: Sequence[Any]) -> list[Job]:
    """Claim rows as they were read; gives those that nobody else has taken meanwhile, in the given order."""
    calls = [(_CLAIM, {"id_": row.id, "fence_": row.fence, "until_": ahead(_LEASE)}) for row in _by_id(rows)]
    taken = {row.id for row, done in zip(_by_id(rows), pipeline(connection, calls), strict=True) if done.count}
    return [
        Job(row.id, row.kind, dict(row.payload), row.failures + 1, row.fence + 1, row.sender, row.severity, row.vendor,
            row.site, row.rank)
        for row in rows if row.id in taken
    ]  # fmt: skip


def renew(connection: sa.Connection, claimed: Sequence[Job]) -> list[Job]:
    """Put off the end of leases; gives those that were lost."""
    ordered = _by_id(claimed)
    calls = [(_RENEW, {"id_": job.id, "fence_": job.fence, "until_": ahead(_LEASE)}) for job in ordered]
    return [job for job, done in zip(ordered, pipeline(connection, calls), strict=True) if not done.count]


def free(connection: sa.Connection) -> int:
    """Free the jobs whose lease has ended, or ends later than any can; tell how many."""
    return _FREE.execute(connection, now_=ahead(), most_=ahead(_LEASE + SLACK))


def put_right(connection: sa.Connection) -> int:
    """Bring what was put off under a clock that was ahead then to its distance from now; tell how many jobs.

    It goes through all that is put off: for a start, and for when a clock was seen to go back.
    """
    return _PUT_RIGHT.execute(connection, now_=ahead(), soon_=ahead(SLACK))


def not_later(connection: sa.Connection, key: str, seconds: float) -> bool:
    """Have recurring work be due at most so many seconds from now, whatever clock put it off; tell whether it was later."""
    return _NOT_LATER.execute(connection, key_=key, now_=ahead(), most_=ahead(seconds + SLACK)) > 0


def settle(connection: sa.Connection, settled: Sequence[Settlement]) -> list[Job]:
    """Write what became of jobs, each under its fence: whoever has taken one over since decides about it.

    Returns:
        The jobs that were somebody else's already.
    """
    ordered = sorted(settled, key=lambda one: one[0].id)
    done = pipeline(connection, [_settling(job, after) for job, after in ordered])
    return [job for (job, _), each in zip(ordered, done, strict=True) if not each.count]


def _settling(job: Job, after: After | None) -> tuple[Statement, dict[str, Any]]:
    mine = {"id_": job.id, "fence_": job.fence}
    if after is None:
        return _DELETE, mine
    if after is BACK:
        return _BACK, mine
    return _LATER, mine | {
        "in_": ahead(after.seconds), "now_": ahead(), "failures_": after.failures, "error_": after.error,
        "state_": "poisoned" if after.given_up else "open",
    }  # fmt: skip


def _by_id(rows: Sequence[Any]) -> list[Any]:
    """In an order that all have in common: none then waits for a row of one who waits for its own."""
    return sorted(rows, key=lambda row: str(row.id))


def _around(first: Done, then: Done, most: int) -> list[Any]:
    known: dict[str, Any] = {row.id: row for row in (*first.rows, *then.rows)}
    return list(known.values())[:most]


_C = jobs.c
_COLUMNS = (
    _C.id, _C.kind, _C.payload, _C.failures, _C.fence, _C.rank, _C.vendor, _C.site, _C.sender, _C.severity,
)  # fmt: skip


# The columns of a row that is read through one index (`_by`).
_Q = SimpleNamespace(**{one.name: sa.literal_column(f"q.{one.name}", type_=one.type) for one in jobs.columns})


def _now(dialect: str, name: str = "now_") -> sa.ColumnElement[Any]:
    return moment(dialect, bind(name))


def _by(dialect: str, index: str) -> sa.TextClause:
    """Give the jobs, named q, through an index.

    SQLite would take one that it likes as well and walk all that is due of a lane; SQLAlchemy gives it no hint.
    """
    return sa.text(f"jobs AS q INDEXED BY ix_jobs_{index}" if dialect == "sqlite" else "jobs AS q")


def _look(dialect: str) -> Any:
    def some(index: str, *where: Any) -> sa.ColumnElement[bool]:
        return sa.exists(sa.select(sa.literal_column("1")).select_from(_by(dialect, index)).where(*where))

    columns: list[sa.ColumnElement[Any]] = []
    for lane in Lane:
        here = _Q.lane == str(lane)
        due = some("put_off", PUT_OFF, here, _Q.due_at <= _now(dialect))
        columns.append(sa.or_(some("ready", READY, here), due).label(str(lane)))
    leased = (
        sa.select(_Q.lease_until).select_from(_by(dialect, "leased")).where(LEASED, OPEN).limit(sa.literal_column("1"))
    )
    first, last = (leased.order_by(order).scalar_subquery() for order in (_Q.lease_until, _Q.lease_until.desc()))
    return sa.select(*columns, sa.or_(first < _now(dialect), last > _now(dialect, "most_")).label("lost"))


def _walk(dialect: str, *bound: sa.ColumnElement[bool], within: Any = None) -> Any:
    """Give the first id, in the order of the index, of a sender within a bound; one that the index can be asked for."""
    here = (READY, _Q.lane == sa.bindparam("lane_"), _Q.rank == sa.bindparam("rank_"), *bound)
    found = sa.select(_Q.id).select_from(_by(dialect, "ready")).where(*here)
    found = found.order_by(_Q.vendor, _Q.sender, _Q.turn_at).limit(1)
    return (found if within is None else found.correlate(within)).scalar_subquery()


def _next(dialect: str, vendor: Any, sender: Any, within: Any = None) -> sa.ColumnElement[Any]:
    """Give the first id of the sender after one: the vendor's next, or the next vendor's first.

    A comparison of pairs would be asked of the index by its first half only, and walk all that one vendor has waiting.
    """
    of_vendor = _walk(dialect, _Q.vendor == vendor, _Q.sender > sender, within=within)
    return sa.func.coalesce(of_vendor, _walk(dialect, _Q.vendor > vendor, within=within))


def _job(dialect: str, id_: Any, name: str) -> Any:
    """Give the row of an id for a join; on PostgreSQL one that cannot become a look at all rows, whatever it guesses."""
    if dialect == "sqlite":
        return jobs.alias(name)
    return sa.select(jobs).where(_C.id == id_).limit(sa.literal_column("1")).lateral(name)


def _heads(dialect: str, start: str) -> sa.Select[Any]:
    """Give the first job of each sender: those after a place, up to it, or of vendors above or below one."""
    vendor, sender = (sa.bindparam(f"{name}_", type_=_C[name].type) for name in ("vendor", "sender"))
    begin: dict[str, Any] = {
        "after": _next(dialect, vendor, sender), "above": _walk(dialect, _Q.vendor > vendor),
        "up_to": _walk(dialect), "below": _walk(dialect),
    }  # fmt: skip

    def reached(row: Any) -> sa.ColumnElement[bool]:
        """Whether the walk has not come to its end with this row; it is not looked beyond it."""
        if start == "up_to":
            return sa.tuple_(row.c.vendor, row.c.sender) <= sa.tuple_(vendor, sender)
        return row.c.vendor < vendor if start == "below" else sa.true()

    one: Any = sa.literal_column("1")
    first = jobs.alias("first")
    found = sa.select(first.c.id, first.c.vendor, first.c.sender, one.label("n"))
    walk = found.where(first.c.id == begin[start], reached(first)).cte("heads", recursive=True)
    step = _next(dialect, walk.c.vendor, walk.c.sender, within=walk)
    following = _job(dialect, step, "following")
    row = sa.select(following.c.id, following.c.vendor, following.c.sender, walk.c.n + one)
    row = row.select_from(walk.join(following, following.c.id == step if dialect == "sqlite" else sa.true()))
    most = sa.bindparam("most_", type_=sa.Integer)
    walk = walk.union_all(row.where(walk.c.n < most, reached(following)))
    head = _job(dialect, walk.c.id, "head")
    columns = [head.c[column.name] for column in _COLUMNS]
    in_turn = walk.outerjoin(head, head.c.id == walk.c.id)  # each is there; SQLite begins with what stands on the left
    return sa.select(*columns).select_from(in_turn).order_by(walk.c.n)


def _top(dialect: str) -> sa.Select[Any]:
    here = (getattr(_Q, name) == sa.bindparam(f"{name}_") for name in ("lane", "rank", "vendor", "sender"))
    found = sa.select(*(getattr(_Q, column.name).label(column.name) for column in _COLUMNS)).select_from(
        _by(dialect, "ready")
    )
    return found.where(READY, *here).order_by(_Q.turn_at).limit(sa.bindparam("most_", type_=sa.Integer))


def _page(dialect: str, index: str, order: sa.ColumnElement[Any], *where: Any) -> sa.ColumnElement[bool]:
    page = (
        sa.select(_Q.id)
        .select_from(_by(dialect, index))
        .where(*where)
        .order_by(order)
        .limit(sa.literal_column(str(PAGE)))
    )
    return _C.id.in_((page.with_for_update(skip_locked=True) if dialect == "postgresql" else page).scalar_subquery())


def _promote(dialect: str) -> sa.Update:
    if dialect == "postgresql":
        turn = _C.due_at - _C.severity * sa.literal_column(f"interval '{STEP:g} second'")
    else:
        back = sa.func.printf(sa.literal_column("'%d seconds'"), _C.severity * sa.literal_column(f"-{STEP:g}"))
        turn = sa.func.strftime(sa.literal_column("'%Y-%m-%d %H:%M:%f000'"), _C.due_at, back)
    due = (PUT_OFF, _Q.lane == sa.bindparam("lane_"), _Q.due_at <= _now(dialect))
    page = _page(dialect, "put_off", _Q.due_at, *due)
    return jobs.update().where(page).values(turn_at=sa.type_coerce(turn, _C.turn_at.type))


def _put_right(dialect: str) -> sa.Update:
    if dialect == "postgresql":
        distance: Any = bind("now_") + sa.func.extract("epoch", _C.due_at - _C.set_at)
    else:
        days = sa.func.julianday(_C.due_at) - sa.func.julianday(_C.set_at)
        distance = sa.func.round(bind("now_") + days * sa.literal_column("86400.0"), sa.literal_column("3"))
    due = moment(dialect, distance)
    ahead_of = sa.and_(OPEN, _C.lease_until.is_(None), _C.turn_at.is_(None), _C.set_at > _now(dialect, "soon_"))
    return jobs.update().where(ahead_of).values(due_at=due, set_at=_now(dialect))


def _not_later(dialect: str) -> sa.Update:
    late = sa.and_(_C.key == sa.bindparam("key_"), _C.lease_until.is_(None), _C.due_at > _now(dialect, "most_"))
    return jobs.update().where(late).values(due_at=_now(dialect), set_at=_now(dialect), turn_at=None)


def _free(dialect: str) -> sa.Update:
    turn = sa.func.coalesce(_C.turn_at, _C.due_at)
    ended = sa.or_(_Q.lease_until < _now(dialect), _Q.lease_until > _now(dialect, "most_"))
    page = _page(dialect, "leased", _Q.lease_until, LEASED, OPEN, ended)
    return jobs.update().where(page).values(lease_until=None, turn_at=turn)


def _mine(*more: Any) -> tuple[Any, ...]:
    return (_C.id == sa.bindparam("id_"), _C.fence == sa.bindparam("fence_"), *more)


def _leased_until(dialect: str) -> sa.ColumnElement[Any]:
    return moment(dialect, bind("until_"))


_LOOK = Statement(_look)
_AFTER, _UP_TO, _ABOVE, _BELOW = (
    Statement(partial(_heads, start=start)) for start in ("after", "up_to", "above", "below")
)
_TOP = Statement(_top)
_PROMOTE = Statement(_promote)
_FREE = Statement(_free)
_PUT_RIGHT = Statement(_put_right)
_NOT_LATER = Statement(_not_later)
_CLAIM = Statement(
    lambda dialect: (
        jobs.update()
        .where(*_mine(OPEN, _C.lease_until.is_(None)))
        .values(fence=_C.fence + 1, lease_until=_leased_until(dialect))
    )
)
_RENEW = Statement(lambda dialect: jobs.update().where(*_mine(LEASED)).values(lease_until=_leased_until(dialect)))
_DELETE = Statement(jobs.delete().where(*_mine()))
_BACK = Statement(jobs.update().where(*_mine()).values(lease_until=None))
_LATER = Statement(
    lambda dialect: jobs.update().where(*_mine()).values(
        due_at=moment(dialect, bind("in_")), set_at=_now(dialect), turn_at=None, lease_until=None,
        fence=_C.fence + 1,  # whoever goes on with it past its deadline has an old one
        failures=sa.bindparam("failures_", type_=sa.Integer), state=sa.bindparam("state_", type_=sa.String),
        last_error=sa.func.coalesce(sa.bindparam("error_", type_=sa.Text), _C.last_error),
    )
)  # fmt: skip
