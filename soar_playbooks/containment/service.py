"""The one place where a containment row is written: request, decide, release, expire.

Each function works in the caller's transaction. What takes effect reaches ``lachan.trust`` there and then, with the fact
``DeviceContained``; the reconciler's rows are made due beside it. Lock order (ADR 0021): device rows by id, kill switch
(shared), budgets sorted, containment; `FOR NO KEY UPDATE` (a foreign-key insert passes it), `FOR UPDATE` only where a unique
column of `devices` changes; background pages use SKIP LOCKED. The device's lock comes first and is enough to look at its containment. Limits: one open containment per device; a second request raises its level or lengthens it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices, trust
from lachan.database import after_commit
from lachan.devices import Device
from lachan.enforcement import Level
from lachan.events import ContainmentEnded
from lachan.identity import Principal, PrincipalKind
from lachan.ids import new_id
from lachan.statements import Statement, later
from lachan.wiring import Rank
from lachan.work import jobs, outbox
from soar_playbooks.containment import budgets, effects, guards, reconciler
from soar_playbooks.containment.guards import Asked, Facts, Guard, GuardVerdict
from soar_playbooks.containment.records import Containment
from soar_playbooks.errors import ReleaseNotPossible, UnknownContainment
from soar_playbooks.models import approvals, containments, run_journal, runs
from soar_playbooks.states import ACTOR, OPEN, ContainmentState, Phase, RunState, WaitingFor

if TYPE_CHECKING:
    from lachan.runtime import Runtime

LEAVES_NOTHING = frozenset({"containment.set", "human.page"})  # of these verbs nothing is left when the row has ended


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

    Whatever asks for more than is in effect or waits already, a harder level or a later end, is judged.

    Raises:
        NotFound: there is no such device, or it is another vendor's.
        TargetProtected, NotBound, EvidenceTooThin, HumanOnly: as `soar_playbooks.containment.guards.judge`.
    """
    open_one = (_OPEN, {"device_id_": asked.device_id})
    device, (found,) = devices.locked_and(connection, asked.device_id, [open_one], principal=asked.principal)
    row = Containment.of(found.rows[0]) if found.rows else None
    if row is not None and not _asks_more(row, asked):
        return row
    verdict = guards.judge(connection, rt.settings, device, _as_guards_see(asked, row))
    if row is not None and row.guard and verdict.guard and not _asks_more_than_waits(row, asked):
        return row  # it waits for people already, and asks them nothing new
    return _apply(rt, connection, device, row, asked, verdict)


def _asks_more(row: Containment, asked: Request) -> bool:
    """Tell whether a request wants more than is in effect."""
    harder = row.state is not ContainmentState.ACTIVE or asked.level.rank > row.level.rank
    return harder or effects.lasts_longer(row, effects.end_of(_seconds(asked)))


def _asks_more_than_waits(row: Containment, asked: Request) -> bool:
    """Tell whether a request wants more than people are being asked for."""
    if asked.level.rank > row.wanted.rank:
        return True
    seconds = _seconds(asked)
    if not effects.lasts_longer(row, effects.end_of(seconds)):
        return False
    if row.since is None:
        return True
    return not row.longer or (row.longer_seconds is not None and (seconds is None or seconds > row.longer_seconds))


def _seconds(asked: Request) -> int | None:
    return None if asked.until is None else math.ceil(asked.until.total_seconds())


def end(rt: Runtime, connection: sa.Connection, row: Containment, *, actor: Principal, reason: str) -> None:
    """End an open containment: the signal goes, the budgets come back, the points are driven back.

    Raises:
        ReleaseNotPossible: it is not open.
    """
    if row.state not in OPEN:
        raise ReleaseNotPossible(f"Containment {row.id} is {row.state}.")
    budgets.give_back(connection, row.counted)
    over = {"state": ContainmentState.ENDED, "ended_at": clock.now(), "ended_by": actor.label}
    effects.write(connection, row, **over, guard=Guard.NONE, counted=())
    trust.clear_signal(connection, device_id=row.device_id, source=effects.SOURCE, ref=row.id)
    event = ContainmentEnded(device_id=row.device_id, containment_id=row.id, by=actor.label, reason=reason)
    outbox.append(connection, event, actor=actor)
    target = reconciler.target_of(devices.get(connection, row.device_id))
    reconciler.want(rt, connection, target, containment_id=row.id, level=None)
    _undo(connection, row)
    after_commit(connection, rt.wake_doors)
    after_commit(connection, rt.wake_workers)


def _undo(connection: sa.Connection, row: Containment) -> None:
    """Make the undo of the containment's run due, if it began anything that the end of the row does not take back."""
    if not row.run_id:
        return
    begun = sa.and_(run_journal.c.run_id == row.run_id, run_journal.c.phase == str(Phase.INTENT))
    bodies = connection.execute(sa.select(run_journal.c.body).where(begun)).scalars()
    if any(body.get("verb") not in LEAVES_NOTHING for body in bodies):
        jobs.enqueue(connection, "soar.undo", {"run_id": row.run_id}, key=f"undo:{row.id}")


