"""Releases of firmware: propose, approve, sign, publish, halt. What is approved is the release's ``digest``."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.fields import Whole
from api.pages import Page, Wanted, wanted
from api.people.access import may, runtime
from lachan import verbs
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from ota_signing import publishing, releases, service
from ota_signing.schemas import Release, ReleaseState

router = APIRouter(prefix="/api/v1/releases", tags=["firmware"])
_Reader = Annotated[Principal, Depends(may(Permission.OTA_READ))]
_Publisher = Annotated[Principal, Depends(may(Permission.OTA_PUBLISH))]
_Holder = Annotated[Principal, Depends(may(Permission.OTA_HOLD))]
_Runtime = Annotated[Runtime, Depends(runtime)]


class NewRelease(BaseModel):
    """What is proposed."""

    model_config = ConfigDict(extra="forbid")

    artifact_id: str = Field(max_length=36)
    model: str = Field(min_length=1, max_length=100, description="As in the device registry.")
    version: str = Field(min_length=1, max_length=64, examples=["2.0.1"])
    approvals_needed: Whole | None = Field(None, ge=1, le=10, description="k; the installation's minimum by default.")
    downgrade: bool = Field(False, description="Devices with a higher version install it, too.")
    notes: str = Field("", max_length=4000)


class Consent(BaseModel):
    """What a person approves."""

    model_config = ConfigDict(extra="forbid")

    digest: str = Field(pattern="^[0-9a-f]{64}$", description="The release's digest, as the person was shown it.")


class Why(BaseModel):
    """The reason for a step, for people and the ledger."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500)


class ApprovalView(BaseModel):
    """One person's approval."""

    person: str
    digest: str
    approved_at: datetime


class ReleaseView(BaseModel):
    """A release; ``listed`` tells that devices find it in the TUF repository."""

    id: str
    vendor: str
    model: str
    version: str
    artifact_id: str
    sha256: str
    length: int
    approvals_needed: int
    downgrade: bool
    notes: str
    proposer: str
    digest: str = Field(description="SHA-256 of the release statement: what approvals cover.")
    target_path: str
    state: ReleaseState
    reason: str = Field(description="Why it was halted, or why the signer refuses it.")
    listed: bool
    proposed_at: datetime
    signed_at: datetime | None
    published_at: datetime | None
    approvals: list[ApprovalView]

    @classmethod
    def of(cls, release: Release) -> "ReleaseView":
        """Give the view of a release."""
        approvals = [ApprovalView(**approval.__dict__) for approval in release.approvals]
        return cls(**{**release.__dict__, "approvals": approvals})


@router.post("", status_code=201, summary="Propose a release")
def propose_release(
    body: NewRelease,
    response: Response,
    caller: Annotated[Principal, Depends(may(Permission.OTA_PROPOSE))],
    rt: _Runtime,
) -> ReleaseView:
    """Propose an uploaded artifact as the firmware of a model. Who proposes cannot approve."""
    made = service.propose(rt, caller, **body.model_dump())
    response.headers["Location"] = f"/api/v1/releases/{made.id}"
    return ReleaseView.of(made)


@router.get("", summary="Releases")
def list_releases(
    caller: _Reader,
    rt: _Runtime,
    page: Annotated[Wanted, Depends(wanted)],
    state: Annotated[ReleaseState | None, Query(description="Only those in this state.")] = None,
) -> Page[ReleaseView]:
    """Releases, oldest first; manufacturers see their own."""
    key = page.key(str)
    with rt.db.read() as connection:
        rows = releases.find(
            connection, principal=caller, after=key[0] if key else "", limit=page.limit + 1, state=state
        )
    return page.page(rows, key=lambda row: (row.id,), show=ReleaseView.of)


@router.get("/{release_id}", summary="One release")
def read_release(release_id: str, caller: _Reader, rt: _Runtime) -> ReleaseView:
    """One release with its approvals."""
    return _read(rt, caller, release_id)


@router.get("/{release_id}/signature", summary="Its detached CMS", response_class=Response)
def read_release_signature(release_id: str, caller: _Reader, rt: _Runtime) -> Response:
    """The detached signature (RFC 5652, DER) over the firmware."""
    with rt.db.read() as connection:
        signature = releases.signature(connection, release_id, principal=caller)
    return Response(signature, media_type="application/pkcs7-signature")


@router.post("/{release_id}/approve", summary="Approve what it says")
def approve_release(
    release_id: str,
    body: Consent,
    caller: Annotated[Principal, Depends(may(Permission.OTA_APPROVE))],
    rt: _Runtime,
) -> ReleaseView:
    """Approve the digest that a person was shown; needs that person's own session. The k-th approval has it signed."""
    made = service.approve(rt, caller, release_id, digest=body.digest)
    rt.wake()
    return ReleaseView.of(made)


@router.post("/{release_id}/sign", summary="Have it signed now")
def sign_release(release_id: str, caller: _Publisher, rt: _Runtime) -> ReleaseView:
    """Have an approved release signed at once instead of soon; one that is signed stays as it is."""
    _read(rt, caller, release_id)
    publishing.sign(rt, release_id)
    return _read(rt, caller, release_id)


@router.post("/{release_id}/publish", summary="Hand it out")
def publish_release(release_id: str, caller: _Publisher, rt: _Runtime) -> ReleaseView:
    """Make it the firmware of its model; sign it first where that has not happened yet."""
    made = service.publish(rt, caller, release_id)
    rt.wake()
    return ReleaseView.of(made)


@router.post("/{release_id}/halt", summary="Stop handing it out")
def halt_release(release_id: str, body: Why, caller: _Holder, rt: _Runtime) -> ReleaseView:
    """Stop a release with the next request of any device."""
    return _call(rt, caller, "ota.hold", release_id, body)


@router.post("/{release_id}/resume", summary="Hand it out again")
def resume_release(release_id: str, body: Why, caller: _Holder, rt: _Runtime) -> ReleaseView:
    """Take a halt back."""
    return _call(rt, caller, "ota.resume", release_id, body)


def _call(rt: Runtime, caller: Principal, verb: str, release_id: str, body: Why) -> ReleaseView:
    parameters = {"release_id": release_id, "reason": body.reason}
    rt.db.run(lambda connection: verbs.call(rt, connection, caller, verb, parameters))
    rt.wake()
    return _read(rt, caller, release_id)


def _read(rt: Runtime, caller: Principal, release_id: str) -> ReleaseView:
    with rt.db.read() as connection:
        return ReleaseView.of(releases.get(connection, release_id, principal=caller))
