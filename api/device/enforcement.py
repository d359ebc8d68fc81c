"""Enforcement point `device-door`: our own door, which asks trust at every request.

The door needs no order: the containment's trust signal stands in the same transaction as the containment. So `join` (in
that transaction) and `apply` only write down the number of the change that the door must have seen, and `verify` reads what
every running door says of itself (`lachan.trust.Horizon`): settled when each acts on that change, which means that it has
closed the device's live connections and refuses its requests. Limits: a door process that died is not asked; it lets nobody
in either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from api.models import door_closed, door_orders, door_status
from lachan import clock, trust
from lachan.enforcement import Evidence, Level, PointLook, Target
from lachan.runtime import Runtime
from lachan.statements import Statement, among, insert_or_replace, listed, pipeline
from lachan.trust import Answer, Horizon

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
        """Write the order in the caller's unit, with the very number of its change; settled if no door runs."""
        del rt
        if level is None:
            _FORGET.execute(connection, device_id_=target.device_id)
        else:
            order = {"device_id": target.device_id, "level": str(level), "intent": intent, "ordered_at": clock.now()}
            trust.touch(connection, target.device_id, then=[(_WRITE_OWN, order)])
        doors = (_DOORS, {"since_": clock.now() - ALIVE})
        decision, (found,) = trust.decision_and(connection, target.device_id, [doors])
        live, answer = len(found.rows), decision.answer
        settled = live == 0 and answer.rank >= _WANTED[level or Level.OBSERVE].rank
        detail = {"doors": live, "behind": live, "answer": str(answer), "level": str(level or "none")}
        return Evidence(settled=settled, detail=detail, observed_at=clock.now())

    def verify_all(self, rt: Runtime, wanted: list[tuple[Target, Level | None]]) -> list[Evidence]:
        """PointLook at many devices in one reading, of as many statements as one device needs."""
        with rt.db.read() as connection:
            return _seen(connection, wanted)

    def apply(self, rt: Runtime, target: Target, level: Level, *, intent: str) -> Evidence:
        """Write down which change the doors must have seen; the same intent again changes nothing."""

        def unit(connection: sa.Connection) -> None:
            row = _ORDER.first(connection, device_id_=target.device_id)
            if row is None or row.intent != intent or row.level != level:
                number = trust.last_number(connection, target.device_id)
                order = {"device_id": target.device_id, "level": str(level), "intent": intent, "number": number}
                _WRITE.execute(connection, **order, ordered_at=clock.now())

        rt.db.run(unit, urgent=True)
        return self.verify(rt, target, level)

    def verify(self, rt: Runtime, target: Target, level: Level) -> Evidence:
        """PointLook whether the decision is at least as hard as the level, and whether every running door acts on it."""
        return self.verify_all(rt, [(target, level)])[0]

    def release(self, rt: Runtime, target: Target, *, intent: str) -> Evidence:
        """Forget the order; settled when every running door has seen the decision of now."""
        rt.db.run(lambda connection: _FORGET.execute(connection, device_id_=target.device_id), urgent=True)
        evidence = self.verify_all(rt, [(target, None)])[0]
        return replace(evidence, detail=evidence.detail | {"intent": intent})

    def look(self, rt: Runtime, wanted: Sequence[tuple[Target, Level | None]], *, cursor: str, most: int) -> PointLook:
        """Tell which of some devices, and of the next orders by device id, the doors were told to contain."""
        with rt.db.read() as connection:
            ids = listed(connection.dialect.name, [target.device_id for target, _ in wanted])
            mine, following = pipeline(
                connection, [(_LEVELS, {"devices": ids}), (_FOLLOWING, {"after_": cursor, "most_": most})]
            )
        page = {row.device_id: Level(row.level) for row in following.rows}
        return PointLook(
            page | {row.device_id: Level(row.level) for row in mine.rows}, max(page) if len(page) == most else ""
        )

    def observe(self, rt: Runtime) -> dict[str, Level]:
        """All devices that the doors were told to contain, with their level."""
        with rt.db.read() as connection:
            rows = connection.execute(sa.select(door_orders.c.device_id, door_orders.c.level)).all()
        return {row.device_id: Level(row.level) for row in rows}


