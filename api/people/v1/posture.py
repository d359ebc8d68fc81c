"""Posture over HTTP: the catalogue, engagements, declarations, assessments, and verdicts with their reasons."""

from datetime import date, datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Body, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api.fields import Moment, Whole
from api.pages import Page, Wanted, wanted
from api.people.access import may, runtime
from api.problems import documented
from lachan import clock, devices
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from posture import declarations, engagements, jobs, service
from posture.catalogue import Criterion, Instrument, catalogue
from posture.counts import By, counts
from posture.engagements import Engagement, EngagementState, Method
from posture.evaluate import Basis, Result, legal_day

router = APIRouter(prefix="/api/v1", tags=["posture"])
Reader = Annotated[Principal, Depends(may(Permission.POSTURE_READ))]
Runner = Annotated[Principal, Depends(may(Permission.POSTURE_RUN))]
Approver = Annotated[Principal, Depends(may(Permission.ENGAGEMENT_APPROVE))]
Declarer = Annotated[Principal, Depends(may(Permission.POSTURE_DECLARE))]
Open = Annotated[Runtime, Depends(runtime)]


class InstrumentOut(BaseModel):
    """A law, regulation or standard, and the days between which it holds."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["QCVN11:2026/BCA"])
    status: str
    confidence: str
    valid_from: date | None = Field(description="Null: no source gave it.")
    valid_until: date | None = Field(description="First day on which it holds no longer.")
    mandatory_from: date | None
    by: str
    note: str


class CriterionOut(BaseModel):
    """One row of the catalogue."""

    id: str = Field(examples=["CAM-1.1"])
    scope: str
    group: str
    title: dict[str, str]
    requirement: dict[str, str]
    instruments: list[dict[str, str]]
    in_force: list[str] = Field(description="Ids of the instruments that ask for it on the day asked for.")
    refs: dict[str, Any]
    primary: str
    can: str
    probes: list[str]
    weight: int
    blocking: bool
    confidence: str
    unverified: list[str] = Field(description="What nobody checked against the official text.")


class CatalogueOut(BaseModel):
    """The criteria as they stand on a day."""

    hash: str
    as_of: date
    instruments: list[InstrumentOut]
    criteria: list[CriterionOut]


class EngagementIn(BaseModel):
    """A request to look at devices."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500, examples=["Acceptance of the cameras of ward Hàng Bạc"])
    device_ids: list[Annotated[str, Field(max_length=36)]] = Field(min_length=1, max_length=10_000)
    networks: list[Annotated[str, Field(max_length=64)]] = Field(default=[], max_length=100)
    ports: list[Annotated[Whole, Field(ge=1, le=65_535)]] = Field(min_length=1, max_length=100, examples=[[80, 443]])
    methods: list[Method] = Field(min_length=1)
    not_before: Moment
    not_after: Moment
    rate: float = Field(5.0, strict=True, gt=0, le=1000, description="Connections a second and device.")
    burst: Whole = Field(5, ge=1, le=1000)
    loopback: bool = Field(False, description="Addresses of this very machine are meant.")
    lockout: bool = Field(False, description="Try factory logins also where a lock-out is declared.")


class EngagementOut(BaseModel):
    """An engagement, and what became of it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    state: EngagementState
    reason: str
    targets: list[dict[str, str]]
    networks: list[str]
    ports: list[int]
    methods: list[Method]
    not_before: datetime
    not_after: datetime
    rate: float
    burst: int
    loopback: bool
    lockout: bool
    digest: str = Field(description="SHA-256 of what is to be approved.")
    requested_by: str
    requested_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    stopped_by: str | None
    stopped_at: datetime | None
    stop_reason: str | None


class StopIn(BaseModel):
    """Why an engagement ends now."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=200)


class AssessIn(BaseModel):
    """Under which engagement to look; without one, what was seen before is judged anew."""

    model_config = ConfigDict(extra="forbid")

    engagement_id: str | None = Field(None, max_length=36)


class Accepted(BaseModel):
    """The assessment is due."""

    run_id: str = Field(description="Read it at /api/v1/posture/assessments/{run_id} when it is done.")


class VerdictOut(BaseModel):
    """The verdict on one criterion."""

    criterion: str
    title: dict[str, str]
    blocking: bool
    result: Result
    reason: str
    basis: Basis
    detail: str
    evidence: list[str] = Field(description="Digests of the observations or the declaration it rests on.")
    valid_until: datetime | None
    since: datetime
    assessment_id: str
    unverified: list[str]


