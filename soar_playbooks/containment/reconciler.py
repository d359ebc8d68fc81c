"""The reconciler: drives the enforcement points to the wanted level, back, and again after they forgot.

`want` writes one row per point in the containment's own transaction; job ``soar.enforce`` drives one row; recurring work
``soar.reconcile`` observes all points and makes the rows due whose point lost them (a broker restarted with an old state
file). An intent id names one wish: a late worker whose intent is no longer the row's writes nothing. What a point contains
without a row of ours is somebody else's and is left alone. Limits: a point that is away is tried every 30 s at least.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices, enforcement
from lachan.enforcement import EnforcementPoint, Evidence, Level, Target
from lachan.errors import LachanError
from lachan.events import EnforcementSettled
from lachan.ids import new_id
from lachan.log import get as get_logger
from lachan.work import jobs, outbox
from soar_playbooks import faults
from soar_playbooks.models import enforcements

if TYPE_CHECKING:
    from lachan.runtime import Runtime

PENDING, SETTLED = "pending", "settled"
CUTS = Level.QUARANTINE
PATIENCE = 30.0  # seconds: longest pause between two tries
log = get_logger(__name__)


def want(rt: Runtime, connection: sa.Connection, *, device_id: str, containment_id: str, level: Level | None) -> None:
    """Make every point due for a device, in the caller's transaction; None drives it back to nothing."""
    if level is Level.OBSERVE:
        level = None
    for name in enforcement.points(rt):
        where = sa.and_(enforcements.c.device_id == device_id, enforcements.c.point == name)
        values = {
            "containment_id": containment_id, "wanted": level, "state": PENDING, "intent": new_id(), "attempts": 0,
            "last_error": "", "evidence": sa.null(), "updated_at": clock.now(),
        }  # fmt: skip
        if connection.execute(enforcements.update().where(where).values(**values)).rowcount == 0:
            if level is None:
                continue
            connection.execute(enforcements.insert().values(device_id=device_id, point=name, **values))
        jobs.enqueue(connection, "soar.enforce", {"device_id": device_id, "point": name, "intent": values["intent"]})


def enforce(rt: Runtime, job: jobs.Job) -> None:
    """Drive one row (job ``soar.enforce``); tries again, with growing pauses, until the point has settled."""
    row = _begin(rt, job)
    if row is None:
        return
    point = enforcement.points(rt).get(row["point"])
    if point is None:
        return
    target = _target(rt, row["device_id"])
    try:
        evidence = _drive(rt, point, target, row)
    except LachanError as error:
        _note(rt, row, error=f"{type(error).__name__}: {error.detail}")
        raise jobs.Again(_later(row["attempts"])) from error
    except OSError as error:
        _note(rt, row, error=f"{type(error).__name__}: {error}")
        raise jobs.Again(_later(row["attempts"])) from error
    faults.done(faults.Effect.POINT)
    _settle(rt, row, evidence)
    if not evidence.settled:
        raise jobs.Again(_later(row["attempts"]))


def reconcile(rt: Runtime) -> None:
    """Compare every point with what is wanted and make the differences due (recurring ``soar.reconcile``)."""
    for name, point in enforcement.points(rt).items():
        try:
            observed = point.observe(rt)
        except (LachanError, OSError) as error:
            log.warning("enforcement point does not answer", point=name, error=str(error))
            continue
        with rt.db.write() as connection:
            for row in _rows(connection, name):
                if row["state"] == SETTLED and _differs(row, observed.get(row["device_id"])):
                    _again(connection, row)
                elif row["state"] == PENDING and row["updated_at"] < clock.now() - 2 * timedelta(seconds=PATIENCE):
                    _enqueue(connection, row, key=f"enforce:{row['intent']}")


def state_of(connection: sa.Connection, device_id: str) -> list[dict[str, Any]]:
    """What was driven to which point for a device, with the latest evidence."""
    query = sa.select(enforcements).where(enforcements.c.device_id == device_id).order_by(enforcements.c.point)
    return [dict(row) for row in connection.execute(query).mappings()]


def _begin(rt: Runtime, job: jobs.Job) -> dict[str, Any] | None:
    """Count the attempt before anything is done outside; None if the wish is no longer the row's."""
    where = sa.and_(
        enforcements.c.device_id == job.payload["device_id"],
        enforcements.c.point == job.payload["point"],
        enforcements.c.intent == job.payload["intent"],
    )
    with faults.write(rt, faults.Record.ENFORCE) as connection:
        row = connection.execute(sa.select(enforcements).where(where)).mappings().first()
        if row is None or row["state"] == SETTLED:
            return None
        connection.execute(enforcements.update().where(where).values(attempts=row["attempts"] + 1))
        return {**row, "attempts": row["attempts"] + 1}


