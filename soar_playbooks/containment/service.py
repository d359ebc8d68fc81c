"""The one place where a containment row is written: request, decide, release, expire.

Each function works in the caller's transaction. What takes effect reaches ``lachan.trust`` there and then, with the fact
``DeviceContained``; the reconciler's rows are made due beside it. Lock order (ADR 0021): device rows by id, kill switch
(shared), budgets sorted, containment; `FOR NO KEY UPDATE` (a foreign-key insert passes it), `FOR UPDATE` only where a unique
column of `devices` changes; background pages use SKIP LOCKED. The device's lock comes first and is enough to look at its containment. Limits: one open containment per device; a second request raises its level or lengthens it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices, trust
from lachan.database import after_commit, insert_ignore
from lachan.devices import Device
from lachan.enforcement import Level
from lachan.events import ApprovalNeeded, ContainmentEnded, ContainmentWaiting, DeviceContained, HumanPaged
from lachan.identity import Principal, PrincipalKind
from lachan.ids import new_id
from lachan.statements import Statement, later
from lachan.work import jobs, outbox
from soar_playbooks import webhooks
from soar_playbooks.containment import budgets, guards, reconciler
from soar_playbooks.containment.guards import Asked, Facts, Guard, GuardVerdict
from soar_playbooks.containment.records import Containment
from soar_playbooks.errors import ReleaseNotPossible, UnknownContainment
from soar_playbooks.models import approvals, containments, run_journal, runs
from soar_playbooks.states import ACTOR, OPEN, ContainmentState, Phase, RunState, WaitingFor

if TYPE_CHECKING:
    from lachan.runtime import Runtime

SOURCE = "containment"
LEAVES_NOTHING = frozenset({"containment.set", "human.page"})  # of these verbs nothing is left when the row has ended
ANSWERS = {
    Level.DEGRADE: trust.Answer.LIMITED,
    Level.QUARANTINE: trust.Answer.QUARANTINE,
    Level.ISOLATE: trust.Answer.QUARANTINE,
    Level.EVICT: trust.Answer.DENY,
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Somebody wants a device contained.

    Attributes:
        device_id: which.
        level: how hard.
        reason: one sentence, for people.
        principal: who asks; the executor's system principal for a run.
        run_id: the run, if a run asks.
        facts: of the alert behind the run; None for a human's own proposal.
        approvals: persons who have approved the run.
        until: how long it may last; None means until released.
    """

    device_id: str
    level: Level
    reason: str
    principal: Principal
    run_id: str = ""
    facts: Facts | None = None
    approvals: int = 0
    until: timedelta | None = None


def request(rt: Runtime, connection: sa.Connection, asked: Request) -> Containment:
    """Contain a device, as far as the guards let it; give its containment as it is then.

    Raises:
        NotFound: there is no such device, or it is another vendor's.
        TargetProtected, NotBound, EvidenceTooThin, HumanOnly: as `soar_playbooks.containment.guards.judge`.
    """
    open_one = (_OPEN, {"device_id_": asked.device_id})
    device, (found,) = devices.locked_and(connection, asked.device_id, [open_one], principal=asked.principal)
    row = Containment.of(found.rows[0]) if found.rows else None
    if row is not None and row.state is ContainmentState.ACTIVE and row.level.rank >= asked.level.rank:
        return _lengthen(connection, row, asked)
    verdict = guards.judge(connection, rt.settings, device, _as_guards_see(asked, row))
    waits = row is not None and row.guard and row.wanted.rank >= asked.level.rank and not asked.approvals
    if row is not None and waits and (verdict.guard or verdict.level is None):
        return row
    return _apply(rt, connection, device, row, asked, verdict)


def activate(
    rt: Runtime, connection: sa.Connection, row: Containment, level: Level, *, actor: Principal
) -> Containment:
    """Let a level take effect now: row, trust signal, fact and the points, in the caller's unit."""
    row = write(connection, row, **_activated(connection, row, level))
    _take_effect(rt, connection, devices.get(connection, row.device_id), row, actor=actor)
    return row


