"""Alerts over HTTP: list, read the why, acknowledge, assign, comment, close."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from api.pages import BadCursor, Page, Wanted, wanted
from api.people.access import may, runtime
from api.problems import documented
from lachan import clock
from lachan.database import after_commit
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from siem_rules import service

_CLEAN = r"^[^\x00]*$"  # PostgreSQL keeps no NUL in text
router = APIRouter(prefix="/api/v1/alerts", tags=["alerts"])
Reader = Annotated[Principal, Depends(may(Permission.ALERTS_READ))]
Worker = Annotated[Principal, Depends(may(Permission.ALERTS_WRITE))]
Open = Annotated[Runtime, Depends(runtime)]
AlertId = Annotated[str, Path(max_length=36, pattern=_CLEAN)]


class AlertVerdict(StrEnum):
    """What an alert turned out to be."""

    TRUE_POSITIVE = "true_positive"
    FALSE_POSITIVE = "false_positive"
    BENIGN = "benign"
    DUPLICATE = "duplicate"


class AlertState(StrEnum):
    """How far people are with an alert."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"


class Severity(StrEnum):
    """Sigma's levels."""

    INFORMATIONAL = "informational"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class AlertOut(BaseModel):
    """One episode of one rule and group."""

    id: str
    rule_id: str
    rule_title: str = Field(examples=["SSH login succeeded after a storm of refused passwords"])
    severity: str = Field(examples=["critical"])
    outcome: str = Field(examples=["success"], description="Whether the rule proves success or only an attempt.")
    tags: list[str] = Field(examples=[["attack.t1110.001"]])
    device_id: str | None
    vendor: str | None
    site: str | None
    subject: str | None = Field(description="The name that the lines give; trust it only if subject_bound.")
    subject_bound: bool = Field(description="Whether the senders may speak of this device.")
    senders: list[str] = Field(examples=[["device:0192f0c1-…"]], description="Who delivered the lines.")
    sources: int = Field(description="Independent senders.")
    group_values: dict[str, str]
    first_at: datetime
    last_at: datetime
    matches: int
    state: str = Field(examples=["open"])
    verdict: str
    assignee: str
    created_at: datetime


class CommentOut(BaseModel):
    """What somebody wrote."""

    id: str
    author: str
    text: str
    created_at: datetime


class EvidenceOut(BaseModel):
    """A log line, copied when the alert opened. What stands in ``line`` may be an attacker's words."""

    sender: str
    received: datetime
    line: str
    stream: str
    offset: int
    number: int


class AlertDetail(AlertOut):
    """One alert with its why."""

    why: dict[str, Any] = Field(description="The rule, the fields and values that matched, the group and the window.")
    evidence: list[EvidenceOut]
    comments: list[CommentOut]


class Assignment(BaseModel):
    """Whose alert it is now."""

    model_config = ConfigDict(extra="forbid")

    assignee: str = Field(max_length=200, pattern=_CLEAN, description="A name; empty takes it back.")


class NewComment(BaseModel):
    """A comment to add."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=4000, pattern=_CLEAN)


class Closing(BaseModel):
    """What the alert turned out to be."""

    model_config = ConfigDict(extra="forbid")

    verdict: AlertVerdict


@router.get("", summary="List alerts")
def list_alerts(
    caller: Reader,
    rt: Open,
    page: Annotated[Wanted, Depends(wanted)],
    state: Annotated[AlertState | None, Query()] = None,
    device_id: Annotated[str, Query(max_length=36, pattern=_CLEAN)] = "",
    severity: Annotated[Severity | None, Query()] = None,
) -> Page[AlertOut]:
    """Give alerts that the caller may see, newest first."""
    key = page.key(str, str)
    try:
        before = (clock.parse(key[0]), key[1]) if key else None
    except ValueError as error:
        raise BadCursor from error
    with rt.db.read() as connection:
        rows = service.listed(
            connection,
            caller,
            limit=page.limit + 1,
            before=before,
            state=state or "",
            device_id=device_id,
            severity=severity or "",
        )
    return page.page(rows, key=lambda row: (clock.iso(row["created_at"]), row["id"]), show=AlertOut.model_validate)


@router.get("/{alert_id}", summary="Read one alert with its why", responses=documented(404))
def read_alert(alert_id: AlertId, caller: Reader, rt: Open) -> AlertDetail:
    """Give rule, fields, values, the lines copied as evidence, and the comments."""
    with rt.db.read() as connection:
        return AlertDetail.model_validate(service.get(connection, caller, alert_id))


@router.post("/{alert_id}/acknowledge", summary="Say that somebody looks at it", responses=documented(404, 409))
def acknowledge_alert(alert_id: AlertId, caller: Worker, rt: Open) -> AlertDetail:
    """Acknowledge an open alert; doing it again changes nothing."""

    def unit(connection: sa.Connection) -> AlertDetail:
        service.acknowledge(connection, caller, alert_id)
        return _shown(rt, connection, caller, alert_id)

    return rt.db.run(unit)


@router.post("/{alert_id}/assign", summary="Give it to somebody", responses=documented(404, 409))
def assign_alert(alert_id: AlertId, body: Assignment, caller: Worker, rt: Open) -> AlertDetail:
    """Assign the alert, or take it back with an empty name."""

    def unit(connection: sa.Connection) -> AlertDetail:
        service.assign(connection, caller, alert_id, assignee=body.assignee)
        return _shown(rt, connection, caller, alert_id)

    return rt.db.run(unit)


@router.post("/{alert_id}/comments", status_code=201, summary="Add a comment", responses=documented(404))
def comment_alert(alert_id: AlertId, body: NewComment, caller: Worker, rt: Open) -> AlertDetail:
    """Add a comment; closed alerts take comments too."""

    def unit(connection: sa.Connection) -> AlertDetail:
        service.comment(connection, caller, alert_id, text=body.text)
        return _shown(rt, connection, caller, alert_id)

    return rt.db.run(unit)


@router.post("/{alert_id}/close", summary="Close it with a verdict", responses=documented(404, 409))
def close_alert(alert_id: AlertId, body: Closing, caller: Worker, rt: Open) -> AlertDetail:
    """End the alert's episode with a verdict; what comes later begins a new one."""

    def unit(connection: sa.Connection) -> AlertDetail:
        service.close(connection, caller, alert_id, verdict=str(body.verdict))
        return _shown(rt, connection, caller, alert_id)

    return rt.db.run(unit)


def _shown(rt: Runtime, connection: Any, caller: Principal, alert_id: str) -> AlertDetail:
    after_commit(connection, rt.wake)
    return AlertDetail.model_validate(service.get(connection, caller, alert_id))
