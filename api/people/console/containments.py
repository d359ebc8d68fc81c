"""Containments: what is in effect, what waits, who must still agree; approve, reject, release by two persons, kill switch."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import Response

from api.people.access import may, runtime
from api.people.console import pages
from lachan.enforcement import Level
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from soar_playbooks import schemas, service
from soar_playbooks.containment import approvals

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
Reader = Annotated[Principal, Depends(may(Permission.RUNS_READ))]
Approver = Annotated[Principal, Depends(may(Permission.RUNS_APPROVE))]
Open = Annotated[Runtime, Depends(runtime)]
Note = Annotated[str, Form(max_length=500)]
PAGE = 50


@router.get("/containments")
def containments_page(
    request: Request,
    caller: Reader,
    rt: Open,
    state: Annotated[str, Query(max_length=10)] = "open",
    device: Annotated[str, Query(max_length=36)] = "",
    after: Annotated[str, Query(max_length=36)] = "",
) -> Response:
    """Containments, newest first; those that are open unless asked otherwise."""
    wanted = "" if state == "all" else state
    with rt.db.read() as connection:
        rows = schemas.list_containments(
            connection, caller, limit=PAGE + 1, before=after, state=wanted, device_id=device
        )
        switch = approvals.kill_switch_state(connection)
    following = rows[PAGE - 1]["id"] if len(rows) > PAGE else ""
    return pages.render(
        request, "containments.html", rows=rows[:PAGE], state=state, following=following, switch=switch,
        states=("open", "waiting", "active", "ended", "rejected", "all"),
    )  # fmt: skip


@router.get("/containments/{containment_id}")
def containment_page(request: Request, containment_id: str, caller: Reader, rt: Open) -> Response:
    """One containment with its decisions and the evidence that it took effect."""
    with rt.db.read() as connection:
        row = schemas.show_containment(rt, connection, caller, containment_id)
    kind = "contain" if row["guard"] else "release"
    mine = any(one["person"] == caller.label and one["kind"].startswith(kind) for one in row["decisions"])
    approved = sum(one["decision"] == "approve" and one["kind"].startswith("contain") for one in row["decisions"])
    return pages.render(
        request, "containment.html", row=row, mine=mine, approved=approved, proposer=row["requested_by"] == caller.label
    )


@router.post("/containments/kill-switch")
def kill_switch_by_form(
    active: Annotated[bool, Form()],
    reason: Annotated[str, Form(min_length=1, max_length=500)],
    caller: Annotated[Principal, Depends(may(Permission.KILL_SWITCH))],
    rt: Open,
) -> Response:
    """Stop automatic containment everywhere, or allow it again."""
    service.set_kill_switch(rt, caller, active=active, reason=reason)
    return pages.back("/containments", said="stopped" if active else "allowed")


@router.post("/containments/{containment_id}/approve")
def approve_containment_by_form(
    containment_id: str,
    caller: Approver,
    rt: Open,
    note: Note = "",
    level: Annotated[Level | None, Form()] = None,
    shown: Annotated[str, Form(max_length=64)] = "",
) -> Response:
    """A person approves what the page said that the containment waits for."""
    service.approve_containment(rt, caller, containment_id=containment_id, note=note, level=level, shown=shown)
    return pages.back(f"/containments/{containment_id}", said="approved")


@router.post("/containments/{containment_id}/reject")
def reject_containment_by_form(containment_id: str, caller: Approver, rt: Open, note: Note = "") -> Response:
    """A person rejects what the containment waits for."""
    service.reject_containment(rt, caller, containment_id=containment_id, note=note)
    return pages.back(f"/containments/{containment_id}", said="rejected")


@router.post("/containments/{containment_id}/release")
def release_by_form(
    containment_id: str,
    caller: Annotated[Principal, Depends(may(Permission.CONTAIN_RELEASE))],
    rt: Open,
    note: Note = "",
) -> Response:
    """A person gives one of the two approvals that end a containment."""
    service.release_containment(rt, caller, containment_id=containment_id, note=note)
    return pages.back(f"/containments/{containment_id}", said="released")