def write(connection: sa.Connection, row: Containment, **values: Any) -> Containment:
    """Change columns of a containment; give it as it is then."""
    stored = values | {"counted": list(values["counted"])} if "counted" in values else values
    connection.execute(containments.update().where(containments.c.id == row.id).values(**stored))
    return replace(row, **values)


def _activated(connection: sa.Connection, row: Containment, level: Level) -> dict[str, Any]:
    if row.since is not None:  # who agreed to release it from less has not agreed to release it from this
        stale = sa.and_(approvals.c.subject_id == row.id, approvals.c.kind == "release")
        connection.execute(approvals.update().where(stale).values(kind=f"void-{row.level}"))
    return {"state": ContainmentState.ACTIVE, "level": level, "since": row.since or clock.now()}


def _take_effect(
    rt: Runtime,
    connection: sa.Connection,
    device: Device,
    row: Containment,
    fresh: Sequence[tuple[Statement, dict[str, Any]]] = (),
    *,
    actor: Principal,
) -> None:
    level, dialect = row.level, connection.dialect.name
    event = DeviceContained(
        device_id=row.device_id, containment_id=row.id, level=str(level), reason=row.reason,
        run_id=row.run_id,
    )  # fmt: skip
    _, told = outbox.calls(event, actor=actor, vendor=row.vendor, dialect=dialect)
    signal = _signal_of(row)
    if signal is not None:
        trust.touch(connection)
        told = [*trust.signal_calls(signal), *told]
    later(connection, [*fresh, *told])
    reconciler.want(rt, connection, reconciler.target_of(device), containment_id=row.id, level=level)
    after_commit(connection, rt.wake)


def end(rt: Runtime, connection: sa.Connection, row: Containment, *, actor: Principal, reason: str) -> None:
    """End an open containment: the signal goes, the budgets come back, the points are driven back.

    Raises:
        ReleaseNotPossible: it is not open.
    """
    if row.state not in OPEN:
        raise ReleaseNotPossible(f"Containment {row.id} is {row.state}.")
    budgets.give_back(connection, row.counted)
    over = {"state": ContainmentState.ENDED, "ended_at": clock.now(), "ended_by": actor.label}
    write(connection, row, **over, guard=Guard.NONE, counted=())
    trust.clear_signal(connection, device_id=row.device_id, source=SOURCE, ref=row.id)
    event = ContainmentEnded(device_id=row.device_id, containment_id=row.id, by=actor.label, reason=reason)
    outbox.append(connection, event, actor=actor)
    target = reconciler.target_of(devices.get(connection, row.device_id))
    reconciler.want(rt, connection, target, containment_id=row.id, level=None)
    _undo(connection, row)
    after_commit(connection, rt.wake)


def _undo(connection: sa.Connection, row: Containment) -> None:
    """Make the undo of the containment's run due, if it began anything that the end of the row does not take back."""
    if not row.run_id:
        return
    begun = sa.and_(run_journal.c.run_id == row.run_id, run_journal.c.phase == str(Phase.INTENT))
    bodies = connection.execute(sa.select(run_journal.c.body).where(begun)).scalars()
    if any(body.get("verb") not in LEAVES_NOTHING for body in bodies):
        jobs.enqueue(connection, "soar.undo", {"run_id": row.run_id}, key=f"undo:{row.id}")


def locked(connection: sa.Connection, containment_id: str, principal: Principal) -> Containment:
    """Give a containment, with its device locked for a decision: whoever changes a containment holds that lock.

    Raises:
        UnknownContainment: there is none, or it is another vendor's.
    """
    row = find(connection, containment_id, principal)
    _locked(connection, row.device_id, principal)
    return find(connection, containment_id, principal)


