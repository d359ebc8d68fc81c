"""Certificates at the people door: one-time secrets, what a device has, and hold, release and revoke."""

from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from api.people.access import may, runtime
from api.problems import documented
from lachan import devices, verbs
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from pki import service
from pki.states import Reason

router = APIRouter(prefix="/api/v1/devices/{device_id}", tags=["certificates"])
Open = Annotated[Runtime, Depends(runtime)]


class WantedSecret(BaseModel):
    """For which profile the secret is to be good."""

    model_config = ConfigDict(extra="forbid")

    profile: str = Field("camera", pattern=r"^[a-z0-9-]{1,40}$")


class SecretOut(BaseModel):
    """A one-time secret, at the only moment when it can be read."""

    id: str
    device: str = Field(description="What the device sends as user name.")
    secret: str = Field(description="What it sends as password; good for one certificate.")
    profile: str
    expires_at: datetime


class CertificateOut(BaseModel):
    """One certificate of a device."""

    model_config = ConfigDict(from_attributes=True)

    serial_number: str
    fingerprint: str
    profile: str
    subject: str
    state: str
    reason: str
    not_before: datetime
    not_after: datetime
    issued_at: datetime


class Hold(BaseModel):
    """Why a hold is set or lifted, and on which certificate (all of the device's when none is named)."""

    model_config = ConfigDict(extra="forbid")

    serial_number: str | None = Field(None, pattern=r"^[0-9A-Fa-f]{1,40}$")
    reason: str = Field(min_length=1, max_length=200)


class Revoke(BaseModel):
    """Why, in the words of RFC 5280 5.3.1, and which certificate."""

    model_config = ConfigDict(extra="forbid")

    serial_number: str | None = Field(None, pattern=r"^[0-9A-Fa-f]{1,40}$")
    reason: Reason = Reason.UNSPECIFIED


class Touched(BaseModel):
    """The serial numbers that changed their state."""

    certificates: list[str]


@router.post("/secret", summary="Issue an enrolment secret", status_code=201, responses=documented(404, 409))
def issue_secret(
    device_id: str,
    body: WantedSecret,
    caller: Annotated[Principal, Depends(may(Permission.PKI_SECRET))],
    rt: Open,
    response: Response,
) -> SecretOut:
    """Make a one-time secret for one device; earlier unused ones stop being good. It is shown once."""
    made = rt.db.run(lambda connection: service.issue_secret(rt, connection, caller, device_id, body.profile))
    response.headers["Cache-Control"] = "no-store"
    return SecretOut.model_validate(made, from_attributes=True)


@router.get("/certificates", summary="List a device's certificates", responses=documented(404))
def list_certificates(
    device_id: str, caller: Annotated[Principal, Depends(may(Permission.PKI_READ))], rt: Open
) -> list[CertificateOut]:
    """Give a device's certificates, newest first."""
    return [CertificateOut.model_validate(row) for row in service.certificates_of(rt, caller, device_id)]


@router.post("/suspend", summary="Suspend certificates", responses=documented(404, 409))
def suspend_certificates(
    device_id: str, body: Hold, caller: Annotated[Principal, Depends(may(Permission.PKI_SUSPEND))], rt: Open
) -> Touched:
    """Put certificates on hold (certificateHold); the doors refuse them at once."""
    return _call(rt, caller, "pki.suspend", device_id, body)


@router.post("/unsuspend", summary="Release certificates from hold", responses=documented(404, 409))
def release_certificates(
    device_id: str, body: Hold, caller: Annotated[Principal, Depends(may(Permission.PKI_RELEASE))], rt: Open
) -> Touched:
    """Lift a hold; revoked certificates stay revoked."""
    return _call(rt, caller, "pki.release", device_id, body)


@router.post("/revoke", summary="Revoke certificates", responses=documented(404, 409))
def revoke_certificates(
    device_id: str, body: Revoke, caller: Annotated[Principal, Depends(may(Permission.PKI_REVOKE))], rt: Open
) -> Touched:
    """Revoke certificates for good."""
    return _call(rt, caller, "pki.revoke", device_id, body)


def _call(rt: Runtime, caller: Principal, verb: str, device_id: str, body: BaseModel) -> Touched:

    def unit(connection: sa.Connection) -> dict[str, Any]:
        devices.get(connection, device_id, principal=caller)
        return verbs.call(rt, connection, caller, verb, {"device_id": device_id, **body.model_dump(mode="json")})

    done = rt.db.run(unit, urgent=True)
    rt.wake()
    return Touched.model_validate(done)
