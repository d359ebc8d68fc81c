"""Enforcement point `device-door`: our own door, which asks trust at every request.

The door needs no order: the containment's trust signal stands in the same transaction as the containment. So `apply`
only writes down from which snapshot version on the door must act, and `verify` reads what every running door says of
itself: settled when each acts on that version or a later one, which means that it has closed the device's live
connections and refuses its requests. Limits: a door process that died is not asked; it lets nobody in either.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from api.models import door_closed, door_orders, door_status
from lachan import clock, trust
from lachan.enforcement import Evidence, Level, Target
from lachan.runtime import Runtime
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
        """What `apply` would change, in words."""
        del rt
        if _WANTED[level] is Answer.ALLOW:
            return []
        if _WANTED[level] is Answer.LIMITED:
            return [f"answer {target.name} only what a degraded device may ask"]
        return [f"refuse every request of {target.name}", f"close the open connections of {target.name}"]

    def apply(self, rt: Runtime, target: Target, level: Level, *, intent: str) -> Evidence:
        """Write down from which version on the doors must act; the same intent again changes nothing."""
        with rt.db.write() as connection:
            here = door_orders.c.device_id == target.device_id
            row = connection.execute(sa.select(door_orders).where(here)).mappings().first()
            if row is None or row["intent"] != intent or row["level"] != level:
                connection.execute(door_orders.delete().where(here))
                connection.execute(
                    door_orders.insert().values(
                        device_id=target.device_id,
                        level=str(level),
                        intent=intent,
                        version=trust.version(connection),
                        ordered_at=clock.now(),
                    )
                )
        return self.verify(rt, target, level)

    def verify(self, rt: Runtime, target: Target, level: Level) -> Evidence:
        """Look whether the decision is at least as hard as the level, and whether every running door acts on it."""
        with rt.db.read() as connection:
            order = connection.execute(
                sa.select(door_orders.c.version).where(door_orders.c.device_id == target.device_id)
            ).scalar()
            answer = trust.decision(connection, target.device_id).answer
            detail = _doors(connection, target.device_id, trust.version(connection) if order is None else order)
        detail |= {"answer": str(answer), "level": str(level)}
        settled = detail["behind"] == 0 and answer.rank >= _WANTED[level].rank
        return Evidence(settled=settled, detail=detail, observed_at=clock.now())

    def release(self, rt: Runtime, target: Target, *, intent: str) -> Evidence:
        """Forget the order; settled when every running door has seen the decision of now."""
        with rt.db.write() as connection:
            connection.execute(door_orders.delete().where(door_orders.c.device_id == target.device_id))
            detail = _doors(connection, target.device_id, trust.version(connection))
            detail |= {"answer": str(trust.decision(connection, target.device_id).answer), "intent": intent}
        return Evidence(settled=detail["behind"] == 0, detail=detail, observed_at=clock.now())

    def observe(self, rt: Runtime) -> dict[str, Level]:
        """All devices that the doors were told to contain, with their level."""
        with rt.db.read() as connection:
            rows = connection.execute(sa.select(door_orders.c.device_id, door_orders.c.level)).all()
        return {row.device_id: Level(row.level) for row in rows}


def _doors(connection: sa.Connection, device_id: str, version: int) -> dict[str, Any]:
    """How many running doors act on a version, how many are behind, and how many connections they closed."""
    live = connection.execute(
        sa.select(door_status.c.door, door_status.c.snapshot_version).where(door_status.c.seen_at > clock.now() - ALIVE)
    ).all()
    closed = connection.execute(
        sa.select(sa.func.coalesce(sa.func.sum(door_closed.c.connections), 0)).where(
            door_closed.c.device_id == device_id, door_closed.c.snapshot_version >= version
        )
    ).scalar_one()
    behind = sum(row.snapshot_version < version for row in live)
    return {"doors": len(live), "behind": behind, "version": version, "connections_closed": int(closed)}
