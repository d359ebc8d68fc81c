"""The reconciler: drives the enforcement points to the wanted level, back, and again after they forgot.

`want` writes one row per point in the containment's own unit. A point of our own is driven in it and is settled there, or
(the device door) by what the doors say of themselves soon after: job ``soar.verify``, many rows in one unit. Job
``soar.enforce`` drives one row of any other point; recurring work ``soar.reconcile`` observes all points and makes the rows
due whose point lost them (a broker restarted with an old state file). An intent id names one wish: a late worker whose
intent is no longer the row's writes nothing. What a point contains without a row of ours is somebody else's and is left
alone. Limits: a point that is away is tried every 30 s at least.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices, enforcement
from lachan.database import after_commit
from lachan.enforcement import EnforcementPoint, Evidence, Level, OwnPoint, PagedPoint, Target
from lachan.errors import DatabaseAway, LachanError
from lachan.ids import new_id
from lachan.log import get as get_logger
from lachan.statements import Statement, among, insert_or_replace, later, listed, pipeline
from lachan.work import jobs, outbox
from soar_playbooks import faults
from soar_playbooks.containment import kept
from soar_playbooks.containment.records import Wish
from soar_playbooks.models import LIVE, enforcements
from soar_playbooks.states import ACTOR

if TYPE_CHECKING:
    from lachan.runtime import Runtime

PENDING, SETTLED = "pending", "settled"
CUTS = Level.QUARANTINE
PAGE = 500  # rows read at once
CORRECTED = 100  # rows made due in one unit
SOON = timedelta(seconds=0.1)  # a door applies a change within that time
PATIENCE = 30.0  # seconds: longest pause between two tries
log = get_logger(__name__)


def want(rt: Runtime, connection: sa.Connection, target: Target, *, containment_id: str, level: Level | None) -> None:
    """Bring every point to a level, or make it due, in the caller's unit; None drives it back to nothing."""
    if level is Level.OBSERVE:
        level = None
    if level is None and not state_of(connection, target.device_id):
        return
    writes: list[tuple[Statement, Mapping[str, Any]]] = []
    for name, point in enforcement.points(rt).items():
        if level is None and _THERE.scalar(connection, device_id_=target.device_id, point_=name) is None:
            continue
        wish = Wish(
            device_id=target.device_id, point=name, containment_id=containment_id, wanted=level, state=PENDING,
            intent=new_id(), attempts=0, evidence=None, last_error="", updated_at=clock.now(),
        )  # fmt: skip
        ours = enforcement.own(point)
        seen = None if ours is None else ours.join(rt, connection, target, level, intent=wish.intent)
        if seen is None:
            writes.append((_WRITE, wish.columns))
            _enqueue(connection, wish, key=None, vendor=target.vendor)
            after_commit(connection, rt.wake_workers)
            continue
        row = replace(wish, state=SETTLED if seen.settled else PENDING, evidence=kept.stored(wish, seen))
        writes.append((_WRITE, row.columns))
        if seen.settled:
            writes += outbox.calls(
                kept.fact(wish, seen), actor=ACTOR, vendor=target.vendor, dialect=connection.dialect.name
            )[1]
        else:
            jobs.enqueue(connection, "soar.verify", wish.key, due_at=clock.now() + SOON, vendor=target.vendor)
    later(connection, writes)


@jobs.batched
def verify(rt: Runtime, together: list[jobs.Job]) -> dict[str, datetime]:
    """Look whether points of our own have settled, and write it down, all in one unit (job ``soar.verify``).

    Returns:
        The jobs of those that have not, with the time of the next look.
    """
    with rt.db.read() as connection:
        ids = listed(connection.dialect.name, sorted({job.payload["device_id"] for job in together}))
        there = {(row.device_id, row.point, row.intent): row for row in _WISHES.all(connection, devices=ids)}
    found: list[tuple[jobs.Job, Wish, Target, Evidence]] = []
    for name, point in enforcement.points(rt).items():
        if not isinstance(point, OwnPoint):
            continue
        mine = [(job, row) for job in together if (row := there.get(_key(job))) is not None and row.point == name]
        wanted = [(_target_of(row), Level(row.wanted) if row.wanted else None) for _, row in mine]
        evidence = point.verify_all(rt, wanted) if mine else []
        for (job, row), (target, _), seen in zip(mine, wanted, evidence, strict=True):
            wish = Wish.of(row)
            found.append((job, replace(wish, attempts=wish.attempts + 1), target, seen))
    if found:
        faults.run(rt, faults.Record.SETTLE, partial(_verified, found=found))
    return {job.id: _later(row.attempts) for job, row, _, seen in found if not seen.settled}


