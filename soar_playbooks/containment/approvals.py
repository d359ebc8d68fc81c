"""What humans decide about containments: propose, approve, reject, release, and the kill switch.

Every decision is a row with the person and their session, and a fact in the ledger. Approvals and releases need a person's
session (`PERSON_ONLY`), each person counts once, and whoever proposed a containment counts neither for its approval nor
for its release. Limits: who else may be asked is not known here; the webhook tells the people.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices
from lachan.database import after_commit, insert_ignore
from lachan.devices import Device
from lachan.enforcement import Level
from lachan.events import ContainmentRejected, KillSwitchChanged, ReleaseApproved, RunApproved
from lachan.identity import Permission, Principal, require
from lachan.identity.humans import stands_behind
from lachan.statements import Statement, insert_or_replace
from lachan.work import outbox
from soar_playbooks.containment import effects, guards, service
from soar_playbooks.containment import shown as look
from soar_playbooks.containment.guards import Asked, Guard
from soar_playbooks.containment.records import Containment, KillSwitchState, PersonDecision, ReleaseCount
from soar_playbooks.errors import FourEyes, NotWaiting, ReleaseNotPossible
from soar_playbooks.models import approvals, kill_switch
from soar_playbooks.states import OPEN, ContainmentState

if TYPE_CHECKING:
    from lachan.runtime import Runtime

RELEASES_NEEDED = 2


def propose(
    rt: Runtime,
    connection: sa.Connection,
    principal: Principal,
    *,
    device: Device,
    level: Level,
    reason: str,
    until: timedelta | None = None,
) -> Containment:
    """Propose to contain a device; another person must approve it. Give the containment.

    Raises:
        Forbidden: the principal may not contain.
        NotFound: the device is another vendor's.
        TargetProtected: the device is one of lachan's own dependencies.
    """
    require(principal, Permission.CONTAIN, vendor=device.vendor)
    asked = service.Request(device_id=device.id, level=level, reason=reason, principal=principal, until=until)
    return service.request(rt, connection, asked)


def approve(
    rt: Runtime, connection: sa.Connection, principal: Principal, *,
    containment_id: str, note: str = "", level: Level | None = None, shown: str = "",
) -> Containment:  # fmt: skip
    """Approve what a containment waits for; the last needed approval lets it take effect at once.

    The guards judge again: if more people must agree by now (the device became more critical), it goes on waiting.

    Args:
        rt, connection: the installation, and an open `Database.write`.
        principal, containment_id, note: who approves what, and why.
        level: what the person saw that it waits for; None takes whatever it waits for now.
        shown: what the person saw (`soar_playbooks.containment.shown`); empty takes what there is now.

    Raises:
        PersonNeeded, Forbidden: not a person's session, or not an approver.
        NotWaiting: it waits for nobody, or for another level than the person saw.
        ShownChanged: alerts came, or something else changed, since the person looked.
        FourEyes: the person asked for it, or has approved it already.
        TargetProtected: the device has become one of lachan's own dependencies.
    """
    require(principal, Permission.RUNS_APPROVE)
    row = _waiting(connection, principal, containment_id, level=level)
    now = look.check(shown, look.at_containment(connection, row))
    kind = f"contain-{row.round}"
    given = decide_once(
        connection, principal, subject_id=row.id, kind=kind, decision="approve", note=note, shown=now
    )  # fmt: skip
    told = {"device_id": row.device_id, "run_id": row.run_id, "containment_id": row.id}
    outbox.append(connection, RunApproved(**told, person=principal.label, shown=now), actor=principal)
    return agreed(rt, connection, row, given, actor=principal)


def agreed(rt: Runtime, connection: sa.Connection, row: Containment, given: int, *, actor: Principal) -> Containment:
    """Judge what people have agreed to: let it take effect, or say how many of them it still needs.

    Raises:
        TargetProtected: the device is one of lachan's own dependencies.
    """
    device = devices.get(connection, row.device_id)
    verdict = guards.judge(connection, rt.settings, device, Asked(level=row.wanted, facts=None, approvals=given))
    if verdict.guard:
        return row if verdict.needed == row.needed else effects.write(connection, row, needed=verdict.needed)
    return take_effect(rt, connection, row, actor=actor)


def take_effect(rt: Runtime, connection: sa.Connection, row: Containment, *, actor: Principal) -> Containment:
    """Let what a containment waits for take effect, a harder level or a later end, and go on with its runs."""
    longer, until = row.longer, effects.end_of(row.longer_seconds)
    values: dict[str, Any] = {
        "guard": Guard.NONE,
        "guard_reason": "",
        "needed": 0,
        "longer": False,
        "longer_seconds": None,
    }
    if row.since is None and row.until is not None:
        values["until"] = clock.now() + (row.until - row.created_at)
    row = effects.write(connection, row, **values)
    if row.since is None or row.wanted.rank > row.level.rank:
        row = effects.activate(rt, connection, row, row.wanted, actor=actor)
        effects.end_due(connection, row)
    if longer:
        row = effects.lengthen(connection, row, until, actor=actor)
    service.resume_runs(connection, row.id)
    after_commit(connection, rt.wake_workers)
    return row


def reject(
    rt: Runtime, connection: sa.Connection, principal: Principal, *, containment_id: str, note: str = ""
) -> Containment:
    """Reject what a containment waits for. One that is degraded meanwhile stays so until it is released.

    Raises:
        PersonNeeded, Forbidden: not a person's session, or not an approver.
        NotWaiting: it waits for nobody.
    """
    require(principal, Permission.RUNS_APPROVE)
    row = _waiting(connection, principal, containment_id)
    kind = f"contain-{row.round}"
    decide_once(connection, principal, subject_id=row.id, kind=kind, decision="reject", note=note)
    values: dict[str, Any] = {
        "guard": Guard.NONE,
        "guard_reason": "",
        "needed": 0,
        "longer": False,
        "longer_seconds": None,
    }
    if row.state is ContainmentState.WAITING:
        values |= {"state": ContainmentState.REJECTED, "ended_at": clock.now(), "ended_by": principal.label}
    else:
        values |= {"wanted": row.level}
    row = effects.write(connection, row, **values)
    event = ContainmentRejected(device_id=row.device_id, containment_id=row.id, person=principal.label, note=note)
    outbox.append(connection, event, actor=principal)
    service.resume_runs(connection, row.id)
    after_commit(connection, rt.wake_workers)
    return row


def release(
    rt: Runtime, connection: sa.Connection, principal: Principal, *, containment_id: str, note: str = ""
) -> ReleaseCount:
    """Give one of the two approvals that end a containment; the second one ends it at once.

    Raises:
        PersonNeeded, Forbidden: not a person's session, or not an approver.
        ReleaseNotPossible: the containment is not in effect.
        FourEyes: the person proposed the containment, or has approved its release already.
    """
    require(principal, Permission.CONTAIN_RELEASE)
    row = service.locked(connection, containment_id, principal)
    if row.state is not ContainmentState.ACTIVE:
        raise ReleaseNotPossible(f"Containment {row.id} is {row.state}.")
    _not_the_proposer(connection, row, principal)
    _never_asked(connection, row, principal)
    given = decide_once(connection, principal, subject_id=row.id, kind="release", decision="approve", note=note)
    event = ReleaseApproved(
        device_id=row.device_id, containment_id=row.id, person=principal.label, approvals=given,
        needed=RELEASES_NEEDED,
    )  # fmt: skip
    outbox.append(connection, event, actor=principal)
    if given >= RELEASES_NEEDED:
        service.end(rt, connection, row, actor=principal, reason=note or "released by two persons")
        service.resume_runs(connection, row.id)
    return ReleaseCount(containment=service.find(connection, row.id), approvals=given, needed=RELEASES_NEEDED)


def set_kill_switch(connection: sa.Connection, principal: Principal, *, active: bool, reason: str) -> None:
    """Stop (or allow again) every automatic containment, everywhere; what humans decide goes on.

    Waits for the containments that have looked at the switch and have not committed; whoever looks meanwhile waits behind
    it, so that no stream of containments keeps it from being turned (PostgreSQL lets one share lock after the other pass
    a waiting row lock; locks of a table queue). The first turn, without a row to lock, is ordered the same way.

    Raises:
        Forbidden: the principal is no administrator.
    """
    require(principal, Permission.KILL_SWITCH)
    if connection.dialect.name == "postgresql":  # on SQLite whoever writes is alone
        connection.execute(_ALONE)
    before = kill_switch_state(connection).active
    _TURN.execute(connection, id=1, active=active, reason=reason, by=principal.label, at=clock.now())
    if before is not active:
        outbox.append(connection, KillSwitchChanged(active=active, reason=reason), actor=principal)


def kill_switch_state(connection: sa.Connection) -> KillSwitchState:
    """Tell whether the kill switch is on, since when, by whom and why."""
    row = connection.execute(sa.select(kill_switch).where(kill_switch.c.id == 1)).first()
    return (
        KillSwitchState()
        if row is None
        else KillSwitchState(active=row.active, reason=row.reason, by=row.by, at=row.at)
    )


def decide_once(
    connection: sa.Connection, principal: Principal, *, subject_id: str, kind: str, decision: str, note: str,
    shown: str = "",
) -> int:  # fmt: skip
    """Record one person's decision, and what they were shown; give how many persons have approved.

    Raises:
        FourEyes: this person has decided already.
    """
    values = {
        "subject_id": subject_id, "kind": kind, "person_id": principal.id, "person": principal.label,
        "session": principal.session or "", "decision": decision, "note": note, "shown": shown, "at": clock.now(),
    }  # fmt: skip
    if not insert_ignore(connection, approvals, values, index=("subject_id", "kind", "person_id")):
        raise FourEyes(f"{principal.label} has decided this already.")
    return count(connection, subject_id, kind)


def count(connection: sa.Connection, subject_id: str, kind: str) -> int:
    """Tell how many different persons have approved."""
    statement, binds = counting(subject_id, kind)
    found: int = statement.scalar(connection, **binds)
    return found


def counting(subject_id: str, kind: str) -> tuple[Statement, dict[str, Any]]:
    """Make ready the statement of `count`, for those who run it with others."""
    return _COUNT, {"subject_id_": subject_id, "kind_": kind}


def given(connection: sa.Connection, subject_id: str) -> list[PersonDecision]:
    """Give all decisions on a run or containment, oldest first; who asked for it is no decision."""
    c = approvals.c
    query = sa.select(c.kind, c.person, c.decision, c.note, c.at).where(c.subject_id == subject_id, c.kind != "asked")
    return [PersonDecision(**row._mapping) for row in connection.execute(query.order_by(c.at))]


def _waiting(
    connection: sa.Connection, principal: Principal, containment_id: str, *, level: Level | None = None
) -> Containment:
    row = service.locked(connection, containment_id, principal)
    if row.state not in OPEN or not row.guard:
        raise NotWaiting(f"Containment {row.id} is {row.state} and waits for nobody.")
    if level is not None and level != row.wanted:
        raise NotWaiting(f"It waits for {row.wanted} now, not for {level}: look at it again.")
    _not_the_proposer(connection, row, principal)
    _never_asked(connection, row, principal)
    return row


def _not_the_proposer(connection: sa.Connection, row: Containment, principal: Principal) -> None:
    if row.requester_id and stands_behind(connection, principal, row.requester_id):
        raise FourEyes(f"{principal.label} proposed this containment; another person must decide.")


def _never_asked(connection: sa.Connection, row: Containment, principal: Principal) -> None:
    """See that whoever asked for a containment decides nothing of it, also when somebody else has asked for more since."""
    asked = sa.and_(approvals.c.subject_id == row.id, approvals.c.kind == "asked")
    askers = connection.execute(sa.select(approvals.c.person_id).where(asked)).scalars().all()
    if any(stands_behind(connection, principal, asker) for asker in askers):
        raise FourEyes(f"{principal.label} asked for this containment; others must decide.")


_COUNT = Statement(
    sa.select(sa.func.count()).where(
        approvals.c.subject_id == sa.bindparam("subject_id_"),
        approvals.c.kind == sa.bindparam("kind_"),
        approvals.c.decision == "approve",
    )
)
_TURN = insert_or_replace(kill_switch, "id", "active", "reason", "by", "at", index=("id",))
_ALONE = sa.text(f"LOCK TABLE {kill_switch.name} IN EXCLUSIVE MODE")  # against ROW SHARE of `guards.switched_off`
