"""Requests that other rooms may make: hold a release, and undo that."""

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from lachan.identity import Permission, Principal
from lachan.verbs import Verb
from ota_signing import service

if TYPE_CHECKING:
    from lachan.runtime import Runtime


class HoldParameters(BaseModel):
    """Which release, and why."""

    model_config = ConfigDict(extra="forbid")

    release_id: str = Field(description="The published release.")
    reason: str = Field(min_length=1, max_length=500, description="For people and the ledger.")


def _hold(rt: "Runtime", connection: sa.Connection, principal: Principal, parameters: HoldParameters) -> dict[str, Any]:
    changed = service.halt(connection, principal, parameters.release_id, reason=parameters.reason)
    return {"release_id": parameters.release_id, "changed": changed}


def _resume(
    rt: "Runtime", connection: sa.Connection, principal: Principal, parameters: HoldParameters
) -> dict[str, Any]:
    changed = service.resume(connection, principal, parameters.release_id, reason=parameters.reason)
    return {"release_id": parameters.release_id, "changed": changed}


HOLD = Verb(name="ota.hold", parameters=HoldParameters, permission=Permission.OTA_HOLD, run=_hold, undo="ota.resume")
RESUME = Verb(
    name="ota.resume", parameters=HoldParameters, permission=Permission.OTA_HOLD, run=_resume, undo="ota.hold"
)
