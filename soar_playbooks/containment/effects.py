"""What a containment brings about when it changes: the trust signal, facts, points, pages, and the people who are asked.

All of it goes with the row in the caller's unit; `soar_playbooks.containment.service` says when. Limits: nothing here
judges: whoever calls has asked the guards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices, trust
from lachan.database import after_commit, insert_ignore
from lachan.devices import Device
from lachan.enforcement import Level
from lachan.events import ApprovalNeeded, ContainmentLengthened, ContainmentWaiting, DeviceContained, HumanPaged
from lachan.identity import Principal
from lachan.statements import Statement, later
from lachan.work import jobs, outbox
from soar_playbooks import webhooks
from soar_playbooks.containment import reconciler
from soar_playbooks.containment.records import Containment
from soar_playbooks.models import approvals, containments
from soar_playbooks.states import ContainmentState

if TYPE_CHECKING:
    from lachan.runtime import Runtime

SOURCE = "containment"
ANSWERS = {
    Level.DEGRADE: trust.Answer.LIMITED,
    Level.QUARANTINE: trust.Answer.QUARANTINE,
    Level.ISOLATE: trust.Answer.QUARANTINE,
    Level.EVICT: trust.Answer.DENY,
}


def write(connection: sa.Connection, row: Containment, **values: Any) -> Containment:
    """Change columns of a containment; give it as it is then."""
    stored = values | {"counted": list(values["counted"])} if "counted" in values else values
    connection.execute(containments.update().where(containments.c.id == row.id).values(**stored))
    return replace(row, **values)


def activated(connection: sa.Connection, row: Containment, level: Level) -> dict[str, Any]:
    """Give the columns of a containment whose level is to take effect; who agreed to its release from another one is asked anew."""
    if row.since is not None:  # who agreed to release it from less has not agreed to release it from this
        stale = sa.and_(approvals.c.subject_id == row.id, approvals.c.kind == "release")
        connection.execute(approvals.update().where(stale).values(kind=f"void-{row.round}-{row.level.rank}"))
    return {"state": ContainmentState.ACTIVE, "level": level, "since": row.since or clock.now()}


def activate(
    rt: Runtime, connection: sa.Connection, row: Containment, level: Level, *, actor: Principal
) -> Containment:
    """Let a level take effect now: row, trust signal, fact and the points, in the caller's unit."""
    row = write(connection, row, **activated(connection, row, level))
    take_effect(rt, connection, devices.get(connection, row.device_id), row, actor=actor)
    return row


def take_effect(
    rt: Runtime,
    connection: sa.Connection,
    device: Device,
    row: Containment,
    fresh: Sequence[tuple[Statement, dict[str, Any]]] = (),
    *,
    actor: Principal,
) -> None:
    """Tell everybody of the level of a row: the doors by its signal, the ledger, the points; ``fresh`` goes before."""
    level, dialect = row.level, connection.dialect.name
    event = DeviceContained(
        device_id=row.device_id, containment_id=row.id, level=str(level), reason=row.reason,
        run_id=row.run_id,
    )  # fmt: skip
    _, told = outbox.calls(event, actor=actor, vendor=row.vendor, dialect=dialect)
    signal = _signal_of(row)
    later(connection, [*fresh, *(trust.signal_calls(signal) if signal is not None else ()), *told])
    reconciler.want(rt, connection, reconciler.target_of(device), containment_id=row.id, level=level)
    after_commit(connection, rt.wake_doors)


def lengthen(connection: sa.Connection, row: Containment, until: datetime | None, *, actor: Principal) -> Containment:
    """Let a containment in effect last until a later time: row, signal and fact; nothing happens if it lasts as long anyway."""
    if not lasts_longer(row, until):
        return row
    row = write(connection, row, until=until)
    signal = _signal_of(row)
    if signal is not None:
        trust.set_signal(connection, signal)
    event = ContainmentLengthened(
        device_id=row.device_id, containment_id=row.id, until="" if until is None else clock.iso(until), by=actor.label
    )
    outbox.append(connection, event, actor=actor, vendor=row.vendor)
    end_due(connection, row)
    return row


def reckoned(connection: sa.Connection, row: Containment) -> Containment:
    """Reckon the end of a containment anew if it began and was to end while a clock was ahead: it lasts as long as was meant, from now."""
    if row.since is None or row.until is None or not clock.lies_ahead(row.since) or row.until <= row.since:
        return row
    now = clock.now()
    row = write(connection, row, since=now, until=now + (row.until - row.since))
    signal = _signal_of(row)
    if signal is not None:
        trust.set_signal(connection, signal)
    return row


def lasts_longer(row: Containment, until: datetime | None) -> bool:
    """Tell whether an end is later than the row's; none is the latest."""
    return row.until is not None and (until is None or until > row.until)


def end_of(seconds: int | None) -> datetime | None:
    """Give the end of what lasts so many seconds from now; None for what has no end."""
    return None if seconds is None else clock.now() + timedelta(seconds=seconds)


def end_due(connection: sa.Connection, row: Containment) -> None:
    """Make the end of a containment due, if it has one."""
    if row.until is not None:
        jobs.enqueue(connection, "soar.expire", {"containment_id": row.id}, due_at=row.until, key=f"expire:{row.id}")


def page(rt: Runtime, connection: sa.Connection, row: Containment, reason: str, *, actor: Principal) -> None:
    """Page a human about a containment."""
    event = HumanPaged(device_id=row.device_id, reason=reason, run_id=row.run_id, alert_id=row.alert_id)
    webhooks.tell(rt, connection, event, actor=actor)


def tell_waiting(rt: Runtime, connection: sa.Connection, row: Containment, *, run_id: str, actor: Principal) -> None:
    """Say that a containment waits for people, and ask them."""
    same = {"device_id": row.device_id, "run_id": run_id, "containment_id": row.id}
    waiting = ContainmentWaiting(guard=row.guard, reason=row.guard_reason, **same)
    outbox.append(connection, waiting, actor=actor)
    needed = ApprovalNeeded(needed=row.needed, reason=row.guard_reason, **same)
    webhooks.tell(rt, connection, needed, actor=actor)


def remember_requester(connection: sa.Connection, row: Containment) -> None:
    """Keep everybody who ever asked for this containment: a later request must not make an earlier one forgotten."""
    if row.requester_id:
        values = {
            "subject_id": row.id, "kind": "asked", "person_id": row.requester_id, "person": row.requested_by,
            "session": "", "decision": "asked", "note": row.reason, "at": clock.now(),
        }  # fmt: skip
        insert_ignore(connection, approvals, values, index=("subject_id", "kind", "person_id"))


def _signal_of(row: Containment) -> trust.Signal | None:
    answer = ANSWERS.get(row.level)
    if answer is None or row.since is None:
        return None
    return trust.Signal(
        device_id=row.device_id, source=SOURCE, answer=answer, reason=f"contained-{row.level}", ref=row.id,
        since=row.since, detail=row.reason, until=row.until,
    )  # fmt: skip
