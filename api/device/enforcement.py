"""Enforcement point `device-door`: our own door, which asks trust at every request.

The door needs no order: the containment's trust signal stands in the same transaction as the containment. So `join` (in
that transaction) and `apply` only write down from which snapshot version on the door must act, and `verify` reads what
every running door says of itself: settled when each acts on that version or a later one, which means that it has closed the device's live
connections and refuses its requests. Limits: a door process that died is not asked; it lets nobody in either.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from api.models import door_closed, door_orders, door_status
from lachan import clock, trust
from lachan.enforcement import Evidence, Level, Target
from lachan.runtime import Runtime
from lachan.statements import Statement, insert_or_replace
from lachan.trust import Answer

ALIVE = timedelta(seconds=10)
_WANTED = {
    Level.OBSERVE: Answer.ALLOW,
    Level.DEGRADE: Answer.LIMITED,
    Level.QUARANTINE: Answer.QUARANTINE,
    Level.ISOLATE: Answer.QUARANTINE,
    Level.EVICT: Answer.DENY,
}


class DeviceDoor:
    """The device door as an enforcement point."""

    name = "device-door"

    def __init__(self, rt: Runtime) -> None:
        del rt  # every method is handed it

    def plan(self, rt: Runtime, target: Target, level: Level) -> list[str]:
        """Tell what `apply` would change, in words."""
        del rt
        if _WANTED[level] is Answer.ALLOW:
            return []
        if _WANTED[level] is Answer.LIMITED:
            return [f"answer {target.name} only what a degraded device may ask"]
        return [f"refuse every request of {target.name}", f"close the open connections of {target.name}"]

    def join(
        self, rt: Runtime, connection: sa.Connection, target: Target, level: Level | None, *, intent: str
    ) -> Evidence:
        """Write the order in the caller's unit, with the very version of its change; settled if no door runs."""
        del rt
        if level is None:
            _FORGET.execute(connection, device_id_=target.device_id)
        else:
            order = {"device_id": target.device_id, "level": str(level), "intent": intent, "ordered_at": clock.now()}
            trust.touch(connection, then=[(_WRITE_NOW, order)])
        doors = (_DOORS, {"since_": clock.now() - ALIVE})
        decision, (found,) = trust.decision_and(connection, target.device_id, [doors])
        live, answer = len(found.rows), decision.answer
        settled = live == 0 and answer.rank >= _WANTED[level or Level.OBSERVE].rank
        detail = {"doors": live, "behind": live, "answer": str(answer), "level": str(level or "none")}
        return Evidence(settled=settled, detail=detail, observed_at=clock.now())

    def verify_all(self, rt: Runtime, wanted: list[tuple[Target, Level | None]]) -> list[Evidence]:
        """Look at many devices in one reading."""
        with rt.db.read() as connection:
            return [_seen(connection, target, level) for target, level in wanted]

    def apply(self, rt: Runtime, target: Target, level: Level, *, intent: str) -> Evidence:
        """Write down from which version on the doors must act; the same intent again changes nothing."""

        def unit(connection: sa.Connection) -> None:
            row = _ORDER.first(connection, device_id_=target.device_id)
            if row is None or row.intent != intent or row.level != level:
                _order(connection, target.device_id, level, intent, trust.version(connection))

        rt.db.run(unit, urgent=True)
        return self.verify(rt, target, level)

    def verify(self, rt: Runtime, target: Target, level: Level) -> Evidence:
        """Look whether the decision is at least as hard as the level, and whether every running door acts on it."""
        return self.verify_all(rt, [(target, level)])[0]

    def release(self, rt: Runtime, target: Target, *, intent: str) -> Evidence:
        """Forget the order; settled when every running door has seen the decision of now."""
        rt.db.run(lambda connection: _FORGET.execute(connection, device_id_=target.device_id), urgent=True)
        evidence = self.verify_all(rt, [(target, None)])[0]
        return replace(evidence, detail=evidence.detail | {"intent": intent})

    def observe(self, rt: Runtime) -> dict[str, Level]:
        """All devices that the doors were told to contain, with their level."""
        with rt.db.read() as connection:
            rows = connection.execute(sa.select(door_orders.c.device_id, door_orders.c.level)).all()
        return {row.device_id: Level(row.level) for row in rows}


def _order(connection: sa.Connection, device_id: str, level: Level, intent: str, version: int) -> None:
    _WRITE.execute(
        connection, device_id=device_id, level=str(level), intent=intent, version=version, ordered_at=clock.now()
    )


def _seen(connection: sa.Connection, target: Target, level: Level | None) -> Evidence:
    """Tell whether the decision is at least as hard as the level, and every running door acts on the order's version.

    Without an order (the device is let in again) the version of now counts.
    """
    order = _ORDER.first(connection, device_id_=target.device_id)
    answer = trust.decision(connection, target.device_id).answer
    detail = _doors(connection, target.device_id, trust.version(connection) if order is None else order.version)
    detail |= {"answer": str(answer)} | ({"level": str(level)} if level is not None else {})
    settled = detail["behind"] == 0 and (level is None or answer.rank >= _WANTED[level].rank)
    return Evidence(settled=settled, detail=detail, observed_at=clock.now())


def _doors(connection: sa.Connection, device_id: str, version: int) -> dict[str, Any]:
    """Tell how many running doors act on a version, how many are behind, and how many connections they closed."""
    live = _DOORS.all(connection, since_=clock.now() - ALIVE)
    closed = _CLOSED.scalar(connection, device_id_=device_id, version_=version)
    behind = sum(row.snapshot_version < version for row in live)
    return {"doors": len(live), "behind": behind, "version": version, "connections_closed": int(closed)}


def _write_now(name: str) -> sa.Insert:
    """An order with the version that there is when it runs."""
    if name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    version = sa.select(trust.trust_version.c.version).where(trust.trust_version.c.id == 1).scalar_subquery()
    made = insert(door_orders).values(version=version)
    names = ("level", "intent", "version", "ordered_at")
    return made.on_conflict_do_update(index_elements=["device_id"], set_={name: made.excluded[name] for name in names})


_FORGET = Statement(door_orders.delete().where(door_orders.c.device_id == sa.bindparam("device_id_")))
_WRITE = insert_or_replace(door_orders, "device_id", "level", "intent", "version", "ordered_at", index=("device_id",))
_WRITE_NOW = Statement(_write_now, columns=("device_id", "level", "intent", "ordered_at"))
_ORDER = Statement(sa.select(door_orders).where(door_orders.c.device_id == sa.bindparam("device_id_")))
_DOORS = Statement(
    sa.select(door_status.c.door, door_status.c.snapshot_version).where(
        door_status.c.seen_at > sa.bindparam("since_", type_=door_status.c.seen_at.type)
    )
)
_CLOSED = Statement(
    sa.select(sa.func.coalesce(sa.func.sum(door_closed.c.connections), 0)).where(
        door_closed.c.device_id == sa.bindparam("device_id_"),
        door_closed.c.snapshot_version >= sa.bindparam("version_", type_=sa.BigInteger),
    )
)
