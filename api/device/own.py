"""What a device may learn of itself: its identity and the trust decision about it."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api import machine
from api.answers import MachineAnswer
from api.asked import MachineRequest, json_answer
from api.device.access import Verified
from api.machine import Auth, MachineRoute
from lachan.trust import Answer


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


async def read_self(asked: MachineRequest) -> MachineAnswer:
    """Tell a device its identity and the trust decision; while it is contained the refusal tells the reasons."""
    device: Verified = asked.device
    decision = asked.state.trust.current().view.standing(device.device_id)
    told = Self(
        device_id=device.device_id,
        name=device.name,
        vendor=device.vendor,
        certificate_not_after=device.certificate.not_valid_after_utc.isoformat(),
        answer=decision.answer if decision else Answer.ALLOW,
        reasons=[TrustReason(source=s.source, reason=s.reason, ref=s.ref) for s in decision.reasons]
        if decision
        else [],
    )
    return json_answer(told)


MACHINE = (
    MachineRoute(
        method="GET", path="/device/v1/self", auth=Auth.DEVICE, handler=read_self, name="read_self",
        summary="Who am I, and may I?", more={"response_model": Self},
    ),
)  # fmt: skip
router = APIRouter(tags=["device"])
machine.document(router, MACHINE)
