"""Runs over HTTP: what a playbook did step by step, what waits for a human, and the human's decision."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api.pages import Page, Wanted, wanted
from api.people.access import may, runtime
from api.problems import documented
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from soar_playbooks import schemas, service

router = APIRouter(prefix="/api/v1/runs", tags=["runs"])
Reader = Annotated[Principal, Depends(may(Permission.RUNS_READ))]
Approver = Annotated[Principal, Depends(may(Permission.RUNS_APPROVE))]
Open = Annotated[Runtime, Depends(runtime)]


class RunOut(BaseModel):
    """One run of one version of a playbook because of one alert."""

    id: str
    playbook_id: str
    playbook_name: str
    playbook_version: str
    digest: str = Field(description="SHA-256 of the signed playbook that runs.")
    mode: str = Field(examples=["enforce"])
    alert_id: str
    device_id: str | None
    device_name: str | None
    vendor: str | None
    state: str = Field(examples=["waiting"], description="ready, running, waiting or ended")
    step: str
    guard: str = Field(description="What it waits for: propose, essential, life-safety, budget, outcome-unknown …")
    needed: int = Field(description="How many different persons must approve.")
    waiting_for: str = Field(description="Kind and reference in one word; a containment's id stands alone.")
    waiting_for_kind: str = Field(
        examples=["approval"], description="approval, containment, outcome, answer (a peer's), or empty"
    )
    waiting_for_ref: str = Field(description="The id of the step or containment that it waits for.")
    outcome: str = Field(examples=["succeeded"])
    error: str
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


class EntryOut(BaseModel):
    """A journal row: what was intended before an effect, or what came of it."""

    step_id: str
    occurrence: int = Field(description="1, and one more each time that the guards judged again.")
    phase: str
    at: datetime
    body: dict[str, Any]


class RunDecisionOut(BaseModel):
    """One person's decision."""

    kind: str
    person: str
    decision: str
    note: str
    at: datetime


class RunDetail(RunOut):
    """One run with its journal, plan and decisions."""

    variables: dict[str, Any]
    facts: dict[str, Any] = Field(description="What the alert said when the run began.")
    plan: list[dict[str, Any]] = Field(description="What it would do once approved.")
    journal: list[EntryOut]
    decisions: list[RunDecisionOut]
    alerts: list[str] = Field(description="The alerts that it acts on, in the order in which they came.")
    shown: str = Field(description="Digest of what an approval covers; give it back with the approval.")


class Note(BaseModel):
    """Why somebody decided so."""

    model_config = ConfigDict(extra="forbid")

    note: str = Field("", max_length=500)


class ShownApproval(Note):
    """Why somebody approves, and what they saw when they decided."""

    shown: str = Field(
        "",
        max_length=64,
        description="The `shown` that was read; if something else is there by now, it is refused (409).",
    )


class Resolution(Note):
    """What a person found when they looked at the peer."""

    happened: bool


@router.get("", summary="List runs")
def list_runs(
    caller: Reader,
    rt: Open,
    page: Annotated[Wanted, Depends(wanted)],
    state: Annotated[str, Query(max_length=10, examples=["waiting"])] = "",
    device_id: Annotated[str, Query(max_length=36)] = "",
    alert_id: Annotated[str, Query(max_length=36)] = "",
) -> Page[RunOut]:
    """Give runs that the caller may see, newest first."""
    key = page.key(str)
    with rt.db.read() as connection:
        rows = schemas.list_runs(
            connection, caller, limit=page.limit + 1, before=key[0] if key else "", state=state, device_id=device_id,
            alert_id=alert_id,
        )  # fmt: skip
    return page.page(rows, key=lambda row: (row["id"],), show=RunOut.model_validate)


@router.get("/{run_id}", summary="Read one run, step by step", responses=documented(404))
def read_run(run_id: str, caller: Reader, rt: Open) -> RunDetail:
    """Give the journal, the plan that waits, and who decided what."""
    with rt.db.read() as connection:
        return RunDetail.model_validate(schemas.show_run(connection, caller, run_id))


@router.post("/{run_id}/approve", summary="Approve what a run waits for", responses=documented(403, 404, 409))
def approve_run(run_id: str, body: ShownApproval, caller: Approver, rt: Open) -> RunDetail:
    """Approve the plan (propose mode) or the containment that the run waits for; a person's session only."""
    service.approve_run(rt, caller, run_id=run_id, note=body.note, shown=body.shown)
    with rt.db.read() as connection:
        return RunDetail.model_validate(schemas.show_run(connection, caller, run_id))


@router.post("/{run_id}/reject", summary="Reject what a run waits for", responses=documented(403, 404, 409))
def reject_run(run_id: str, body: Note, caller: Approver, rt: Open) -> RunDetail:
    """Reject the plan (the run ends) or the containment (the run follows on_failure); a person's session only."""
    service.reject_run(rt, caller, run_id=run_id, note=body.note)
    with rt.db.read() as connection:
        return RunDetail.model_validate(schemas.show_run(connection, caller, run_id))


@router.post("/{run_id}/resolve", summary="Say what became of a step", responses=documented(403, 404, 409))
def resolve_run(run_id: str, body: Resolution, caller: Approver, rt: Open) -> RunDetail:
    """Say, after looking at the peer, whether a step of unknown outcome happened; a person's session only."""
    service.resolve_run(rt, caller, run_id=run_id, happened=body.happened, note=body.note)
    with rt.db.read() as connection:
        return RunDetail.model_validate(schemas.show_run(connection, caller, run_id))
