"""Posture: what would an auditor say of this camera, manufacturer or ward? Unknown stands beside fail, everywhere."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from api.people.access import may, runtime
from api.people.console import language, pages
from lachan import clock, devices
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from posture import engagements, service
from posture.catalogue import catalogue
from posture.counts import By, counts
from posture.errors import AssessmentNotFound
from posture.evaluate import Result, legal_day

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
Reader = Annotated[Principal, Depends(may(Permission.POSTURE_READ))]
Open = Annotated[Runtime, Depends(runtime)]
_ROWS = 300


@router.get("/posture")
def posture_page(
    request: Request, caller: Reader, rt: Open, by: Annotated[str, Query(max_length=12)] = "vendor"
) -> Response:
    """Verdict counts by manufacturer, ward, site, model or criterion."""
    key = By(by) if by in list(By) else By.VENDOR
    with rt.db.read() as connection:
        rows = counts(connection, by=key, principal=caller)
        asked = engagements.find(connection, principal=caller, after="", limit=20) if caller.vendor is None else []
    titles = {row.id: row.title.get(language.choose(request), row.title["en"]) for row in catalogue().criteria.values()}
    return pages.render(
        request, "posture.html", rows=rows[:_ROWS], by=str(key), ways=list(By), titles=titles, engagements=asked
    )


@router.get("/devices/{device_id}/posture")
def device_posture_page(
    request: Request, device_id: str, caller: Reader, rt: Open, result: Annotated[str, Query(max_length=16)] = ""
) -> Response:
    """Every verdict of one device with reason, basis, evidence and expiry, by group of criteria."""
    with rt.db.read() as connection:
        device = devices.get(connection, device_id, principal=caller)
        found = service.current(connection, device_id)
        try:
            last = service.latest(connection, device_id)
        except AssessmentNotFound:
            last = None
    known = catalogue()
    tally = {str(code): sum(verdict.result is code for verdict, _, _ in found) for code in Result}
    day = legal_day(clock.now())
    rows = [
        (known.criteria[verdict.criterion], verdict, since, known.in_force(known.criteria[verdict.criterion], day))
        for verdict, since, _ in found
        if result in ("", str(verdict.result))
    ]
    return pages.render(
        request, "device_posture.html", device=device, rows=rows, tally=tally, last=last, result=result,
        results=("fail", "unknown", "pass", "not_applicable"),
    )  # fmt: skip
