"""The reconciler: drives the enforcement points to the wanted level, back, and again after they forgot.

`want` writes one row per point in the containment's own unit. A point of our own is driven in it and is settled there, or
(the device door) by what the doors say of themselves soon after: job ``soar.verify``, many rows in one unit. Job
``soar.enforce`` drives one row of any other point; recurring work ``soar.reconcile`` observes all points and makes the rows
due whose point lost them (a broker restarted with an old state file). An intent id names one wish: a late worker whose
intent is no longer the row's writes nothing. What a point contains without a row of ours is somebody else's and is left
alone. Limits: a point that is away is tried every 30 s at least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices, enforcement
from lachan.enforcement import EnforcementPoint, Evidence, Level, OwnPoint, Target
from lachan.errors import LachanError
from lachan.events import EnforcementSettled
from lachan.ids import new_id
from lachan.log import get as get_logger
from lachan.statements import Statement, among, insert_or_replace, later, listed, pipeline
from lachan.work import jobs, outbox
from soar_playbooks import faults
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
        seen = None
        if isinstance(point, OwnPoint):
            seen = point.join(rt, connection, target, level, intent=wish.intent)
        if seen is None:
            writes.append((_WRITE, wish.columns))
            _enqueue(connection, wish, key=None)
            continue
        row = replace(wish, state=SETTLED if seen.settled else PENDING, evidence=_stored(wish, seen))
        writes.append((_WRITE, row.columns))
        if seen.settled:
            writes += outbox.calls(
                _settled(wish, seen), actor=ACTOR, vendor=target.vendor, dialect=connection.dialect.name
            )[1]
        else:
            jobs.enqueue(connection, "soar.verify", wish.key, due_at=clock.now() + SOON)
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
            "evidence_": _stored(row, seen), "state_": SETTLED if seen.settled else PENDING, "attempts_": row.attempts,
            "updated_at_": now,
        })
        for _, row, _, seen in found
    ]  # fmt: skip
    told: list[tuple[Statement, Mapping[str, Any]]] = []
    for (_, row, target, seen), done in zip(found, pipeline(connection, calls), strict=True):
        if done.count and seen.settled:
            fact = _settled(row, seen)
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
    _settle(rt, row, evidence)
    if not evidence.settled:
        raise jobs.Again(_later(row.attempts))


def reconcile(rt: Runtime) -> None:
    """Compare every point with what is wanted and make the differences due (recurring ``soar.reconcile``)."""
    for name, point in enforcement.points(rt).items():
        try:
            observed = point.observe(rt)
        except (LachanError, OSError) as error:
            log.warning("enforcement point does not answer", point=name, error=str(error))
            continue
        for page in _pages(rt, name, observed):
            wrong = [row for row in page if _is_wrong(row, observed.get(row.device_id))]
            for start in range(0, len(wrong), CORRECTED):
                rt.db.run(partial(_correct, rows=wrong[start : start + CORRECTED]))


def _pages(rt: Runtime, point: str, observed: Collection[str]) -> Iterator[list[Wish]]:
    """Read a point's rows a page at a time: those that are live, then those of devices that it contains without one."""
    of_point = sa.select(enforcements).where(enforcements.c.point == point)
    live = of_point.where(LIVE).order_by(enforcements.c.device_id).limit(PAGE)
    left, last = set(observed), ""
    while True:
        with rt.db.read() as connection:
            page = [Wish.of(row) for row in connection.execute(live.where(enforcements.c.device_id > last))]
        yield page
        left -= {row.device_id for row in page}
        if len(page) < PAGE:
            break
        last = page[-1].device_id
    others = sorted(left)
    for start in range(0, len(others), PAGE):
        theirs = of_point.where(enforcements.c.device_id.in_(others[start : start + PAGE]))
        with rt.db.read() as connection:
            page = [Wish.of(row) for row in connection.execute(theirs)]
        yield page