def _seen(connection: sa.Connection, wanted: list[tuple[Target, Level | None]]) -> list[Evidence]:
    """Tell of each whether the decision is at least as hard as the level, and every running door acts on the order's change.

    Without an order (the device is let in again) the device's latest change counts.
    """
    devices = {"devices": listed(connection.dialect.name, [target.device_id for target, _ in wanted])}
    ordered, lasts, closed, doors = (
        done.rows for done in pipeline(
            connection,
            [(_ORDERED, devices), (trust.LASTS, devices), (_CLOSED, devices), (_DOORS, {"since_": clock.now() - ALIVE})],
        )
    )  # fmt: skip
    numbers = {row.device_id: row.number or 0 for row in lasts} | {row.device_id: row.number for row in ordered}
    connections = {row.device_id: int(row.connections) for row in closed}
    answers = trust.answers(connection, devices["devices"])
    positions, found = [Horizon.parse(row.position) for row in doors], []
    for target, level in wanted:
        number, answer = numbers.get(target.device_id, 0), answers.get(target.device_id, Answer.ALLOW)
        behind = sum(not position.covers(number) for position in positions)
        if behind and not trust.reached(connection, number):
            behind = 0  # of the cluster that this database was restored from: a door began after it
        detail: dict[str, Any] = {"doors": len(positions), "behind": behind, "number": number}
        detail |= {"connections_closed": connections.get(target.device_id, 0), "answer": str(answer)}
        detail |= {"level": str(level)} if level is not None else {}
        settled = behind == 0 and (level is None or answer.rank >= _WANTED[level].rank)
        found.append(Evidence(settled=settled, detail=detail, observed_at=clock.now()))
    return found


def _write_own(name: str) -> sa.Insert:
    """An order with the number that changes of the same transaction bear."""
    if name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    made = insert(door_orders).values(number=trust.own_number(name))
    names = ("level", "intent", "number", "ordered_at")
    return made.on_conflict_do_update(index_elements=["device_id"], set_={name: made.excluded[name] for name in names})


_FORGET = Statement(door_orders.delete().where(door_orders.c.device_id == sa.bindparam("device_id_")))
_WRITE = insert_or_replace(door_orders, "device_id", "level", "intent", "number", "ordered_at", index=("device_id",))
_WRITE_OWN = Statement(_write_own, columns=("device_id", "level", "intent", "ordered_at"))
_ORDER = Statement(sa.select(door_orders).where(door_orders.c.device_id == sa.bindparam("device_id_")))
_DOORS = Statement(
    sa.select(door_status.c.door, door_status.c.position).where(
        door_status.c.seen_at > sa.bindparam("since_", type_=door_status.c.seen_at.type)
    )
)
_ORDERED = Statement(
    lambda dialect: sa.select(door_orders.c.device_id, door_orders.c.number).where(
        among(dialect, door_orders.c.device_id, "devices")
    )
)
_LEVELS = Statement(
    lambda dialect: sa.select(door_orders.c.device_id, door_orders.c.level).where(
        among(dialect, door_orders.c.device_id, "devices")
    )
)
_FOLLOWING = Statement(
    sa.select(door_orders.c.device_id, door_orders.c.level)
    .where(door_orders.c.device_id > sa.bindparam("after_"))
    .order_by(door_orders.c.device_id)
    .limit(sa.bindparam("most_", type_=sa.Integer))
)
_CLOSED = Statement(
    lambda dialect: (
        sa.select(
            door_orders.c.device_id, sa.func.coalesce(sa.func.sum(door_closed.c.connections), 0).label("connections")
        )
        .join(
            door_closed,
            sa.and_(door_closed.c.device_id == door_orders.c.device_id, door_closed.c.number >= door_orders.c.number),
        )
        .where(among(dialect, door_orders.c.device_id, "devices"))
        .group_by(door_orders.c.device_id)
    )
)
