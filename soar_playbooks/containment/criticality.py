"""A device is said to be more or less critical: the guards judge its containment again.

What waits may take effect now, or need more people. What was cut automatically, or by fewer people than are needed now, is
taken back to `degrade` and waits for them: a device that protects lives is never cut by fewer (design decision 10). Limits:
the kill switch and the budgets stop what is to come, not what is in effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from lachan.devices import Device
from lachan.events import DeviceChanged
from lachan.work.outbox import StoredEvent
from soar_playbooks import faults
from soar_playbooks.containment import approvals, budgets, effects, guards, service
from soar_playbooks.containment.guards import Asked, Facts, GuardVerdict
from soar_playbooks.containment.records import Containment
from soar_playbooks.models import approvals as decisions
from soar_playbooks.models import runs
from soar_playbooks.states import ACTOR

if TYPE_CHECKING:
    from lachan.runtime import Runtime


def on_device_changed(rt: Runtime, stored: StoredEvent) -> None:
    """Judge a device's containment again after its criticality changed (handler of ``DeviceChanged``)."""
    changed = stored.event
    if isinstance(changed, DeviceChanged) and changed.field_name == "criticality" and changed.device_id is not None:
        device_id = changed.device_id
        faults.run(rt, faults.Record.APPROVAL, lambda connection: judge_again(rt, connection, device_id))


def judge_again(rt: Runtime, connection: sa.Connection, device_id: str) -> None:
    """Judge a device's open containment as its guards would now, in the caller's unit."""
    device, row = service.locked_open(connection, device_id)
    if row is None:
        return
    if row.guard:
        _what_waits(rt, connection, device, row)
    elif row.since is not None:
        _what_is_in_effect(rt, connection, device, row)


def _what_waits(rt: Runtime, connection: sa.Connection, device: Device, row: Containment) -> None:
    given = approvals.count(connection, row.id, f"contain-{row.round}")
    facts = None if row.requester_id else _facts(connection, row)
    if facts is None or given:
        approvals.agreed(rt, connection, row, given, actor=ACTOR)
        return
    verdict = guards.judge(
        connection, rt.settings, device, Asked(level=row.wanted, facts=facts, counted=row.counted)
    )  # fmt: skip
    if not verdict.guard:
        row = effects.write(connection, row, counted=tuple(sorted({*row.counted, *verdict.counted})))
        approvals.take_effect(rt, connection, row, actor=ACTOR)
        return
    changed = verdict.guard is not row.guard or verdict.needed != row.needed
    row = effects.write(connection, row, guard=verdict.guard, guard_reason=verdict.reason, needed=verdict.needed)
    if verdict.level is not None and (row.since is None or verdict.level.rank > row.level.rank):
        row = effects.activate(rt, connection, row, verdict.level, actor=ACTOR)
    if changed:
        _ask(rt, connection, row, verdict)


def _what_is_in_effect(rt: Runtime, connection: sa.Connection, device: Device, row: Containment) -> None:
    """Take a cut back that fewer people have agreed to than a device of this criticality needs."""
    verdict = guards.by_criticality(device, Asked(level=row.level, facts=None, approvals=_agreed(connection, row)))
    if verdict is None or verdict.level is None or verdict.level.rank >= row.level.rank:
        return
    budgets.give_back(connection, row.counted)
    row = effects.write(
        connection, row, wanted=row.level, guard=verdict.guard, guard_reason=verdict.reason, needed=verdict.needed,
        round=row.round + 1, counted=(),
    )  # fmt: skip
    row = effects.activate(rt, connection, row, verdict.level, actor=ACTOR)
    _ask(rt, connection, row, verdict)


def _ask(rt: Runtime, connection: sa.Connection, row: Containment, verdict: GuardVerdict) -> None:
    if verdict.page:
        effects.page(rt, connection, row, verdict.reason, actor=ACTOR)
    effects.tell_waiting(rt, connection, row, run_id=row.run_id, actor=ACTOR)


def _agreed(connection: sa.Connection, row: Containment) -> int:
    """Tell how many different persons have approved any of this containment, or the run behind it."""
    c = decisions.c
    mine = sa.or_(
        sa.and_(c.subject_id == row.id, c.kind.like("contain-%")), sa.and_(c.subject_id == row.run_id, c.kind == "run")
    )
    query = sa.select(sa.func.count(c.person_id.distinct())).where(mine, c.decision == "approve")
    return connection.execute(query).scalar_one()


def _facts(connection: sa.Connection, row: Containment) -> Facts | None:
    if not row.run_id:
        return None
    stored = connection.execute(sa.select(runs.c.facts).where(runs.c.id == row.run_id)).scalar()
    return None if stored is None else Facts.of(stored)
