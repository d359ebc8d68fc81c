"""The verbs that playbooks and other rooms may call: containment.set, containment.release, human.page.

``run_id`` is given by the executor and by nobody else: it is what carries the alert's facts and the approvals to the
guards. Limits: ``containment.release`` needs two persons' sessions, so no playbook can ever call it with success.
"""

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from lachan.enforcement import Level
from lachan.errors import Forbidden
from lachan.events import HumanPaged
from lachan.identity import Permission, Principal, PrincipalKind
from lachan.runtime import Runtime
from lachan.statements import Statement, pipeline
from lachan.verbs import Verb
from soar_playbooks import webhooks
from soar_playbooks.containment import approvals, service
from soar_playbooks.containment.guards import Facts
from soar_playbooks.containment.records import Containment
from soar_playbooks.models import runs
from soar_playbooks.states import ContainmentState


class SetContainment(BaseModel):
    """Contain ``device_id`` at ``level``; ``until`` in seconds from now."""

    model_config = ConfigDict(extra="forbid")

    device_id: str
    level: Level
    reason: str = Field(min_length=1, max_length=500)
    run_id: str = ""
    until: float | None = Field(None, gt=0)


class ReleaseContainment(BaseModel):
    """Give one approval for the release of a containment."""

    model_config = ConfigDict(extra="forbid")

    containment_id: str = ""
    device_id: str = ""
    note: str = Field("", max_length=500)


class PageParameters(BaseModel):
    """Page a human: the fact goes to the ledger and, if one is configured, to the webhook."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500)
    device_id: str | None = None
    run_id: str = ""


def set_containment(
    rt: Runtime, connection: sa.Connection, principal: Principal, asked: SetContainment
) -> dict[str, Any]:
    """Ask for a containment; ``state`` of the result is ``active`` or ``waiting``.

    Raises:
        Forbidden: a run is named by somebody who is not the executor.
        Those of `soar_playbooks.containment.service.request`.
    """
    facts, given = None, 0
    if asked.run_id:
        if principal.kind is not PrincipalKind.SYSTEM:
            raise Forbidden("Only the executor acts in the name of a run.")
        known = pipeline(connection, [(_FACTS, {"run_id_": asked.run_id}), approvals.counting(asked.run_id, "run")])
        facts, given = Facts.of(known[0].rows[0].facts), known[1].rows[0][0]
    elif principal.kind is PrincipalKind.SYSTEM:
        facts = Facts()  # a part of lachan without a run behind it has no evidence
    request = service.Request(
        device_id=asked.device_id, level=asked.level, reason=asked.reason, principal=principal, run_id=asked.run_id,
        facts=facts, approvals=given, until=timedelta(seconds=asked.until) if asked.until else None,
    )  # fmt: skip
    return answer(service.request(rt, connection, request), asked.level)


def answer(row: Containment, wanted: Level) -> dict[str, Any]:
    """Tell a caller of a containment what it asked for at ``wanted``."""
    reached = row.state is ContainmentState.ACTIVE and row.level.rank >= wanted.rank
    return {
        "containment_id": row.id, "state": "active" if reached else "waiting" if row.guard else "refused",
        "level": str(row.level), "guard": str(row.guard), "needed": row.needed, "reason": row.guard_reason,
    }  # fmt: skip


def release(rt: Runtime, connection: sa.Connection, principal: Principal, asked: ReleaseContainment) -> dict[str, Any]:
    """Give one approval for a release; by containment, or by the device's open one.

    Raises:
        Those of `soar_playbooks.containment.approvals.release`.
    """
    containment_id = asked.containment_id or service.open_of(connection, asked.device_id)
    found = approvals.release(rt, connection, principal, containment_id=containment_id, note=asked.note)
    return {"containment_id": containment_id, "state": str(found.containment.state), "approvals": found.approvals}


def page(rt: Runtime, connection: sa.Connection, principal: Principal, asked: PageParameters) -> dict[str, Any]:
    """Record that a human is needed; the webhook handler posts it."""
    alert = connection.execute(sa.select(runs.c.alert_id).where(runs.c.id == asked.run_id)).scalar() or ""
    event = HumanPaged(device_id=asked.device_id, reason=asked.reason, run_id=asked.run_id, alert_id=alert)
    return {"event_id": webhooks.tell(rt, connection, event, actor=principal)}


_FACTS = Statement(sa.select(runs.c.facts).where(runs.c.id == sa.bindparam("run_id_")))
SET = Verb(
    name="containment.set", parameters=SetContainment, permission=Permission.CONTAIN, run=set_containment,
    undo="containment.release",
)  # fmt: skip
RELEASE = Verb(
    name="containment.release", parameters=ReleaseContainment, permission=Permission.CONTAIN_RELEASE, run=release
)
PAGE = Verb(name="human.page", parameters=PageParameters, permission=Permission.RUNS_READ, run=page)
