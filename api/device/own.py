"""What a device may learn of itself: its identity and the trust decision about it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from api.device.access import Verified, verified
from lachan.trust import Answer

router = APIRouter(prefix="/device/v1", tags=["device"])


class TrustReason(BaseModel):
    """Something that speaks against the device."""

    source: str = Field(examples=["containment"])
    reason: str = Field(examples=["credential-storm"])
    ref: str = Field(description="Id of what explains it.")


class Self(BaseModel):
    """A device, as lachan sees it."""

    device_id: str
    name: str
    vendor: str
    certificate_not_after: str = Field(description="RFC 3339; renew well before.")
    answer: Answer = Field(description="What the doors do with the device now.")
    reasons: list[TrustReason] = Field(description="What speaks against it, worst first.")


@router.get("/self", summary="Who am I, and may I?")
async def read_self(request: Request, device: Annotated[Verified, Depends(verified)]) -> Self:
    """Tell a device its identity and the trust decision; while it is contained the refusal tells the reasons."""
    decision = request.app.state.trust.current().view.standing(device.device_id)
    return Self(
        device_id=device.device_id,
        name=device.name,
        vendor=device.vendor,
        certificate_not_after=device.certificate.not_valid_after_utc.isoformat(),
        answer=decision.answer if decision else Answer.ALLOW,
        reasons=[TrustReason(source=s.source, reason=s.reason, ref=s.ref) for s in decision.reasons]
        if decision
        else [],
    )
