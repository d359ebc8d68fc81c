"""Alerts: is it true, and what will happen if I do nothing?"""

from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import Response

from api.people.access import may, runtime
from api.people.console import pages
from api.people.v1.alerts import AlertVerdict
from lachan import clock
from lachan.devices import devices
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from siem_rules import service
from soar_playbooks import playbooks, schemas

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
Reader = Annotated[Principal, Depends(may(Permission.ALERTS_READ))]
Worker = Annotated[Principal, Depends(may(Permission.ALERTS_WRITE))]
Open = Annotated[Runtime, Depends(runtime)]
PAGE = 50
_STATES = ("open", "acknowledged", "closed")
_SEVERITIES = ("critical", "high", "medium", "low")


@router.get("/alerts")
def alerts_page(
    request: Request,
    caller: Reader,
    rt: Open,
    state: Annotated[str, Query(max_length=20)] = "",
    severity: Annotated[str, Query(max_length=20)] = "",
    device: Annotated[str, Query(max_length=36)] = "",
    after: Annotated[str, Query(max_length=80)] = "",
) -> Response:
    """Alerts, newest first."""
    with rt.db.read() as connection:
        rows = service.listed(
            connection, caller, limit=PAGE + 1, before=_before(after), state=state, severity=severity,
            device_id=device,
        )  # fmt: skip
        names = _names(connection, [row["device_id"] for row in rows if row["device_id"]])
    end = rows[PAGE - 1] if len(rows) > PAGE else None
    return pages.render(
        request, "alerts.html", rows=rows[:PAGE], names=names, state=state, severity=severity, states=_STATES, severities=_SEVERITIES,
        following=f"{clock.iso(end['created_at'])}~{end['id']}" if end else "",
    )  # fmt: skip


def _before(after: str) -> tuple[datetime, str] | None:
    """Give the place that the page before named; one that is none begins at the start."""
    moment, _, last = after.partition("~")
    try:
        return (clock.parse(moment), last) if last else None
    except ValueError:
        return None


@router.get("/alerts/{alert_id}")
def alert_page(request: Request, alert_id: str, caller: Reader, rt: Open) -> Response:
    """One alert: the sentence, the lines, what the playbooks did or would do."""
    with rt.db.read() as connection:
        row = service.get(connection, caller, alert_id)
        ran = caller.may(Permission.RUNS_READ)
        runs = schemas.list_runs(connection, caller, limit=10, alert_id=alert_id) if ran else []
        loaded = playbooks.listing(connection) if caller.may(Permission.PLAYBOOKS_READ) else []
        name = _names(connection, [row["device_id"]]).get(row["device_id"]) if row["device_id"] else None
    return pages.render(
        request, "alert.html", alert=row, name=name, runs=runs, playbooks=loaded, values=_values(row), evidence=_evidence(row),
        verdicts=list(AlertVerdict),
    )  # fmt: skip


def _names(connection: sa.Connection, ids: list[str]) -> dict[str, str]:
    """Give the registry's names of devices: what a line calls itself is its own claim."""
    query = sa.select(devices.c.id, devices.c.name).where(devices.c.id.in_(ids))
    return {row.id: row.name for row in connection.execute(query)}


def _values(row: dict[str, Any]) -> list[str]:
    """Give the matched values, to be marked in the lines."""
    fields = {**row["why"].get("fields", {}), **row["why"].get("group", {})}
    found: list[str] = []
    for value in fields.values():
        found += [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return found


def _evidence(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**line, "at": clock.parse(line["received"])} for line in row["evidence"]]


@router.post("/alerts/{alert_id}/acknowledge")
def acknowledge_by_form(alert_id: str, caller: Worker, rt: Open) -> Response:
    """Somebody looks at it."""
    rt.db.run(lambda connection: service.acknowledge(connection, caller, alert_id))
    rt.wake()
    return pages.back(f"/alerts/{alert_id}", said="acknowledged")


@router.post("/alerts/{alert_id}/assign")
def assign_by_form(
    alert_id: str, caller: Worker, rt: Open, assignee: Annotated[str, Form(max_length=200)] = ""
) -> Response:
    """It is somebody's now; empty takes it back."""
    rt.db.run(lambda connection: service.assign(connection, caller, alert_id, assignee=assignee))
    rt.wake()
    return pages.back(f"/alerts/{alert_id}", said="assigned")


@router.post("/alerts/{alert_id}/comment")
def comment_by_form(
    alert_id: str, text: Annotated[str, Form(min_length=1, max_length=4000)], caller: Worker, rt: Open
) -> Response:
    """Somebody wrote something about it."""
    rt.db.run(lambda connection: service.comment(connection, caller, alert_id, text=text))
    rt.wake()
    return pages.back(f"/alerts/{alert_id}", said="commented")


@router.post("/alerts/{alert_id}/close")
def close_by_form(alert_id: str, verdict: Annotated[AlertVerdict, Form()], caller: Worker, rt: Open) -> Response:
    """It turned out to be something."""
    rt.db.run(lambda connection: service.close(connection, caller, alert_id, verdict=str(verdict)))
    rt.wake()
    return pages.back(f"/alerts/{alert_id}", said="closed")
