"""What an operator may decide about identities."""

from pydantic import Field

from lachan.settings import RoomSettings


class PkiSettings(RoomSettings):
    """What an operator may decide about identities."""

    pki_device_domain: str = Field(
        "devices.lachan.invalid",
        description="Domain of the dNSName in device certificates.",
    )
    pki_server_names: tuple[str, ...] = Field(
        (), description="Further names and addresses that certificates of the doors may carry."
    )
    pki_secret_days: int = Field(7, ge=1, le=90, description="Days that an enrolment secret may be used.")
    pki_failures_device: int = Field(
        10, ge=1, description="Wrong enrolment secrets per device and quarter of an hour before it must wait."
    )
    pki_failures_address: int = Field(
        60, ge=1, description="Wrong enrolment secrets per source address and quarter of an hour before it must wait."
    )
