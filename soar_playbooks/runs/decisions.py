"""What humans decide about runs: approve, reject, and say what became of a step whose outcome is unknown.

A run waits for one of three things: approval in propose mode, a decision on its containment, or an unknown outcome. All
need a person's session; the last needed decision makes the run due again. Limits: a decision cannot be taken back; the
containment that it led to can be released.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import after_commit, for_update
from lachan.events import RunApproved, RunRejected, RunResolved
from lachan.identity import Permission, Principal, require, scope
from lachan.work import outbox
from soar_playbooks.containment import approvals as containment
from soar_playbooks.containment import service
from soar_playbooks.containment import shown as look
from soar_playbooks.errors import NotWaiting, UnknownRun
from soar_playbooks.models import run_journal, runs
from soar_playbooks.runs import due, journal
from soar_playbooks.runs.records import RunRecord
from soar_playbooks.states import Phase, RunOutcome, RunState, WaitingFor

if TYPE_CHECKING:
    from lachan.runtime import Runtime


def approve(
    rt: Runtime, connection: sa.Connection, principal: Principal, *, run_id: str, note: str = "", shown: str = ""
) -> None:
    """Approve what a run waits for: its plan (propose mode) or its containment.

    ``shown`` is what the person saw (`soar_playbooks.containment.shown`); empty takes what there is now.

    Raises:
        PersonNeeded, Forbidden: not a person's session, or not an approver.
        UnknownRun: there is none, or it is another vendor's.
        NotWaiting: it waits for nobody, or for `resolve`.
        FourEyes: this person has decided already.
        ShownChanged: alerts came since the person looked.
    """
    require(principal, Permission.RUNS_APPROVE)
    row = _waiting(connection, principal, run_id)
    if _kind(row) is WaitingFor.OUTCOME:
        raise NotWaiting("Its outcome is unknown: say what happened instead of approving.", run=run_id)
    if _kind(row) is WaitingFor.CONTAINMENT:
        containment.approve(rt, connection, principal, containment_id=_ref(row), note=note, shown=shown)
        return
    now = look.check(shown, shown_of(connection, row))
    given = containment.decide_once(
        connection, principal, subject_id=run_id, kind="run", decision="approve", note=note, shown=now
    )
    event = RunApproved(device_id=row.device_id, run_id=run_id, person=principal.label, shown=now)
    outbox.append(connection, event, actor=principal)
    if given >= row.needed:
        _resume(rt, connection, run_id)


def reject(rt: Runtime, connection: sa.Connection, principal: Principal, *, run_id: str, note: str = "") -> None:
    """Reject what a run waits for: its plan (the run ends) or its containment (the run follows on_failure).

    Raises:
        As `approve`.
    """
    require(principal, Permission.RUNS_APPROVE)
    row = _waiting(connection, principal, run_id)
    if _kind(row) is WaitingFor.OUTCOME:
        raise NotWaiting("Its outcome is unknown: say what happened instead of rejecting.", run=run_id)
    event = RunRejected(device_id=row.device_id, run_id=run_id, person=principal.label)
    outbox.append(connection, event, actor=principal)
    if _kind(row) is WaitingFor.CONTAINMENT:
        containment.reject(rt, connection, principal, containment_id=_ref(row), note=note)
        return
    containment.decide_once(connection, principal, subject_id=run_id, kind="run", decision="reject", note=note)
    run = journal.claim(connection, run_id, waiting=True)
    assert run is not None
    journal.finish(connection, run, RunOutcome.REJECTED, actor=principal)


def resolve(
    rt: Runtime, connection: sa.Connection, principal: Principal, *, run_id: str, happened: bool, note: str = ""
) -> None:
    """Say, after looking at the peer, whether a step of unknown outcome happened; the run goes on accordingly.

    Raises:
        PersonNeeded, Forbidden, UnknownRun: as `approve`.
        NotWaiting: no outcome of it is unknown.
    """
    require(principal, Permission.RUNS_APPROVE)
    row = _waiting(connection, principal, run_id)
    if _kind(row) is not WaitingFor.OUTCOME:
        raise NotWaiting("No outcome of it is unknown.", run=run_id)
    step = _ref(row)
    kind = "resolve"
    containment.decide_once(
        connection, principal, subject_id=f"{run_id}:{step}"[:120], kind=kind, decision="approve", note=note
    )
    body: dict[str, Any] = {"ok": happened, "resolved_by": principal.label, "note": note}
    if not happened:
        body["error"] = "a human saw that it did not happen"
    journal = {
        "run_id": run_id,
        "step_id": step,
        "occurrence": row.occurrence,
        "phase": str(Phase.OUTCOME),
        "fence": row.fence,
    }
    position = sa.select(sa.func.count()).where(run_journal.c.run_id == run_id)
    count = connection.execute(position).scalar_one()
    connection.execute(run_journal.insert().values(**journal, position=count, body=body, at=clock.now()))
    event = RunResolved(device_id=row.device_id, run_id=run_id, step=step, person=principal.label, happened=happened)
    outbox.append(connection, event, actor=principal)
    _resume(rt, connection, run_id)


def find(connection: sa.Connection, principal: Principal, run_id: str) -> RunRecord:
    """Find a run that the principal may see.

    Raises:
        UnknownRun: there is none, or it is another vendor's.
    """
    query = scope(principal, sa.select(runs).where(runs.c.id == run_id), runs.c.vendor)
    row = connection.execute(query).first()
    if row is None:
        raise UnknownRun(f"No run {run_id}.")
    return RunRecord.of(row)


def shown_of(connection: sa.Connection, row: RunRecord) -> str:
    """Give the digest of what a person sees of a run that waits; of one that waits for its containment, that one's."""
    if _kind(row) is WaitingFor.CONTAINMENT:
        return look.at_containment(connection, service.find(connection, _ref(row)))
    return look.at_run(row.id, row.facts, row.plan)


def _waiting(connection: sa.Connection, principal: Principal, run_id: str) -> RunRecord:
    row = find(connection, principal, run_id)
    if row.state is not RunState.WAITING:
        raise NotWaiting(f"Run {run_id} is {row.state} and waits for nobody.")
    if _kind(row) is not WaitingFor.CONTAINMENT:  # else the containment's own locks order the deciders
        lock = for_update(sa.select(runs).where(runs.c.id == run_id), connection)
        row = RunRecord.of(connection.execute(lock).one())
        if row.state is not RunState.WAITING:
            raise NotWaiting(f"Run {run_id} is {row.state} and waits for nobody.")
    return row


def _kind(row: RunRecord) -> WaitingFor | None:
    return None if row.waiting_for is None else row.waiting_for.kind


def _ref(row: RunRecord) -> str:
    return "" if row.waiting_for is None else row.waiting_for.ref


def _resume(rt: Runtime, connection: sa.Connection, run_id: str) -> None:
    values = {"state": RunState.READY, "guard": "", "needed": 0, "updated_at": clock.now()}
    connection.execute(runs.update().where(runs.c.id == run_id).values(**values))
    due.go_on(connection, run_id)
    after_commit(connection, rt.wake_workers)
