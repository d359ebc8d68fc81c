"""What an operator may decide about detection."""

from pydantic import Field

from lachan.settings import RoomSettings


class SiemSettings(RoomSettings):
    """What an operator may decide about detection."""

    siem_rules_off: tuple[str, ...] = Field((), description="Detection rules (names or ids) that are switched off.")