def find(connection: sa.Connection, containment_id: str, principal: Principal | None = None) -> Containment:
    """Find a containment by its id, if the principal may see it.

    Raises:
        UnknownContainment: there is none, or it is another vendor's.
    """
    row = connection.execute(sa.select(containments).where(containments.c.id == containment_id)).first()
    hidden = row is not None and principal is not None and principal.vendor not in {None, row.vendor}
    if row is None or hidden:
        raise UnknownContainment(f"No containment {containment_id}.")
    return Containment.of(row)


def expire(rt: Runtime, job: jobs.Job) -> None:
    """End a containment whose time is over (job ``soar.expire``)."""

    def unit(connection: sa.Connection) -> None:
        row = locked(connection, job.payload["containment_id"], ACTOR)
        if row.state not in OPEN or row.until is None:
            return
        if row.until > clock.now():
            raise jobs.Again(row.until)
        end(rt, connection, row, actor=ACTOR, reason="its time is over")
        resume_runs(connection, row.id)

    rt.db.run(unit, urgent=True)


def resume_runs(connection: sa.Connection, containment_id: str) -> None:
    """Make the runs due that waited for a decision on this containment."""
    mine = sa.and_(runs.c.waiting_for_kind == str(WaitingFor.CONTAINMENT), runs.c.waiting_for_ref == containment_id)
    for run_id in list(connection.execute(sa.select(runs.c.id).where(mine)).scalars()):
        waiting = sa.and_(runs.c.id == run_id, runs.c.state == RunState.WAITING)
        if connection.execute(runs.update().where(waiting).values(state=RunState.READY, guard="", needed=0)).rowcount:
            jobs.enqueue(connection, "soar.run", {"run_id": run_id})


def _as_guards_see(asked: Request, row: Containment | None) -> Asked:
    counted = row.counted if row is not None else ()
    return Asked(level=asked.level, facts=asked.facts, approvals=asked.approvals, counted=counted)


def _locked(connection: sa.Connection, device_id: str, principal: Principal) -> Device:
    return devices.locked(connection, device_id, principal=principal)


def _fresh(device: Device, asked: Request) -> Containment:
    person = asked.principal.id if asked.principal.kind is not PrincipalKind.SYSTEM else ""
    return Containment(
        id=new_id(), device_id=device.id, vendor=device.vendor, site=device.site, state=ContainmentState.WAITING,
        level=Level.OBSERVE, wanted=asked.level, guard=Guard.NONE, guard_reason="", needed=0, round=1, reason=asked.reason,
        run_id=asked.run_id, alert_id=asked.facts.alert_id if asked.facts else "", requested_by=asked.principal.label,
        requester_id=person, until=None, counted=(), created_at=clock.now(), since=None, ended_at=None, ended_by="",
    )  # fmt: skip


def _apply(
    rt: Runtime,
    connection: sa.Connection,
    device: Device,
    present: Containment | None,
    asked: Request,
    verdict: GuardVerdict,
) -> Containment:
    """Write a verdict into the device's open row, or a new one, and let it take effect."""
    row = present or _fresh(device, asked)
    first = not row.guard and row.since is None
    values: dict[str, Any] = {
        "wanted": max(row.wanted, asked.level, key=lambda level: level.rank),
        "guard": verdict.guard, "guard_reason": verdict.reason, "needed": verdict.needed,
        "round": row.round if first else row.round + 1,
        "counted": tuple(sorted({*row.counted, *verdict.counted})), "until": _until(row, asked, first=first),
    }  # fmt: skip
    if verdict.guard and asked.principal.kind is not PrincipalKind.SYSTEM:  # whoever asks for more may not approve it
        values |= {"requester_id": asked.principal.id, "requested_by": asked.principal.label, "reason": asked.reason}
    harder = verdict.level is not None and (row.since is None or verdict.level.rank > row.level.rank)
    if harder and verdict.level is not None:
        values |= _activated(connection, row, verdict.level)
    row = replace(row, **values) if present is None else write(connection, row, **values)
    fresh = [(_INSERT, row.columns)] if present is None else []
    if not harder:
        later(connection, fresh)
    _remember_requester(connection, row)
    if harder:
        _take_effect(rt, connection, device, row, fresh, actor=asked.principal)
    elif row.state is ContainmentState.ACTIVE:
        _signal(connection, row)  # it may last longer now: signal and row end together
    _follow_up(rt, connection, row, asked, verdict)
    return row


