"""Alerts join the open run of their device and playbook (design decision 17); all in the caller's unit, under the device's lock.

What joins is in the set that an approval covers, so approvals that were given are void. A run that waits for the guards'
human is judged again, in a journal occurrence of its own, if what joined is graver, or if what stopped it may have passed. One
that waits for its plan's approval and has done nothing yet begins anew with what is known now. Where the deciding step is
past, a follow-up run is due in the transaction that ends this one, if what joined is graver. Limits: an HTTP step whose
request has its bytes already is asked with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.devices import Device
from lachan.events import ApprovalNeeded, RunJoined
from lachan.statements import Statement
from lachan.work import outbox
from soar_playbooks import webhooks
from soar_playbooks.cacao import conditions
from soar_playbooks.cacao.model import Playbook, StepType, VerbCommand
from soar_playbooks.containment import guards
from soar_playbooks.containment import service as containment
from soar_playbooks.containment.guards import Facts, Guard
from soar_playbooks.models import approvals, run_alerts, runs
from soar_playbooks.runs import evidence, executor, journal
from soar_playbooks.runs.due import Raised
from soar_playbooks.runs.evidence import Gathered
from soar_playbooks.runs.executor import Refusals
from soar_playbooks.runs.journal import Run
from soar_playbooks.runs.records import RunRecord
from soar_playbooks.states import ACTOR, Phase, RunState, WaitingFor

if TYPE_CHECKING:
    from lachan.runtime import Runtime


def join(
    rt: Runtime,
    connection: sa.Connection,
    playbook: Playbook,
    device: Device,
    row: RunRecord,
    raised: Sequence[Raised],
    refused: Refusals,
) -> None:
    """Let alerts join an open run of their device and playbook.

    Raises:
        soar_playbooks.runs.executor.Refused: a verb said no, and this unit did not know yet.
    """
    known = evidence.more(row.facts, (one.alert for one in raised))
    variables = evidence.rebind(playbook, row.variables, known.facts)
    values: dict[str, Any] = {"facts": known.facts, "variables": variables}
    waits = row.waiting_for.kind if row.waiting_for is not None else None
    if row.state is RunState.WAITING and waits is WaitingFor.CONTAINMENT:
        note(connection, row, known)
        _update(connection, row, values)
        _containment(rt, connection, playbook, device, row, known, refused)
        return
    past = known.raised and _is_past(connection, playbook, row, variables, waits)
    note(connection, row, known)
    _update(connection, row, values | ({"follow_up": True} if past else {}))
    voided = known.changed and _void(connection, row)
    if row.state is RunState.WAITING and waits is WaitingFor.APPROVAL:
        if known.raised and not past:
            _anew(rt, connection, playbook, row, refused)
        elif voided:
            _ask_again(rt, connection, row)


def took(connection: sa.Connection, row: Any, known: Gathered) -> None:
    """Let alerts join a run that has ended, and whose containment stands: they ask for nothing that is not in effect."""
    note(connection, row, known)
    connection.execute(runs.update().where(runs.c.id == row.id).values(facts=known.facts))


def note(connection: sa.Connection, row: RunRecord | Run, known: Gathered) -> None:
    """Keep which alerts have joined a run, and tell it."""
    if not known.changed:
        return
    rows = [{"run_id": row.id, "alert_id": alert_id, "at": clock.now()} for alert_id in known.new]
    if rows:
        _JOINED.many(connection, rows)
    event = RunJoined(device_id=row.device_id, run_id=row.id, alerts=known.new, raised=known.raised)
    outbox.append(connection, event, actor=ACTOR, vendor=row.vendor)


def _containment(
    rt: Runtime,
    connection: sa.Connection,
    playbook: Playbook,
    device: Device,
    row: RunRecord,
    known: Gathered,
    refused: Refusals,
) -> None:
    """Have the guards judge again what waits for people; else what those have agreed to is void."""
    assert row.waiting_for is not None
    held = containment.find(connection, row.waiting_for.ref)
    passed = held.guard in {Guard.BUDGET, Guard.KILL_SWITCH} and guards.has_passed(
        connection, rt.settings, device, held.guard, Facts.of(known.facts), held.counted
    )
    if known.changed:
        containment.ask_anew(rt, connection, held)
    if known.raised or passed:
        run = journal.claim(connection, row.id, waiting=True)
        assert run is not None
        run = journal.at(journal.changed(run, occurrence=run.occurrence + 1), run.step)
        executor.steps(rt, connection, playbook, run, refused)


def _anew(rt: Runtime, connection: sa.Connection, playbook: Playbook, row: RunRecord, refused: Refusals) -> None:
    """Begin a run anew that has done nothing yet."""
    run = journal.claim(connection, row.id, waiting=True)
    assert run is not None
    run = journal.at(journal.changed(run, occurrence=run.occurrence + 1), playbook.workflow_start)
    executor.steps(rt, connection, playbook, run, refused)


def _ask_again(rt: Runtime, connection: sa.Connection, row: RunRecord) -> None:
    reason = "Alerts came after somebody had approved: look again."
    event = ApprovalNeeded(device_id=row.device_id, run_id=row.id, needed=row.needed, reason=reason)
    webhooks.tell(rt, connection, event, actor=ACTOR)


def _update(connection: sa.Connection, row: RunRecord, values: dict[str, Any]) -> None:
    connection.execute(runs.update().where(runs.c.id == row.id).values(**values, updated_at=clock.now()))


def _void(connection: sa.Connection, row: RunRecord) -> bool:
    """Take back what people have agreed to without having seen what there is now; tell whether there was any."""
    given = sa.and_(approvals.c.subject_id == row.id, approvals.c.kind == "run")
    kind = sa.literal("void-").concat(sa.func.substr(approvals.c.shown, 1, 12))
    return bool(connection.execute(approvals.update().where(given).values(kind=kind)).rowcount)


def _is_past(
    connection: sa.Connection,
    playbook: Playbook,
    row: RunRecord,
    variables: dict[str, Any],
    waits: WaitingFor | None,
) -> bool:
    """Tell whether a run has decided already, and would have decided otherwise: by a condition, or by what it has done."""
    for (name, occurrence, phase), body in journal.entries(connection, row.id).items():
        step = playbook.steps.get(name)
        if step is None or occurrence != row.occurrence:
            continue
        if step.type is StepType.IF and phase == Phase.OUTCOME and waits is not WaitingFor.APPROVAL:
            holds = conditions.parsed(str(step.condition), playbook.variables).holds(variables)
            if holds is not body["holds"]:
                return True
        if phase == Phase.INTENT and isinstance(step.command, VerbCommand):
            return True
        if phase == Phase.INTENT and waits is WaitingFor.APPROVAL:
            return True  # it has asked somebody something: it cannot begin anew
    return False


_JOINED = Statement(run_alerts.insert(), columns=("run_id", "alert_id", "at"))
