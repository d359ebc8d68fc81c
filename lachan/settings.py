"""Settings: one frozen model, every field with its unit and a safe default.

Values come from, last wins: defaults, ``lachan.toml`` in the data folder, ``LACHAN_*`` variables, arguments of
`Settings.load`. Secrets are not settings: they lie in files of their own in the data folder, mode 0600.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from lachan.errors import Invalid


class Settings(BaseSettings):
    """What an operator may decide. Lists are JSON in variables, arrays in TOML."""

    model_config = SettingsConfigDict(env_prefix="LACHAN_", frozen=True, extra="forbid")

    data: Path = Field(description="Folder of everything this installation keeps; mode 0700.")
    database_url: str = Field("", description="SQLAlchemy URL; empty means SQLite in the data folder.")
    database_pool: int = Field(
        20,
        ge=2,
        le=200,
        description="Connections per process; also the thread limit of a door.",
    )
    database_wait: float = Field(
        10, gt=0, le=300, description="Seconds that a write waits for a busy database before it is refused (503)."
    )

    host: str = Field("127.0.0.1", description="Address that the three doors listen on.")
    people_port: int = Field(
        8443,
        ge=0,
        le=65535,
        description="Port of the people door (HTTPS); 0 means any free one.",
    )
    device_port: int = Field(8444, ge=0, le=65535, description="Port of the device door (mutual TLS).")
    status_port: int = Field(8080, ge=0, le=65535, description="Port of the status door (plain HTTP).")
    syslog_port: int = Field(
        -1,
        ge=-1,
        le=65535,
        description="UDP port of unauthenticated syslog; -1 means none.",
    )
    people_url: str = Field(
        "https://localhost:8443",
        description="Base URL of the people door as people see it.",
    )
    device_url: str = Field(
        "https://localhost:8444",
        description="Base URL of the device door as devices see it.",
    )
    status_url: str = Field(
        "http://localhost:8080",
        description="Base URL written into certificates (CDP, AIA).",
    )
    proxies: tuple[str, ...] = Field((), description="Addresses that may set RFC 9440 Client-Cert headers.")
    door_connections: int = Field(8192, ge=1, description="Most open connections of one TLS door.")
    door_connections_per_address: int = Field(
        512, ge=1, description="Most open connections of one TLS door from one address."
    )

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
    signer_socket: Path | None = Field(
        None, description="Path of the signer's socket; by default signer/signer.sock in the data folder."
    )
    signer_rates: dict[str, float] = Field(
        {}, description="Signatures per second by kind of request, where the built-in ones do not fit."
    )
    signer_device_hour: int = Field(
        40, ge=1, le=250, description="Most signatures that the signer gives for one device in an hour of the clock."
    )
    signer_allowed_uids: tuple[int, ...] = Field((), description="Further user ids that may ask the signer.")

    siem_rules_off: tuple[str, ...] = Field((), description="Detection rules (names or ids) that are switched off.")

    mosquitto_host: str = Field("", description="Broker address; empty means that no broker is driven.")
    mosquitto_port: int = Field(
        1883,
        ge=1,
        le=65535,
        description="Broker port for the administrator's connection.",
    )
    mosquitto_user: str = Field("admin", description="Dynamic-security administrator.")
    mosquitto_password_file: Path | None = Field(None, description="File with that administrator's password.")

    ota_approvals: int = Field(
        2, ge=1, le=10, description="Persons other than the proposer who must approve a firmware release, at least."
    )
    ota_artifact_max_bytes: int = Field(
        1 << 31, ge=1, description="Largest firmware file that is taken, in bytes; RAUC 'plain' bundles end at 2 GiB."
    )

    webhook_url: str = Field(
        "",
        description="Where alerts and needed approvals are posted; empty means nowhere.",
    )
    outgoing_allow: tuple[str, ...] = Field((), description="host:port that webhooks and http steps may reach.")
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

    @property
    def url(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{self.data / 'lachan.db'}"

    @property
    def signer_home(self) -> Path:
        """The signer's folder: keys, passphrase, log, memory, socket."""
        return self.data / "signer"

    @property
    def signer_path(self) -> Path:
        """The signer's socket."""
        return self.signer_socket or self.signer_home / "signer.sock"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then ``lachan.toml``."""
        toml = init_settings.init_kwargs.get("data") or os.environ.get("LACHAN_DATA", "")  # type: ignore[attr-defined]
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, Path(toml) / "lachan.toml"),
        )

    @classmethod
    def load(cls, data: Path | str | None = None, **fields: Any) -> "Settings":
        """Read the settings of one data folder (``data``, else ``LACHAN_DATA``).

        Raises:
            Invalid: no folder is named, or a value is outside its bounds.
        """
        folder = data or os.environ.get("LACHAN_DATA")
        if not folder:
            raise Invalid("No data folder is named: give --data DIR or set LACHAN_DATA.")
        try:
            # A test harness sets LACHAN_FAULT and LACHAN_CLOCK_OFFSET; they are no settings and are ignored by the prefix rule.
            return cls(data=Path(folder).absolute(), **fields)
        except ValueError as error:
            raise Invalid(f"The settings of {folder} do not hold: {error}") from error