class VerdictsOut(BaseModel):
    """All verdicts of a device; unknown counts as much as fail."""

    device_id: str
    counts: dict[Result, int]
    verdicts: list[VerdictOut]


class CountOut(BaseModel):
    """Verdict counts under one key."""

    model_config = ConfigDict(populate_by_name=True)

    key: str
    devices: int
    assessed: int
    passed: int = Field(alias="pass")
    fail: int
    not_applicable: int
    unknown: int


class AssessmentOut(BaseModel):
    """A recorded assessment: the rows as they were hashed, and what the probes saw (redacted)."""

    id: str
    device_id: str
    engagement_id: str | None
    as_of: date
    assessed_at: datetime
    catalogue: str
    merkle_root: str
    counts: dict[str, int]
    rows: list[str]
    observations: list[dict[str, Any]]


class DeclarationOut(BaseModel):
    """A manufacturer's declaration as stored."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    digest: str
    document: dict[str, Any]


def _criterion(row: Criterion, day: date) -> CriterionOut:
    return CriterionOut(
        id=row.id, scope=row.scope, group=row.group, title=dict(row.title), requirement=dict(row.requirement),
        instruments=[{"id": i, "clause": clause} for i, clause in row.instruments],
        in_force=[i.id for i in catalogue().in_force(row, day)], refs=dict(row.refs), primary=str(row.primary),
        can=str(row.can), probes=list(row.probes), weight=row.weight, blocking=row.blocking,
        confidence=row.confidence, unverified=list(row.unverified),
    )  # fmt: skip


def _instrument(row: Instrument) -> InstrumentOut:
    return InstrumentOut.model_validate(row)


def _engagement(found: Engagement) -> EngagementOut:
    return EngagementOut.model_validate(found)


@router.get("/posture/catalogue", summary="Read the criteria")
def read_catalogue(
    _caller: Reader, as_of: Annotated[date | None, Query(description="Day to ask for; today by default.")] = None
) -> CatalogueOut:
    """List instruments and criteria, with what is unverified, as they stand on a day."""
    day = as_of or legal_day(clock.now())
    found = catalogue()
    return CatalogueOut(
        hash=found.hash, as_of=day, instruments=[_instrument(row) for row in found.instruments.values()],
        criteria=[_criterion(row, day) for row in found.criteria.values()],
    )  # fmt: skip


@router.get("/posture/counts", summary="Count verdicts")
def read_counts(caller: Reader, rt: Open, by: By = By.VENDOR) -> list[CountOut]:
    """Count verdicts by vendor, ward, site, model or criterion; a manufacturer's own devices only."""
    with rt.db.read() as connection:
        return [CountOut.model_validate(row) for row in counts(connection, by=by, principal=caller)]


@router.get("/engagements", summary="List engagements")
def list_engagements(caller: Reader, rt: Open, page: Annotated[Wanted, Depends(wanted)]) -> Page[EngagementOut]:
    """List engagements, newest first; manufacturers see none."""
    (after,) = page.key(str) or ("",)
    with rt.db.read() as connection:
        rows = engagements.find(connection, principal=caller, after=after, limit=page.limit + 1)
    return page.page(rows, key=lambda row: (row.id,), show=_engagement)


