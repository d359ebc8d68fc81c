"""What an operator may decide about containment."""

from pathlib import Path

from pydantic import Field

from lachan.settings import RoomSettings


class SoarSettings(RoomSettings):
    """What an operator may decide about containment."""

    mosquitto_host: str = Field("", description="Broker address; empty means that no broker is driven.")
    mosquitto_port: int = Field(
        1883,
        ge=1,
        le=65535,
        description="Broker port for the administrator's connection.",
    )
    mosquitto_user: str = Field("admin", description="Dynamic-security administrator.")
    mosquitto_password_file: Path | None = Field(None, description="File with that administrator's password.")

    webhook_url: str = Field(
        "",
        description="Where alerts and needed approvals are posted; empty means nowhere.",
    )
    protected: tuple[str, ...] = Field((), description="Device names that no containment may ever target.")
    budget_site: int = Field(
        20,
        ge=0,
        description="Most devices of one site contained automatically at a time.",
    )
    budget_model: int = Field(
        50,
        ge=0,
        description="Most devices of one model contained automatically at a time.",
    )
    budget_detector: int = Field(20, ge=0, description="Most devices contained at a time because of one rule.")
    budget_sender: int = Field(
        5,
        ge=0,
        description="Most devices contained at a time because of one sender's logs.",
    )