def _drive(rt: Runtime, point: EnforcementPoint, target: Target, row: dict[str, Any]) -> Evidence:
    if row["wanted"] is None:
        return point.release(rt, target, intent=row["intent"])
    evidence = point.apply(rt, target, Level(row["wanted"]), intent=row["intent"])
    return evidence if evidence.settled else point.verify(rt, target, Level(row["wanted"]))


def _settle(rt: Runtime, row: dict[str, Any], evidence: Evidence) -> None:
    detail = {**evidence.detail, "level": row["wanted"] or "none", "attempts": row["attempts"]}
    redundant = evidence.settled and _essence(row["evidence"]) == _essence(detail)
    stored = {
        **detail, "settled": evidence.settled, "observed_at": clock.iso(evidence.observed_at), "redundant": redundant,
    }  # fmt: skip
    from soar_playbooks.states import ACTOR

    with faults.write(rt, faults.Record.SETTLE) as connection:
        values = {"state": SETTLED if evidence.settled else PENDING, "evidence": stored, "last_error": ""}
        updated = connection.execute(_mine(row).values(**values, updated_at=clock.now())).rowcount
        if updated and evidence.settled and not redundant:
            event = EnforcementSettled(
                device_id=row["device_id"], containment_id=row["containment_id"], point=row["point"], evidence=detail
            )
            outbox.append(connection, event, actor=ACTOR)


def _essence(detail: dict[str, Any] | None) -> dict[str, Any] | None:
    """Evidence without what differs at every look; a point that did something again says so by its own fields."""
    noise = {"intent", "attempts", "settled", "observed_at", "redundant"}
    return None if detail is None else {name: value for name, value in detail.items() if name not in noise}


def _note(rt: Runtime, row: dict[str, Any], *, error: str) -> None:
    with rt.db.write() as connection:
        connection.execute(_mine(row).values(last_error=error[:2000], updated_at=clock.now()))


def _mine(row: dict[str, Any]) -> Any:
    """The row while it still has this intent and has not settled."""
    return enforcements.update().where(
        enforcements.c.device_id == row["device_id"],
        enforcements.c.point == row["point"],
        enforcements.c.intent == row["intent"],
        enforcements.c.state == PENDING,
    )


def _rows(connection: sa.Connection, point: str) -> list[dict[str, Any]]:
    here = enforcements.c.point == point
    return [dict(row) for row in connection.execute(sa.select(enforcements).where(here)).mappings()]


def _differs(row: dict[str, Any], observed: Level | None) -> bool:
    """Whether a settled row must be driven again.

    Mild levels are not every point's business, so only what cuts is compared. A point whose evidence says *settled* while
    it observes nothing (no certificate to hold) has done it all: it is asked again after a minute, not at every look.
    """
    wanted = Level(row["wanted"]) if row["wanted"] else None
    if wanted is None or wanted.rank < CUTS.rank:
        return observed is not None and observed.rank >= CUTS.rank
    if observed is not None and observed.rank >= CUTS.rank:
        return False
    redundant = bool((row["evidence"] or {}).get("redundant"))
    return not redundant or row["updated_at"] < clock.now() - timedelta(seconds=60)


def _again(connection: sa.Connection, row: dict[str, Any]) -> None:
    intent = new_id()
    where = sa.and_(
        enforcements.c.device_id == row["device_id"],
        enforcements.c.point == row["point"],
        enforcements.c.intent == row["intent"],
        enforcements.c.state == SETTLED,
    )
    values = {"state": PENDING, "intent": intent, "attempts": 0, "updated_at": clock.now()}
    if connection.execute(enforcements.update().where(where).values(**values)).rowcount:
        _enqueue(connection, {**row, "intent": intent}, key=None)


def _enqueue(connection: sa.Connection, row: dict[str, Any], *, key: str | None) -> None:
    payload = {"device_id": row["device_id"], "point": row["point"], "intent": row["intent"]}
    jobs.enqueue(connection, "soar.enforce", payload, key=key)


def _target(rt: Runtime, device_id: str) -> Target:
    with rt.db.read() as connection:
        device = devices.get(connection, device_id)
    return Target(device_id=device.id, name=device.name, vendor=device.vendor, site=device.site)


def _later(attempts: int) -> Any:
    return clock.now() + timedelta(seconds=min(0.1 * 2**attempts, PATIENCE))