def _is_wrong(row: Wish, observed: Level | None) -> bool:
    """Tell whether a row's point is not as the row says, or nobody drives it there."""
    if row.state == SETTLED:
        return _differs(row, observed)
    return bool(row.updated_at < clock.now() - 2 * timedelta(seconds=PATIENCE))


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
    """Count the attempt before anything is done outside; None if the wish is no longer the row's."""
    where = sa.and_(
        enforcements.c.device_id == job.payload["device_id"],
        enforcements.c.point == job.payload["point"],
        enforcements.c.intent == job.payload["intent"],
    )

    def unit(connection: sa.Connection) -> Wish | None:
        row = connection.execute(sa.select(enforcements).where(where)).first()
        if row is None or row.state == SETTLED:
            return None
        connection.execute(enforcements.update().where(where).values(attempts=row.attempts + 1))
        return replace(Wish.of(row), attempts=row.attempts + 1)

    return faults.run(rt, faults.Record.ENFORCE, unit)


def _drive(rt: Runtime, point: EnforcementPoint, target: Target, row: Wish) -> Evidence:
    if row.wanted is None:
        return point.release(rt, target, intent=row.intent)
    evidence = point.apply(rt, target, row.wanted, intent=row.intent)
    return evidence if evidence.settled else point.verify(rt, target, row.wanted)


def _settle(rt: Runtime, row: Wish, evidence: Evidence) -> None:
    stored = _stored(row, evidence)
    values = {"state": SETTLED if evidence.settled else PENDING, "evidence": stored, "last_error": ""}

    def unit(connection: sa.Connection) -> None:
        updated = connection.execute(_mine(row).values(**values, updated_at=clock.now())).rowcount
        if updated and evidence.settled and not stored["redundant"]:
            _tell(connection, row, evidence)

    faults.run(rt, faults.Record.SETTLE, unit)


def _stored(row: Wish, evidence: Evidence) -> dict[str, Any]:
    """Give what is kept of evidence; it is redundant if it says what was known, or that there was nothing to do."""
    detail = _detail(row, evidence)
    same = _essence(row.evidence) == _essence(detail)
    redundant = evidence.settled and (same or bool(evidence.detail.get("nothing")))
    return {
        **detail, "settled": evidence.settled, "observed_at": clock.iso(evidence.observed_at), "redundant": redundant,
    }  # fmt: skip


def _detail(row: Wish, evidence: Evidence) -> dict[str, Any]:
    return {**evidence.detail, "level": str(row.wanted or "none"), "attempts": row.attempts}


def _tell(connection: sa.Connection, row: Wish, evidence: Evidence) -> None:
    outbox.append(connection, _settled(row, evidence), actor=ACTOR)


def _settled(row: Wish, evidence: Evidence) -> EnforcementSettled:
    return EnforcementSettled(
        device_id=row.device_id, containment_id=row.containment_id, point=row.point,
        evidence=_detail(row, evidence),
    )  # fmt: skip


def _essence(detail: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Give evidence without what differs at every look; a point that did something again says so by its own fields."""
    noise = {"intent", "attempts", "nothing", "settled", "observed_at", "redundant"}
    return None if detail is None else {name: value for name, value in detail.items() if name not in noise}


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


def _differs(row: Wish, observed: Level | None) -> bool:
    """Tell whether a settled row must be driven again.

    Mild levels are not every point's business, so only what cuts is compared. A point whose evidence says *settled* while
    it observes nothing (no certificate to hold) has done it all: it is asked again after a minute, not at every look.
    """
    if row.wanted is None or row.wanted.rank < CUTS.rank:
        return observed is not None and observed.rank >= CUTS.rank
    if observed is not None and observed.rank >= CUTS.rank:
        return False
    redundant = bool((row.evidence or {}).get("redundant"))
    return not redundant or row.updated_at < clock.now() - timedelta(seconds=60)


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


def _enqueue(connection: sa.Connection, row: Wish, *, key: str | None) -> None:
    jobs.enqueue(connection, "soar.enforce", row.key, key=key)


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
_D = devices.devices.c
_WISHES = Statement(
    lambda dialect: (
        sa.select(enforcements, _D.name, _D.vendor, _D.site)
        .join(devices.devices, _D.id == _C.device_id)
        .where(among(dialect, _C.device_id, "devices"), _C.state == PENDING)
    )
)
