"""What other rooms may ask of posture by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from lachan.identity import Permission, Principal
from lachan.verbs import Verb
from posture import jobs

if TYPE_CHECKING:
    from lachan.runtime import Runtime


class AssessParameters(BaseModel):
    """Which device, and under which approved engagement."""

    model_config = ConfigDict(extra="forbid")

    device_id: str = Field(max_length=36)
    engagement_id: str | None = Field(None, max_length=36)


def _assess(
    rt: Runtime, connection: sa.Connection, principal: Principal, parameters: AssessParameters
) -> dict[str, Any]:
    run_id = jobs.ask(rt, connection, parameters.device_id, parameters.engagement_id, actor=principal)
    return {"run_id": run_id}


ASSESS = Verb(
    name="posture.assess", parameters=AssessParameters, permission=Permission.POSTURE_RUN, run=_assess, undo=None
)
