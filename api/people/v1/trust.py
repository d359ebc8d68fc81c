"""What the doors do with a device, and why: the question that platforms ask before they talk to one."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from api.people.access import may, runtime
from api.problems import documented
from lachan import devices, trust
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from lachan.trust import Answer

router = APIRouter(prefix="/api/v1/trust", tags=["trust"])


class ReasonOut(BaseModel):
    """Something that speaks against the device."""

    model_config = ConfigDict(from_attributes=True)

    source: str = Field(examples=["containment"])
    answer: Answer
    reason: str = Field(examples=["credential-storm"])
    detail: str
    ref: str = Field(description="Id of what explains it.")
    since: datetime
    until: datetime | None


class TrustDecisionOut(BaseModel):
    """The decision for one device."""

    device_id: str
    answer: Answer
    reasons: list[ReasonOut] = Field(description="Every signal that led to it, worst first; none means allow.")
    version: int = Field(description="Grows with every change to any decision.")


@router.get("/{device_id}", summary="May this device?", responses=documented(404))
def read_decision(
    device_id: str,
    caller: Annotated[Principal, Depends(may(Permission.TRUST_READ))],
    rt: Annotated[Runtime, Depends(runtime)],
) -> TrustDecisionOut:
    """Give the present decision for one device, with its reasons; another vendor's device is not found."""
    with rt.db.read() as connection:
        version = trust.version(connection)
        devices.get(connection, device_id, principal=caller)
        decision = trust.decision(connection, device_id)
    reasons = [ReasonOut.model_validate(signal) for signal in decision.reasons]
    return TrustDecisionOut(device_id=device_id, answer=decision.answer, reasons=reasons, version=version)
