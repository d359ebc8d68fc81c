"""Firmware: what is about to go where? Releases by state, approvals given and missing, publish, halt."""

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import Response

from api.people.access import may, runtime
from api.people.console import pages
from lachan import verbs
from lachan.devices import devices
from lachan.identity import Permission, Principal, scope
from lachan.runtime import Runtime
from ota_signing import releases, service
from ota_signing.models import installs
from ota_signing.schemas import Release, ReleaseState

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
Reader = Annotated[Principal, Depends(may(Permission.OTA_READ))]
Holder = Annotated[Principal, Depends(may(Permission.OTA_HOLD))]
Open = Annotated[Runtime, Depends(runtime)]
Why = Annotated[str, Form(min_length=1, max_length=500)]
PAGE = 50


@router.get("/firmware")
def firmware_page(
    request: Request,
    caller: Reader,
    rt: Open,
    state: Annotated[str, Query(max_length=12)] = "",
    after: Annotated[str, Query(max_length=36)] = "",
) -> Response:
    """Releases, oldest first, as they wait."""
    wanted = state if state in list(ReleaseState) else None
    with rt.db.read() as connection:
        rows = releases.find(connection, principal=caller, after=after, limit=PAGE + 1, state=wanted)
    following = rows[PAGE - 1].id if len(rows) > PAGE else ""
    return pages.render(
        request, "firmware.html", rows=rows[:PAGE], state=state, states=list(ReleaseState), following=following
    )


@router.get("/firmware/{release_id}")
def release_page(request: Request, release_id: str, caller: Reader, rt: Open) -> Response:
    """One release: what it is, who approved it, where it is installed."""
    with rt.db.read() as connection:
        release = releases.get(connection, release_id, principal=caller)
        progress = _progress(connection, caller, release)
    mine = any(approval.person == caller.label for approval in release.approvals)
    return pages.render(
        request,
        "release.html",
        release=release,
        progress=progress,
        mine=mine,
        proposer=release.proposer == caller.label,
    )


def _progress(connection: sa.Connection, caller: Principal, release: Release) -> dict[str, Any]:
    """Tell how many devices of the model there are, run it, and what they reported about it."""
    of_model = sa.and_(
        devices.c.vendor == release.vendor, devices.c.model == release.model, devices.c.state != "retired"
    )
    running = sa.func.sum(sa.case((devices.c.firmware_version == release.version, 1), else_=0))
    unknown = sa.func.sum(sa.case((devices.c.firmware_version.is_(None), 1), else_=0))
    query: Any = sa.select(sa.func.count(), running, unknown).where(of_model)
    total, run, silent = connection.execute(scope(caller, query, devices.c.vendor)).one()
    reported = sa.select(installs.c.outcome, sa.func.count()).where(installs.c.release_id == release.id)
    rows = connection.execute(reported.group_by(installs.c.outcome))
    told = {str(outcome): int(number) for outcome, number in rows}
    return {"devices": total, "running": run or 0, "unknown": silent or 0, "reports": told}


@router.post("/firmware/{release_id}/approve")
def approve_release_by_form(
    release_id: str,
    digest: Annotated[str, Form(pattern="^[0-9a-f]{64}$")],
    caller: Annotated[Principal, Depends(may(Permission.OTA_APPROVE))],
    rt: Open,
) -> Response:
    """A person approves the digest that the page showed."""
    service.approve(rt, caller, release_id, digest=digest)
    rt.wake()
    return pages.back(f"/firmware/{release_id}", said="approved")


@router.post("/firmware/{release_id}/publish")
def publish_release_by_form(
    release_id: str, caller: Annotated[Principal, Depends(may(Permission.OTA_PUBLISH))], rt: Open
) -> Response:
    """The release becomes the firmware of its model."""
    service.publish(rt, caller, release_id)
    rt.wake()
    return pages.back(f"/firmware/{release_id}", said="published")


@router.post("/firmware/{release_id}/halt")
def halt_release_by_form(release_id: str, reason: Why, caller: Holder, rt: Open) -> Response:
    """No device gets it any more."""
    return _call(rt, caller, "ota.hold", release_id, reason, said="halted")


@router.post("/firmware/{release_id}/resume")
def resume_release_by_form(release_id: str, reason: Why, caller: Holder, rt: Open) -> Response:
    """It is handed out again."""
    return _call(rt, caller, "ota.resume", release_id, reason, said="resumed")


def _call(rt: Runtime, caller: Principal, verb: str, release_id: str, reason: str, *, said: str) -> Response:
    parameters = {"release_id": release_id, "reason": reason}
    rt.db.run(lambda connection: verbs.call(rt, connection, caller, verb, parameters))
    rt.wake()
    return pages.back(f"/firmware/{release_id}", said=said)
