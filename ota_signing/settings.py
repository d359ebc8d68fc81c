"""What an operator may decide about firmware."""

from pydantic import Field

from lachan.settings import RoomSettings


class OtaSettings(RoomSettings):
    """What an operator may decide about firmware."""

    ota_approvals: int = Field(
        2, ge=1, le=10, description="Persons other than the proposer who must approve a firmware release, at least."
    )
    ota_artifact_max_bytes: int = Field(
        1 << 31, ge=1, description="Largest firmware file that is taken, in bytes; RAUC 'plain' bundles end at 2 GiB."
    )