def _verified(connection: sa.Connection, *, found: Sequence[tuple[jobs.Job, Wish, Target, Evidence]]) -> None:
    """Write down what points of our own have been seen to do, as a unit; of what is no wish any more nothing."""
    now = clock.now()
    calls = [
        (_SEEN, _named(row.key) | {
            "evidence_": kept.stored(row, seen), "state_": SETTLED if seen.settled else PENDING, "attempts_": row.attempts,
            "updated_at_": now,
        })
        for _, row, _, seen in found
    ]  # fmt: skip
    told: list[tuple[Statement, Mapping[str, Any]]] = []
    for (_, row, target, seen), done in zip(found, pipeline(connection, calls), strict=True):
        if done.count and seen.settled:
            fact = kept.fact(row, seen)
            told += outbox.calls(fact, actor=ACTOR, vendor=target.vendor, dialect=connection.dialect.name)[1]
    later(connection, told)


def _key(job: jobs.Job) -> tuple[str, str, str]:
    return job.payload["device_id"], job.payload["point"], job.payload["intent"]


def _target_of(row: Any) -> Target:
    return Target(device_id=row.device_id, name=row.name, vendor=row.vendor, site=row.site)


def enforce(rt: Runtime, job: jobs.Job) -> None:
    """Drive one row (job ``soar.enforce``); tries again, with growing pauses, until the point has settled."""
    row = _begin(rt, job)
    if row is None:
        return
    point = enforcement.points(rt).get(row.point)
    if point is None:
        return
    target = _target(rt, row.device_id)
    try:
        evidence = _drive(rt, point, target, row)
    except LachanError as error:
        _note(rt, row, error=f"{type(error).__name__}: {error.detail}")
        raise jobs.Again(_later(row.attempts)) from error
    except OSError as error:
        _note(rt, row, error=f"{type(error).__name__}: {error}")
        raise jobs.Again(_later(row.attempts)) from error
    faults.done(rt, faults.Effect.POINT)
    _settle(rt, job, row, evidence)
    if not evidence.settled:
        raise jobs.Again(_later(row.attempts))


@dataclass
class Places:
    """Where the next look at each point goes on, in its rows and in its own list; kept for the life of a process."""

    rows: dict[str, str] = field(default_factory=dict)
    points: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Forget them: the next process begins at the beginning."""


def reconcile(rt: Runtime) -> None:
    """Compare the next part of every point with what is wanted and make the differences due (recurring ``soar.reconcile``).

    A turn looks at `PAGE` rows of a point, whatever is contained, and goes on from there at the next turn.
    """
    for name, point in enforcement.points(rt).items():
        rows, wanted = _next_rows(rt, name)
        try:
            observed = _observed(rt, point, wanted)
        except DatabaseAway:  # it was said, once, and it is nobody's point
            raise
        except (LachanError, OSError) as error:
            log.warning("enforcement point does not answer", point=name, error=str(error))
            continue
        rows += _rows_of(rt, name, observed.keys() - {row.device_id for row in rows})
        own = isinstance(point, OwnPoint)
        wrong = [row for row in rows if _is_wrong(row, observed.get(row.device_id), own=own)]
        for start in range(0, len(wrong), CORRECTED):
            rt.db.run(partial(_correct, rows=wrong[start : start + CORRECTED]))


def _next_rows(rt: Runtime, point: str) -> tuple[list[Wish], list[tuple[Target, Level | None]]]:
    """Read the next of a point's rows that are driven there now, with their devices and what is wanted of them."""
    places = rt.keep(Places, Places).rows
    with rt.db.read() as connection:
        found = _LIVE_AFTER.all(connection, point_=point, after_=places.get(point, ""), most_=PAGE)
    places[point] = found[-1].device_id if len(found) == PAGE else ""
    rows = [Wish.of(row) for row in found]
    return rows, [(_target_of(each), row.wanted) for each, row in zip(found, rows, strict=True)]


