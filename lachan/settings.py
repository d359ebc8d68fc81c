"""Settings: one frozen model, every field with its unit and a safe default; each room brings its part by its wiring.

Values come from, last wins: defaults, ``lachan.toml`` in the data folder, ``LACHAN_*`` variables, arguments of
`Settings.load`. Secrets are not settings: they lie in files of their own in the data folder, mode 0600.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from lachan import wiring
from lachan.errors import Invalid


class RoomSettings(BaseModel):
    """A room's part of the settings: a class of that room, named in its ``wiring.py``; fields begin with the room's word."""

    @classmethod
    def of(cls, settings: "Settings") -> Self:
        """Give these settings, known to hold the room's part.

        Raises:
            TypeError: they were not read by `Settings.load`.
        """
        found: object = settings  # the class that holds both is made at run time
        if not isinstance(found, cls):
            raise TypeError(f"{cls.__name__} is no part of these settings; read them with Settings.load")
        return found


class Settings(BaseSettings):
    """What an operator may decide: the core's part. Lists are JSON in variables, arrays in TOML."""

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
    database_start_wait: float = Field(
        120, ge=0, le=3600, description="Seconds that `lachan serve` waits at its start for a database that is away."
    )

    work_urgent: int = Field(
        4,
        ge=3,
        le=32,
        description="Threads of the role work for what may lead to containment; two may wait for points.",
    )
    work_ordinary: int = Field(2, ge=1, le=32, description="Threads of the role work for facts, sealing and lists.")
    work_slow: int = Field(
        6, ge=1, le=64, description="Threads of the role work for what waits for others: webhooks, probes, imports."
    )

    host: str = Field(
        "127.0.0.1", description="Address that the three doors listen on; ``::`` is every one, of IPv4 too."
    )
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
    shell_persons: dict[str, str] = Field(
        {},
        description="Which person a shell account counts as when four eyes are counted: account name to person's name.",
    )
    proxies: tuple[str, ...] = Field((), description="Addresses that may set RFC 9440 Client-Cert headers.")
    doors: int = Field(1, ge=1, le=16, description="Processes that answer at the three doors; all on the same sockets.")
    door_connections: int = Field(
        8192, ge=1, description="Most open connections of one door, whatever the number of its processes."
    )
    door_connections_per_address: int = Field(
        512, ge=1, description="Most open connections of one door from one address; an IPv6 /64 is one."
    )
    door_body_rate: int = Field(
        1024, ge=0, description="Octets a second that a request's body must come with, once the grace is over."
    )
    door_body_grace: float = Field(30.0, gt=0, description="Seconds until a body's rate counts.")
    door_body_seconds: float = Field(3600.0, gt=0, description="Seconds that a request's body may take in all.")
    accel_redirect: str = Field(
        "",
        pattern="^(/.*/)?$",
        description="Where nginx, if it stands before the device door, has the folder artifacts as an internal location"
        " (/artifacts/): firmware's bytes are then left to it (X-Accel-Redirect), for requests from `proxies` only.",
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

    outgoing_allow: tuple[str, ...] = Field((), description="host:port that webhooks and http steps may reach.")

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
            # A test harness sets LACHAN_CLOCK_OFFSET; it is no setting and is ignored by the prefix rule.
            return _whole()(data=Path(folder).absolute(), **fields)
        except ValueError as error:
            raise Invalid(f"The settings of {folder} do not hold: {error}") from error


@cache
def _whole() -> type[Settings]:
    """Give the core's settings and every room's part, as one class: a misspelt name in any of them is refused.

    Raises:
        WiringFault: two parts have a field of the same name.
    """
    parts = [wiring.resolve(name) for name in wiring.load().settings]
    owner = dict.fromkeys(Settings.model_fields, "lachan.settings:Settings")
    for name, part in zip(wiring.load().settings, parts, strict=True):
        for field in part.model_fields:  # type: ignore[attr-defined]
            if field in owner:
                raise wiring.WiringFault(f"{name} and {owner[field]} both have the setting {field}")
            owner[field] = name
    return type("Settings", (Settings, *parts), {"__doc__": Settings.__doc__, "__module__": __name__})  # type: ignore[arg-type]