def _follow_up(rt: Runtime, connection: sa.Connection, row: Containment, asked: Request, verdict: GuardVerdict) -> None:
    """Make the end due, page whom the verdict pages, and tell who must approve."""
    if row.until is not None:
        jobs.enqueue(connection, "soar.expire", {"containment_id": row.id}, due_at=row.until, key=f"expire:{row.id}")
    if verdict.page:
        page = HumanPaged(device_id=row.device_id, reason=verdict.reason, run_id=row.run_id, alert_id=row.alert_id)
        webhooks.tell(rt, connection, page, actor=asked.principal)
    if verdict.guard:
        _tell_waiting(rt, connection, row, asked)


def _remember_requester(connection: sa.Connection, row: Containment) -> None:
    """Keep everybody who ever asked for this containment: a later request must not make an earlier one forgotten."""
    if row.requester_id:
        values = {
            "subject_id": row.id, "kind": "asked", "person_id": row.requester_id, "person": row.requested_by,
            "session": "", "decision": "asked", "note": row.reason, "at": clock.now(),
        }  # fmt: skip
        insert_ignore(connection, approvals, values, index=("subject_id", "kind", "person_id"))


def _tell_waiting(rt: Runtime, connection: sa.Connection, row: Containment, asked: Request) -> None:
    same = {"device_id": row.device_id, "run_id": asked.run_id, "containment_id": row.id}
    waiting = ContainmentWaiting(guard=row.guard, reason=row.guard_reason, **same)
    outbox.append(connection, waiting, actor=asked.principal)
    needed = ApprovalNeeded(needed=row.needed, reason=row.guard_reason, **same)
    webhooks.tell(rt, connection, needed, actor=asked.principal)


def _until(row: Containment, asked: Request, *, first: bool) -> datetime | None:
    """Give the later end of the two; no end is the latest."""
    wanted = clock.now() + asked.until if asked.until is not None else None
    if first or wanted is None:
        return wanted
    before: datetime | None = row.until
    return None if before is None else max(before, wanted)


def _lengthen(connection: sa.Connection, row: Containment, asked: Request) -> Containment:
    until = _until(row, asked, first=False)
    if until != row.until:
        row = write(connection, row, until=until)
        _signal(connection, row)
    return row


def _signal(connection: sa.Connection, row: Containment) -> None:
    signal = _signal_of(row)
    if signal is not None:
        trust.set_signal(connection, signal)


def _signal_of(row: Containment) -> trust.Signal | None:
    answer = ANSWERS.get(row.level)
    if answer is None or row.since is None:
        return None
    return trust.Signal(
        device_id=row.device_id, source=SOURCE, answer=answer, reason=f"contained-{row.level}", ref=row.id,
        since=row.since, detail=row.reason, until=row.until,
    )  # fmt: skip


def open_of(connection: sa.Connection, device_id: str) -> str:
    """Give the id of a device's open containment.

    Raises:
        UnknownContainment: it has none.
    """
    where = sa.and_(containments.c.device_id == device_id, containments.c.state.in_(OPEN))
    found: str | None = connection.execute(sa.select(containments.c.id).where(where)).scalar()
    if found is None:
        raise UnknownContainment(f"Device {device_id} is not contained.")
    return found


_OPEN = Statement(
    sa.select(containments).where(
        containments.c.device_id == sa.bindparam("device_id_"), sa.text("state IN ('waiting', 'active')")
    )
)
_INSERT = Statement(containments.insert(), columns=tuple(column.name for column in containments.c))