def _observed(rt: Runtime, point: EnforcementPoint, wanted: list[tuple[Target, Level | None]]) -> dict[str, Level]:
    """Look at the next part of a point; one that cannot be looked at in parts tells all that it contains.

    Raises:
        LachanError, OSError: it does not answer.
    """
    if not isinstance(point, PagedPoint):
        return point.observe(rt)
    places = rt.keep(Places, Places).points
    seen = point.look(rt, wanted, cursor=places.get(point.name, ""), most=PAGE)
    places[point.name] = seen.cursor
    return seen.levels


def _rows_of(rt: Runtime, point: str, device_ids: Iterable[str]) -> list[Wish]:
    """Read a point's rows of some devices, a page at a time."""
    found, ids = list[Wish](), sorted(device_ids)
    for start in range(0, len(ids), PAGE):
        with rt.db.read() as connection:
            page = listed(connection.dialect.name, ids[start : start + PAGE])
            found += [Wish.of(row) for row in _AT.all(connection, devices=page, point_=point)]
    return found


def _is_wrong(row: Wish, observed: Level | None, *, own: bool) -> bool:
    """Tell whether a row's point is not as the row says, or nobody drives it there."""
    if row.state == SETTLED:
        return _differs(row, observed, own=own)
    return _older(row.updated_at, 2 * timedelta(seconds=PATIENCE))


def _correct(connection: sa.Connection, *, rows: Sequence[Wish]) -> None:
    """Make rows due again, as a unit; one that somebody changed since it was read stays as it is."""
    for row in rows:
        if row.state == SETTLED:
            _again(connection, row)
        else:
            _enqueue(connection, row, key=f"enforce:{row.intent}")


def state_of(connection: sa.Connection, device_id: str) -> list[Wish]:
    """Tell what was driven to which point for a device, with the latest evidence."""
    query = sa.select(enforcements).where(enforcements.c.device_id == device_id).order_by(enforcements.c.point)
    return [Wish.of(row) for row in connection.execute(query)]


def _begin(rt: Runtime, job: jobs.Job) -> Wish | None:
    """Count the attempt before anything is done outside; None if the wish is no longer the row's, or the job this worker's."""
    where = sa.and_(
        enforcements.c.device_id == job.payload["device_id"],
        enforcements.c.point == job.payload["point"],
        enforcements.c.intent == job.payload["intent"],
    )

    def unit(connection: sa.Connection) -> Wish | None:
        row = connection.execute(sa.select(enforcements).where(where)).first()
        if row is None or row.state == SETTLED or not _held(connection, job):
            return None
        connection.execute(enforcements.update().where(where).values(attempts=row.attempts + 1))
        return replace(Wish.of(row), attempts=row.attempts + 1)

    return faults.run(rt, faults.Record.ENFORCE, unit)


def _drive(rt: Runtime, point: EnforcementPoint, target: Target, row: Wish) -> Evidence:
    if row.wanted is None:
        return point.release(rt, target, intent=row.intent)
    evidence = point.apply(rt, target, row.wanted, intent=row.intent)
    return evidence if evidence.settled else point.verify(rt, target, row.wanted)


def _held(connection: sa.Connection, job: jobs.Job) -> bool:
    """Tell whether a job is still this worker's: one with a newer fence drives the wish, and says what came of it."""
    return _FENCE.first(connection, id_=job.id, fence_=job.fence) is not None


def _settle(rt: Runtime, job: jobs.Job, row: Wish, evidence: Evidence) -> None:
    stored = kept.stored(row, evidence)
    values = {"state": SETTLED if evidence.settled else PENDING, "evidence": stored, "last_error": ""}

    def unit(connection: sa.Connection) -> None:
        if not _held(connection, job):
            return
        updated = connection.execute(_mine(row).values(**values, updated_at=clock.now())).rowcount
        if updated and evidence.settled and not stored["redundant"]:
            outbox.append(connection, kept.fact(row, evidence), actor=ACTOR)

    faults.run(rt, faults.Record.SETTLE, unit)


def _note(rt: Runtime, row: Wish, *, error: str) -> None:
    noted = _mine(row).values(last_error=error[:2000], updated_at=clock.now())
    rt.db.run(lambda connection: connection.execute(noted).rowcount)


def _mine(row: Wish) -> Any:
    """Update the row while it still has this intent and has not settled."""
    return enforcements.update().where(
        enforcements.c.device_id == row.device_id,
        enforcements.c.point == row.point,
        enforcements.c.intent == row.intent,
        enforcements.c.state == PENDING,
    )


