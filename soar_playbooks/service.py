"""The verbs of this room that doors call: what a person decides about runs and containments.

One call shape (design section 2): ``(rt, principal, …)`` opens its own unit of work, urgent, since a person waits and a device
may be let in or cut by it; the modules behind it join a caller's unit with ``(rt, connection, principal, …)``. What may be
decided, and by whom, is said there: `soar_playbooks.runs.decisions`, `soar_playbooks.containment.approvals`.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa

from lachan import devices
from lachan.identity import Principal
from soar_playbooks import faults
from soar_playbooks.containment import approvals
from soar_playbooks.faults import Record
from soar_playbooks.runs import decisions

if TYPE_CHECKING:
    from lachan.enforcement import Level
    from lachan.runtime import Runtime


def approve_run(rt: Runtime, principal: Principal, *, run_id: str, note: str = "", shown: str = "") -> None:
    """Approve what a run waits for; errors as `soar_playbooks.runs.decisions.approve`."""
    faults.run(
        rt, Record.APPROVAL, lambda c: decisions.approve(rt, c, principal, run_id=run_id, note=note, shown=shown)
    )


def reject_run(rt: Runtime, principal: Principal, *, run_id: str, note: str = "") -> None:
    """Reject what a run waits for; errors as `soar_playbooks.runs.decisions.reject`."""
    faults.run(rt, Record.APPROVAL, lambda c: decisions.reject(rt, c, principal, run_id=run_id, note=note))


def resolve_run(rt: Runtime, principal: Principal, *, run_id: str, happened: bool, note: str = "") -> None:
    """Say what became of a step; errors as `soar_playbooks.runs.decisions.resolve`."""
    faults.run(
        rt, Record.APPROVAL,
        lambda c: decisions.resolve(rt, c, principal, run_id=run_id, happened=happened, note=note),
    )  # fmt: skip


def propose_containment(
    rt: Runtime,
    principal: Principal,
    *,
    device_id: str,
    level: Level,
    reason: str,
    until: timedelta | None = None,
) -> str:
    """Propose to contain a device and give the containment's id; errors as `soar_playbooks.containment.approvals.propose`."""

    def unit(connection: sa.Connection) -> str:
        device = devices.get(connection, device_id, principal=principal)
        return approvals.propose(rt, connection, principal, device=device, level=level, reason=reason, until=until).id

    return rt.db.run(unit, urgent=True)


def set_kill_switch(rt: Runtime, principal: Principal, *, active: bool, reason: str) -> None:
    """Stop or allow automatic containment; errors as `soar_playbooks.containment.approvals.set_kill_switch`."""
    rt.db.run(lambda c: approvals.set_kill_switch(c, principal, active=active, reason=reason), urgent=True)


def approve_containment(
    rt: Runtime,
    principal: Principal,
    *,
    containment_id: str,
    note: str = "",
    level: Level | None = None,
    shown: str = "",
) -> None:
    """Approve what a containment waits for; errors as `soar_playbooks.containment.approvals.approve`."""
    asked = partial(approvals.approve, containment_id=containment_id, note=note, level=level, shown=shown)
    faults.run(rt, Record.APPROVAL, lambda c: asked(rt, c, principal))


def reject_containment(rt: Runtime, principal: Principal, *, containment_id: str, note: str = "") -> None:
    """Reject what a containment waits for; errors as `soar_playbooks.containment.approvals.reject`."""
    faults.run(
        rt, Record.APPROVAL, lambda c: approvals.reject(rt, c, principal, containment_id=containment_id, note=note)
    )


def release_containment(rt: Runtime, principal: Principal, *, containment_id: str, note: str = "") -> None:
    """Give one approval of a release; errors as `soar_playbooks.containment.approvals.release`."""
    faults.run(
        rt, Record.APPROVAL, lambda c: approvals.release(rt, c, principal, containment_id=containment_id, note=note)
    )