def locked_open(connection: sa.Connection, device_id: str) -> tuple[Device, Containment | None]:
    """Give a device, locked, and its open containment.

    Raises:
        NotFound: there is no such device.
    """
    device, (found,) = devices.locked_and(connection, device_id, [(_OPEN, {"device_id_": device_id})])
    return device, Containment.of(found.rows[0]) if found.rows else None


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

    def unit(connection: sa.Connection) -> datetime | None:
        row = locked(connection, job.payload["containment_id"], ACTOR)
        if row.state not in OPEN or row.until is None:
            return None
        if row.until > clock.now():
            return effects.reckoned(connection, row).until
        end(rt, connection, row, actor=ACTOR, reason="its time is over")
        resume_runs(connection, row.id)
        return None

    again = rt.db.run(unit, urgent=True)
    if again is not None:
        raise jobs.Again(again)


def ask_anew(rt: Runtime, connection: sa.Connection, row: Containment) -> None:
    """Void what people have agreed to: what they were shown is another thing now; who had agreed is asked again."""
    given = sa.and_(approvals.c.subject_id == row.id, approvals.c.kind == f"contain-{row.round}")
    asked = connection.execute(sa.select(approvals.c.person_id).where(given)).first() is not None
    row = effects.write(connection, row, round=row.round + 1)
    if asked:
        effects.tell_waiting(rt, connection, row, run_id=row.run_id, actor=ACTOR)


def resume_runs(connection: sa.Connection, containment_id: str) -> None:
    """Make the runs due that waited for a decision on this containment."""
    mine = sa.and_(runs.c.waiting_for_kind == str(WaitingFor.CONTAINMENT), runs.c.waiting_for_ref == containment_id)
    for run_id in list(connection.execute(sa.select(runs.c.id).where(mine)).scalars()):
        waiting = sa.and_(runs.c.id == run_id, runs.c.state == RunState.WAITING)
        if connection.execute(runs.update().where(waiting).values(state=RunState.READY, guard="", needed=0)).rowcount:
            jobs.enqueue(connection, "soar.run", {"run_id": run_id}, rank=Rank.FIRST)


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
        requester_id=person, until=None, longer=False, longer_seconds=None, counted=(), created_at=clock.now(), since=None, ended_at=None, ended_by="",
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
    waited = row.guard
    values = _judged(row, asked, verdict)
    harder = verdict.level is not None and (row.since is None or verdict.level.rank > row.level.rank)
    if harder and verdict.level is not None:
        values |= effects.activated(connection, row, verdict.level)
    row = replace(row, **values) if present is None else effects.write(connection, row, **values)
    fresh = [(_INSERT, row.columns)] if present is None else []
    if not harder:
        later(connection, fresh)
    effects.remember_requester(connection, row)
    if harder:
        effects.take_effect(rt, connection, device, row, fresh, actor=asked.principal)
        effects.end_due(connection, row)
    if present is not None and present.since is not None and not verdict.guard:
        row = effects.lengthen(connection, row, effects.end_of(_seconds(asked)), actor=asked.principal)
    if verdict.page:
        effects.page(rt, connection, row, verdict.reason, actor=asked.principal)
    if verdict.guard:
        effects.tell_waiting(rt, connection, row, run_id=asked.run_id, actor=asked.principal)
    elif waited:  # what others waited for has come to pass
        resume_runs(connection, row.id)
    return row


def _judged(row: Containment, asked: Request, verdict: GuardVerdict) -> dict[str, Any]:
    """Give the columns that a verdict changes; a later end that must wait is kept beside the one in effect."""
    first, seconds = not row.guard and row.since is None, _seconds(asked)
    values: dict[str, Any] = {
        "wanted": max(row.wanted, asked.level, key=lambda level: level.rank),
        "guard": verdict.guard, "guard_reason": verdict.reason, "needed": verdict.needed,
        "round": row.round if first else row.round + 1,
        "counted": tuple(sorted({*row.counted, *verdict.counted})), "longer": False, "longer_seconds": None,
    }  # fmt: skip
    if first:
        values["until"] = effects.end_of(seconds)
    elif row.since is None:
        values["until"] = _later_end(row.until, effects.end_of(seconds))
    elif verdict.guard:
        more = effects.lasts_longer(row, effects.end_of(seconds))
        values["longer"] = row.longer or more
        values["longer_seconds"] = _longest(row, seconds) if more else row.longer_seconds
    if verdict.guard and asked.principal.kind is not PrincipalKind.SYSTEM:  # whoever asks for more may not approve it
        values |= {"requester_id": asked.principal.id, "requested_by": asked.principal.label, "reason": asked.reason}
    return values


def _later_end(one: datetime | None, other: datetime | None) -> datetime | None:
    return None if one is None or other is None else max(one, other)


def _longest(row: Containment, seconds: int | None) -> int | None:
    """Give the longer of what waits already and what is asked for now; None has no end."""
    if seconds is None or (row.longer and row.longer_seconds is None):
        return None
    return max(seconds, row.longer_seconds or 0)


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