def _differs(row: Wish, observed: Level | None, *, own: bool) -> bool:
    """Tell whether a settled row must be driven again.

    Mild levels are not every point's business, so only what cuts is compared. A point whose evidence says *settled* while
    it observes nothing (no certificate to hold) has done it all: it is asked again after a minute, not at every look; one of
    our own not at all, since nothing comes to be there that its unit has not seen.
    """
    if row.wanted is None or row.wanted.rank < CUTS.rank:
        return observed is not None and observed.rank >= CUTS.rank
    if observed is not None and observed.rank >= CUTS.rank:
        return False
    redundant = bool((row.evidence or {}).get("redundant"))
    return not redundant or (not own and _older(row.updated_at, timedelta(seconds=60)))


def _older(moment: datetime, age: timedelta) -> bool:
    """Tell whether something is of such an age; what lies ahead is older than the clock's setting."""
    return moment < clock.now() - age or clock.lies_ahead(moment)


def _again(connection: sa.Connection, row: Wish) -> None:
    intent = new_id()
    where = sa.and_(
        enforcements.c.device_id == row.device_id,
        enforcements.c.point == row.point,
        enforcements.c.intent == row.intent,
        enforcements.c.state == SETTLED,
    )
    values = {"state": PENDING, "intent": intent, "attempts": 0, "updated_at": clock.now()}
    if connection.execute(enforcements.update().where(where).values(**values)).rowcount:
        _enqueue(connection, replace(row, intent=intent), key=None)


def _enqueue(connection: sa.Connection, row: Wish, *, key: str | None, vendor: str = "") -> None:
    jobs.enqueue(connection, "soar.enforce", row.key, key=key, sender=f"point:{row.point}", vendor=vendor)


def _target(rt: Runtime, device_id: str) -> Target:
    with rt.db.read() as connection:
        return _target_in(connection, device_id)


def _target_in(connection: sa.Connection, device_id: str) -> Target:
    return target_of(devices.get(connection, device_id))


def target_of(device: devices.Device) -> Target:
    """Give a device as the points see it."""
    return Target(device_id=device.id, name=device.name, vendor=device.vendor, site=device.site)


def _later(attempts: int) -> datetime:
    return clock.now() + timedelta(seconds=min(0.1 * 2**attempts, PATIENCE))


def _named(key: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_": key[name] for name in ("device_id", "point", "intent")}


def _binds(*names: str) -> dict[str, Any]:
    return {name: sa.bindparam(f"{name}_", type_=enforcements.c[name].type) for name in names}


_C = enforcements.c
_HERE = (_C.device_id == sa.bindparam("device_id_"), _C.point == sa.bindparam("point_"))
_STILL = (*_HERE, _C.intent == sa.bindparam("intent_"), _C.state == PENDING)
_COLUMNS = (
    "device_id", "point", "containment_id", "wanted", "state", "intent", "attempts", "evidence", "last_error", "updated_at",
)  # fmt: skip
_THERE = Statement(sa.select(_C.intent).where(*_HERE))
_WRITE = insert_or_replace(enforcements, *_COLUMNS, index=("device_id", "point"))
_SEEN = Statement(
    enforcements.update().where(*_STILL).values(**_binds("state", "evidence", "attempts", "updated_at"), last_error="")
)
_J = jobs.jobs.c
_FENCE = Statement(sa.select(_J.id).where(_J.id == sa.bindparam("id_"), _J.fence == sa.bindparam("fence_")))
_D = devices.devices.c
_WISHES = Statement(
    lambda dialect: (
        sa.select(enforcements, _D.name, _D.vendor, _D.site)
        .join(devices.devices, _D.id == _C.device_id)
        .where(among(dialect, _C.device_id, "devices"), _C.state == PENDING)
    )
)
_LIVE_PAGE = (
    sa.select(enforcements)
    .where(_C.point == sa.bindparam("point_"), LIVE, _C.device_id > sa.bindparam("after_"))
    .order_by(_C.device_id)
    .limit(sa.bindparam("most_", type_=sa.Integer))
    .subquery()
)
_LIVE_AFTER = Statement(
    sa.select(_LIVE_PAGE, _D.name, _D.vendor, _D.site)
    .join(devices.devices, _D.id == _LIVE_PAGE.c.device_id)
    .order_by(_LIVE_PAGE.c.device_id)
)
_AT = Statement(
    lambda dialect: sa.select(enforcements).where(
        among(dialect, _C.device_id, "devices"), _C.point == sa.bindparam("point_")
    )
)
