"""What an operator may decide about detection."""

from pydantic import Field

from lachan.settings import RoomSettings


class SiemSettings(RoomSettings):
    """What an operator may decide about detection."""

    siem_rules_off: tuple[str, ...] = Field((), description="Detection rules (names or ids) that are switched off.")
    siem_forgotten_told: int = Field(
        1000,
        ge=1,
        description="Groups or matches of one sender forgotten for want of room within an hour that are a fact.",
    )
