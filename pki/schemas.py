"""What enters the verbs of the PKI."""

from pydantic import BaseModel, ConfigDict, Field

from pki.states import Reason


class Suspension(BaseModel):
    """Parameters of ``pki.suspend`` and ``pki.release``; the same ones undo each other."""

    model_config = ConfigDict(extra="forbid")

    device_id: str = Field(min_length=1, max_length=36, pattern=r"^[^\x00]+$")
    serial_number: str | None = Field(None, pattern=r"^[0-9A-Fa-f]{1,40}$", description="Only this one, hex.")
    reason: str = Field("", max_length=200, description="One sentence for people.")


class Revocation(BaseModel):
    """Parameters of ``pki.revoke``."""

    model_config = ConfigDict(extra="forbid")

    device_id: str = Field(min_length=1, max_length=36, pattern=r"^[^\x00]+$")
    serial_number: str | None = Field(None, pattern=r"^[0-9A-Fa-f]{1,40}$", description="Only this one, hex.")
    reason: Reason = Reason.UNSPECIFIED
