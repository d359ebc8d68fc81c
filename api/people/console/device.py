"""A device: what happened to this one, and why is it where it is? And the form that proposes to contain it."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import Response

from api.device import routes as device_door
from api.fields import Whole
from api.people.access import may, runtime
from api.people.console import decisions, pages, timeline
from lachan import clock, devices, trust
from lachan.devices import Device
from lachan.enforcement import Level
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from lachan.trust import Answer
from pki import service as pki
from soar_playbooks import schemas, service

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
Reader = Annotated[Principal, Depends(may(Permission.DEVICES_READ))]
Open = Annotated[Runtime, Depends(runtime)]


@router.get("/devices/{device_id}")
def device_page(
    request: Request,
    device_id: str,
    caller: Reader,
    rt: Open,
    kind: Annotated[str, Query(max_length=20)] = "",
    before: Annotated[Whole, Query(ge=0, lt=2**63)] = 0,
) -> Response:
    """The decision with its reasons, the timeline, and at the side who it is and what it may still reach."""
    with rt.db.read() as connection:
        device = devices.get(connection, device_id, principal=caller)
        decision = trust.decision(connection, device_id)
        open_one = _containment(connection, caller, device_id)
    entries, following = timeline.read(rt, caller, device_id, kind=kind, before=before)
    return pages.render(
        request, "device.html", device=device, answer=decisions.shown(device, decision.answer),
        reasons=decisions.reasons(decision.reasons, caller), entries=entries, following=following, kind=kind,
        kinds=timeline.KINDS, certificates=_certificates(rt, caller, device), reach=reach(decision.answer),
        containment=open_one, levels=list(Level),
    )  # fmt: skip


def _containment(connection: Any, caller: Principal, device_id: str) -> dict[str, Any] | None:
    if not caller.may(Permission.RUNS_READ):
        return None
    rows = schemas.list_containments(connection, caller, limit=1, state="open", device_id=device_id)
    return rows[0] if rows else None


def _certificates(rt: Runtime, caller: Principal, device: Device) -> list[tuple[Any, str, datetime]]:
    """Certificate rows with their state in words and the moment of expiry, newest first."""
    if not caller.may(Permission.PKI_READ):
        return []
    now = clock.now()
    rows = pki.certificates_of(rt, caller, device.id)[:5]
    return [(row, "expired" if row.not_after <= now else row.state, row.not_after) for row in rows]


def reach(answer: Answer) -> dict[str, list[str]]:
    """Tell what the device door answers and refuses at a decision; the lists are the door's own."""
    if answer is Answer.ALLOW:
        return {"open": ["*"], "shut": []}
    if answer is Answer.LIMITED:
        return {"open": ["*"], "shut": sorted(device_door.WITHHELD_WHEN_LIMITED)}
    return {"open": sorted(device_door.REMEDIES) if answer is Answer.QUARANTINE else [], "shut": ["*"]}


@router.post("/devices/{device_id}/contain")
def contain_by_form(
    device_id: str,
    level: Annotated[Level, Form()],
    reason: Annotated[str, Form(min_length=1, max_length=500)],
    caller: Annotated[Principal, Depends(may(Permission.CONTAIN))],
    rt: Open,
    hours: Annotated[str, Form(max_length=10)] = "",
) -> Response:
    """Propose a containment; another person must approve it."""
    lasting = min(int(hours), 8760) if hours.strip().isdigit() else 0
    until = timedelta(hours=lasting) if lasting else None
    containment_id = service.propose_containment(
        rt, caller, device_id=device_id, level=level, reason=reason, until=until
    )
    return pages.back(f"/containments/{containment_id}", said="proposed")
