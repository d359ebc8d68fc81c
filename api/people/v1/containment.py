"""Containment over HTTP: propose, approve, reject, release by two persons, and the kill switch."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api.pages import Page, Wanted, wanted
from api.people.access import may, runtime
from api.people.v1.runs import Note, RunDecisionOut, ShownApproval
from api.problems import documented
from lachan.enforcement import Level
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from soar_playbooks import schemas, service
from soar_playbooks.containment import approvals

router = APIRouter(prefix="/api/v1/containments", tags=["containment"])
Reader = Annotated[Principal, Depends(may(Permission.RUNS_READ))]
Approver = Annotated[Principal, Depends(may(Permission.RUNS_APPROVE))]
Open = Annotated[Runtime, Depends(runtime)]


class ContainmentOut(BaseModel):
    """What is wanted of one device, and how far the guards let it go."""

    id: str
    device_id: str
    device_name: str | None
    vendor: str
    site: str
    state: str = Field(examples=["active"], description="waiting, active, ended or rejected")
    level: Level = Field(description="What is in effect (nothing while waiting).")
    wanted: Level
    guard: str = Field(description="What the rest waits for; empty when nothing waits.")
    guard_reason: str
    needed: int = Field(description="How many different persons must approve.")
    reason: str
    run_id: str
    alert_id: str
    requested_by: str
    until: datetime | None
    longer: bool = Field(description="Whether a later end waits for approval.")
    longer_seconds: int | None = Field(description="How long it would last from the approval; none: until released.")
    created_at: datetime
    since: datetime | None
    ended_at: datetime | None
    ended_by: str


class PointOut(BaseModel):
    """What one enforcement point was driven to, and what it saw."""

    point: str
    wanted: Level | None
    state: str
    attempts: int
    evidence: dict[str, Any] | None
    last_error: str
    updated_at: datetime


class ContainmentDetail(ContainmentOut):
    """One containment with its decisions and evidence."""

    decisions: list[RunDecisionOut]
    releases: int = Field(description="How many persons have approved its release.")
    releases_needed: int
    alerts: list[str] = Field(description="The alerts behind it, in the order in which they came.")
    shown: str = Field(description="Digest of what an approval covers; give it back with the approval.")
    points: list[PointOut]


class NewContainment(BaseModel):
    """A proposal; another person must approve it."""

    model_config = ConfigDict(extra="forbid")

    device_id: str = Field(max_length=36)
    level: Level
    reason: str = Field(min_length=1, max_length=500)
    hours: float | None = Field(
        None, strict=True, gt=0, le=24 * 365, description="How long it may last; without it, until released."
    )


class ContainmentApproval(ShownApproval):
    """Why somebody approves, and what they saw when they decided."""

    level: Level | None = Field(None, description="The `wanted` that was read; another one by now is refused.")


class KillSwitch(BaseModel):
    """The global stop of all automatic containment."""

    active: bool
    reason: str = Field(max_length=500)


class KillSwitchOut(KillSwitch):
    """The kill switch, and who set it."""

    by: str
    at: datetime | None


@router.get("", summary="List containments")
def list_containments(
    caller: Reader,
    rt: Open,
    page: Annotated[Wanted, Depends(wanted)],
    state: Annotated[str, Query(max_length=10, examples=["open"])] = "",
    device_id: Annotated[str, Query(max_length=36)] = "",
) -> Page[ContainmentOut]:
    """Give containments that the caller may see, newest first; ``state=open`` gives waiting and active ones."""
    key = page.key(str)
    with rt.db.read() as connection:
        rows = schemas.list_containments(
            connection, caller, limit=page.limit + 1, before=key[0] if key else "", state=state, device_id=device_id
        )
    return page.page(rows, key=lambda row: (row["id"],), show=ContainmentOut.model_validate)


@router.get("/kill-switch", summary="Read the kill switch")
def read_kill_switch(caller: Reader, rt: Open) -> KillSwitchOut:
    """Tell whether automatic containment is stopped, by whom and why."""
    with rt.db.read() as connection:
        return KillSwitchOut.model_validate(asdict(approvals.kill_switch_state(connection)))


@router.put("/kill-switch", summary="Stop or allow automatic containment")
def set_kill_switch(
    body: KillSwitch, caller: Annotated[Principal, Depends(may(Permission.KILL_SWITCH))], rt: Open
) -> KillSwitchOut:
    """Stop every automatic containment everywhere, or allow them again; what humans decide goes on."""
    service.set_kill_switch(rt, caller, active=body.active, reason=body.reason)
    with rt.db.read() as connection:
        return KillSwitchOut.model_validate(asdict(approvals.kill_switch_state(connection)))


@router.get("/{containment_id}", summary="Read one containment with its evidence", responses=documented(404))
def read_containment(containment_id: str, caller: Reader, rt: Open) -> ContainmentDetail:
    """Give who decided what, and what each enforcement point did and saw."""
    with rt.db.read() as connection:
        return ContainmentDetail.model_validate(schemas.show_containment(rt, connection, caller, containment_id))


@router.post("", status_code=201, summary="Propose to contain a device", responses=documented(403, 404))
def propose_containment(
    body: NewContainment, caller: Annotated[Principal, Depends(may(Permission.CONTAIN))], rt: Open
) -> ContainmentDetail:
    """Propose a containment; it takes effect when another person (two, for the hardest cases) approves."""
    until = timedelta(hours=body.hours) if body.hours is not None else None
    containment_id = service.propose_containment(
        rt, caller, device_id=body.device_id, level=body.level, reason=body.reason, until=until
    )
    with rt.db.read() as connection:
        return ContainmentDetail.model_validate(schemas.show_containment(rt, connection, caller, containment_id))


@router.post("/{containment_id}/approve", summary="Approve a containment", responses=documented(403, 404, 409))
def approve_containment(
    containment_id: str, body: ContainmentApproval, caller: Approver, rt: Open
) -> ContainmentDetail:
    """Approve what the containment waits for; a person's session only, and never the proposer's."""
    service.approve_containment(
        rt, caller, containment_id=containment_id, note=body.note, level=body.level, shown=body.shown
    )
    with rt.db.read() as connection:
        return ContainmentDetail.model_validate(schemas.show_containment(rt, connection, caller, containment_id))


@router.post("/{containment_id}/reject", summary="Reject a containment", responses=documented(403, 404, 409))
def reject_containment(containment_id: str, body: Note, caller: Approver, rt: Open) -> ContainmentDetail:
    """Reject what the containment waits for; what is degraded meanwhile stays so until it is released."""
    service.reject_containment(rt, caller, containment_id=containment_id, note=body.note)
    with rt.db.read() as connection:
        return ContainmentDetail.model_validate(schemas.show_containment(rt, connection, caller, containment_id))


@router.post("/{containment_id}/release", summary="Approve a release", responses=documented(403, 404, 409))
def release_containment(
    containment_id: str,
    body: Note,
    caller: Annotated[Principal, Depends(may(Permission.CONTAIN_RELEASE))],
    rt: Open,
) -> ContainmentDetail:
    """Give one of the two approvals that end a containment; two different persons, each in their own session."""
    service.release_containment(rt, caller, containment_id=containment_id, note=body.note)
    with rt.db.read() as connection:
        return ContainmentDetail.model_validate(schemas.show_containment(rt, connection, caller, containment_id))