@router.post("/engagements", summary="Request an engagement", status_code=201, responses=documented(404))
def request_engagement(body: EngagementIn, caller: Runner, rt: Open) -> EngagementOut:
    """Ask for leave to look at devices; nothing is allowed until another person approves it."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(body).items()}
    return rt.db.run(
        lambda connection: _engagement(
            engagements.request(connection, engagements.EngagementWanted(**fields), actor=caller)
        )
    )


@router.get("/engagements/{engagement_id}", summary="Read an engagement", responses=documented(404))
def read_engagement(engagement_id: str, caller: Reader, rt: Open) -> EngagementOut:
    """Read one engagement."""
    with rt.db.read() as connection:
        return _engagement(engagements.visible(connection, engagement_id, principal=caller))


@router.post("/engagements/{engagement_id}/approve", summary="Approve an engagement", responses=documented(404, 409))
def approve_engagement(engagement_id: str, caller: Approver, rt: Open) -> EngagementOut:
    """Allow exactly what stands in it; a person's session, and not the requester's."""
    return rt.db.run(lambda connection: _engagement(engagements.approve(connection, engagement_id, actor=caller)))


@router.post("/engagements/{engagement_id}/stop", summary="Stop an engagement", responses=documented(404, 409))
def stop_engagement(engagement_id: str, body: StopIn, caller: Reader, rt: Open) -> EngagementOut:
    """End it at once, also for probes under way; whoever may run or approve may stop."""

    def unit(connection: sa.Connection) -> EngagementOut:
        engagements.visible(connection, engagement_id, principal=caller)
        return _engagement(engagements.stop(connection, engagement_id, actor=caller, reason=body.reason))

    return rt.db.run(unit)


@router.post(
    "/devices/{device_id}/assess", summary="Assess a device", status_code=202, responses=documented(403, 404, 409)
)
def assess_device(device_id: str, body: AssessIn, caller: Runner, rt: Open) -> Accepted:
    """Make an assessment due; refused at once when no approved engagement covers the device now."""
    run_id = rt.db.run(lambda connection: jobs.ask(rt, connection, device_id, body.engagement_id, actor=caller))
    rt.wake()
    return Accepted(run_id=run_id)


@router.get("/devices/{device_id}/verdicts", summary="Read a device's verdicts", responses=documented(404))
def read_verdicts(device_id: str, caller: Reader, rt: Open) -> VerdictsOut:
    """Every verdict with reason, basis, evidence and expiry."""
    with rt.db.read() as connection:
        devices.get(connection, device_id, principal=caller)
        rows = service.current(connection, device_id)
    criteria = catalogue().criteria
    shown = [
        VerdictOut(
            criterion=v.criterion, title=dict(criteria[v.criterion].title), blocking=criteria[v.criterion].blocking,
            result=v.result, reason=v.reason, basis=v.basis, detail=v.detail, evidence=list(v.evidence),
            valid_until=v.valid_until, since=since, assessment_id=assessment,
            unverified=list(criteria[v.criterion].unverified),
        )
        for v, since, assessment in rows
    ]  # fmt: skip
    tally = {result: sum(1 for v in shown if v.result is result) for result in Result}
    return VerdictsOut(device_id=device_id, counts=tally, verdicts=shown)


@router.get("/posture/assessments/{assessment_id}", summary="Read an assessment", responses=documented(404))
def read_assessment(assessment_id: str, caller: Reader, rt: Open) -> AssessmentOut:
    """The rows as they were hashed, and the redacted evidence."""
    with rt.db.read() as connection:
        found = service.visible(connection, assessment_id, principal=caller)
    return AssessmentOut(
        id=found.id, device_id=found.device_id, engagement_id=found.engagement_id, as_of=found.as_of,
        assessed_at=found.assessed_at, catalogue=found.catalogue, merkle_root=found.merkle_root,
        counts=dict(found.counts), rows=list(found.rows),
        observations=[{**o.body(), "digest": o.digest} for o in found.observations],
    )  # fmt: skip


@router.get("/posture/assessments/{assessment_id}/proof", summary="Prove a verdict", responses=documented(404))
def read_proof(
    assessment_id: str, caller: Reader, rt: Open, criterion: Annotated[str, Query(max_length=20)]
) -> dict[str, Any]:
    """The row and the hashes that lead from it to the root which the ledger holds (RFC 9162 2.1.3)."""
    with rt.db.read() as connection:
        found = service.visible(connection, assessment_id, principal=caller)
    return service.proof(found, criterion)


@router.get("/posture/declarations", summary="List declarations")
def list_declarations(caller: Reader, rt: Open, page: Annotated[Wanted, Depends(wanted)]) -> Page[DeclarationOut]:
    """Declarations, newest first; a manufacturer's own only."""
    (after,) = page.key(str) or ("",)
    with rt.db.read() as connection:
        rows = declarations.find(connection, principal=caller, after=after, limit=page.limit + 1)
    return page.page(rows, key=lambda row: (row["id"],), show=DeclarationOut.model_validate)


@router.post("/posture/declarations", summary="Declare a model", status_code=201, responses=documented(404))
def declare_model(body: Annotated[dict[str, Any], Body()], caller: Declarer, rt: Open) -> DeclarationOut:
    """Take a manufacturer's declaration about one of its models; assessed devices are judged anew."""
    found = rt.db.run(lambda connection: declarations.accept(connection, body, actor=caller))
    rt.wake()
    return DeclarationOut.model_validate(found)
