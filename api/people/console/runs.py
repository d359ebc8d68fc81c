"""Runs: what did the machine do, step by step, and can I undo it? With approve, reject, and the unknown outcome."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import Response

from api.people.access import may, runtime
from api.people.console import pages
from lachan.errors import LachanError
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from soar_playbooks import playbooks, schemas, service
from soar_playbooks.states import WaitingFor

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
Reader = Annotated[Principal, Depends(may(Permission.RUNS_READ))]
Approver = Annotated[Principal, Depends(may(Permission.RUNS_APPROVE))]
Open = Annotated[Runtime, Depends(runtime)]
Note = Annotated[str, Form(max_length=500)]
Shown = Annotated[str, Form(max_length=64)]
PAGE = 50


@dataclass
class RunStep:
    """A step as people read it: intended when, with what; ended when, with what; again if the guards judged anew.

    None is not yet, or unknown.
    """

    name: str
    intended: datetime | None = None
    ended: datetime | None = None
    intent: dict[str, Any] = field(default_factory=dict)
    outcome: dict[str, Any] = field(default_factory=dict)
    again: bool = False


@router.get("/runs")
def runs_page(
    request: Request,
    caller: Reader,
    rt: Open,
    state: Annotated[str, Query(max_length=10)] = "",
    device: Annotated[str, Query(max_length=36)] = "",
    after: Annotated[str, Query(max_length=36)] = "",
) -> Response:
    """Runs, newest first, and the playbooks with their modes."""
    with rt.db.read() as connection:
        rows = schemas.list_runs(connection, caller, limit=PAGE + 1, before=after, state=state, device_id=device)
        loaded = playbooks.listing(connection) if caller.may(Permission.PLAYBOOKS_READ) else []
    following = rows[PAGE - 1]["id"] if len(rows) > PAGE else ""
    return pages.render(
        request, "runs.html", rows=rows[:PAGE], state=state, following=following, playbooks=loaded,
        states=("waiting", "running", "ended"),
    )  # fmt: skip


@router.get("/runs/{run_id}")
def run_page(request: Request, run_id: str, caller: Reader, rt: Open) -> Response:
    """One run with its steps, its plan, and who decided."""
    with rt.db.read() as connection:
        run = schemas.show_run(connection, caller, run_id)
        names = _names(connection, run["digest"])
        rows = schemas.list_containments(connection, caller, limit=20, device_id=run["device_id"] or "-")
    given = [row for row in run["decisions"] if row["decision"] == "approve"]
    held = run["waiting_for_ref"] if run["waiting_for_kind"] == WaitingFor.CONTAINMENT else ""
    return pages.render(
        request, "run.html", run=run, steps=steps(run["journal"], names), approvals=given, held=held,
        mine=any(row["person"] == caller.label for row in run["decisions"]), effects=_effects(run["plan"], run),
        containments=[row for row in rows if row["run_id"] == run_id],
    )  # fmt: skip


def _names(connection: Any, digest: str) -> dict[str, str]:
    try:
        workflow = playbooks.document(connection, digest).get("workflow", {})
    except LachanError:
        return {}
    return {step: str(body.get("name", "")) for step, body in workflow.items()}


def steps(journal: list[dict[str, Any]], names: dict[str, str]) -> list[RunStep]:
    """Give the journal's rows as steps, in their order."""
    found: dict[tuple[str, int], RunStep] = {}
    for entry in journal:
        fresh = RunStep(names.get(entry["step_id"]) or entry["step_id"], again=entry["occurrence"] > 1)
        step = found.setdefault((entry["step_id"], entry["occurrence"]), fresh)
        if entry["phase"] == "intent":
            step.intended, step.intent = entry["at"], entry["body"]
        else:
            step.ended, step.outcome = entry["at"], entry["body"]
    return list(found.values())


def _effects(plan: list[dict[str, Any]], run: dict[str, Any]) -> list[str]:
    """Give the containment levels that a plan would bring about, for the label of the button."""
    levels = [step["parameters"].get("level", "") for step in plan if step.get("verb") == "containment.set"]
    return [str(level) for level in levels if level and run["device_name"]]


@router.post("/runs/{run_id}/approve")
def approve_run_by_form(run_id: str, caller: Approver, rt: Open, note: Note = "", shown: Shown = "") -> Response:
    """A person approves what the page said that the run waits for."""
    service.approve_run(rt, caller, run_id=run_id, note=note, shown=shown)
    return pages.back(f"/runs/{run_id}", said="approved")


@router.post("/runs/{run_id}/reject")
def reject_run_by_form(run_id: str, caller: Approver, rt: Open, note: Note = "") -> Response:
    """A person rejects what the run waits for."""
    service.reject_run(rt, caller, run_id=run_id, note=note)
    return pages.back(f"/runs/{run_id}", said="rejected")


@router.post("/runs/{run_id}/resolve")
def resolve_run_by_form(
    run_id: str, happened: Annotated[bool, Form()], caller: Approver, rt: Open, note: Note = ""
) -> Response:
    """A person says what became of a step whose outcome is unknown."""
    service.resolve_run(rt, caller, run_id=run_id, happened=happened, note=note)
    return pages.back(f"/runs/{run_id}", said="resolved")
