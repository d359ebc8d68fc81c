"""The registry's table and the values that travel: who each device is, whose, where, and how much depends on it.

``name`` is unique and becomes the certificate's common name and the MQTT client name; vendor and serial number together
are unique too. Limits: place is free text and coordinates come later.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from unicodedata import normalize

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lachan.addresses import canonical
from lachan.database import UtcDateTime, metadata
from lachan.devices import search
from lachan.foreign import ONE_LINE


class Criticality(StrEnum):
    """What is lost when the device is cut off; unknown counts as essential."""

    NORMAL = "normal"
    ESSENTIAL = "essential"
    LIFE_SAFETY = "life_safety"
    UNKNOWN = "unknown"


class DeviceState(StrEnum):
    """The device's life cycle."""

    REGISTERED = "registered"
    ENROLLED = "enrolled"
    RETIRED = "retired"


def _folded(context: Any) -> str:
    """Fold what an insert says of a device, for those inserts that do not say it themselves."""
    return search.folded(context.get_current_parameters())


def _ddl(statement: str, dialect: str) -> Any:
    made: Any = sa.DDL(statement)  # type: ignore[no-untyped-call]
    return made.execute_if(dialect=dialect)


_ADDRESSED, _SEEN = sa.text("address IS NOT NULL"), sa.text("seen_address IS NOT NULL")
devices = sa.Table(
    "devices",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    sa.Column("vendor", sa.String(100), nullable=False, index=True),
    sa.Column("model", sa.String(100), nullable=False),
    sa.Column("serial_number", sa.String(64), nullable=False),
    sa.Column("site", sa.String(100), nullable=False, index=True),
    sa.Column("ward", sa.String(100), nullable=False, server_default=""),
    sa.Column("place", sa.String(200), nullable=False, server_default=""),
    sa.Column("owner", sa.String(200), nullable=False, server_default=""),
    sa.Column("criticality", sa.String(12), nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("firmware_version", sa.String(64)),
    sa.Column("address", sa.String(255)),
    sa.Column(
        "vouched", sa.Boolean, nullable=False, server_default=sa.true()
    ),  # an operator says so, not a manufacturer
    sa.Column("seen_address", sa.String(45)),  # under its certificate, at the device door
    sa.Column("last_seen", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("folded", sa.Text, nullable=False, server_default="", default=_folded),
    sa.UniqueConstraint("vendor", "serial_number", name="uq_devices_vendor_serial_number"),
    # With site and who vouches, so that ten thousand that a manufacturer says to be at one address are not read for it.
    sa.Index("ix_devices_address", "address", "site", "vouched", sqlite_where=_ADDRESSED, postgresql_where=_ADDRESSED),
    sa.Index("ix_devices_seen_address", "seen_address", "site", "vouched", sqlite_where=_SEEN, postgresql_where=_SEEN),
    sa.Index("ix_devices_name_folded", "name", "folded").ddl_if(dialect="sqlite"),
    sa.Index(
        "ix_devices_folded",
        sa.literal_column(f"{search.JOINED} gin_trgm_ops"),
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": search.PENDING},
    ).ddl_if(dialect="postgresql"),
)
for _statement in search.SQLITE:
    sa.event.listen(devices, "after_create", _ddl(_statement, "sqlite"))
for _statement in search.POSTGRESQL_AFTER:
    sa.event.listen(devices, "after_create", _ddl(_statement, "postgresql"))
for _statement in search.POSTGRESQL:
    sa.event.listen(devices, "before_create", _ddl(_statement, "postgresql"))


@dataclass(frozen=True)
class Device:
    """A row of the registry.

    ``vouched`` tells whether an operator says where it is and how it is called; what a manufacturer registers is a hint
    (`siem_rules.binding`). ``seen_address`` is the one that it last used its certificate from.
    """

    id: str
    name: str
    vendor: str
    model: str
    serial_number: str
    site: str
    ward: str
    place: str
    owner: str
    criticality: Criticality
    state: DeviceState
    firmware_version: str | None
    address: str | None
    vouched: bool
    seen_address: str | None
    last_seen: datetime | None
    created_at: datetime


class NewDevice(BaseModel):
    """What is needed to register a device. Criticality is set by an administrator afterwards.

    Text is printable, and kept in NFC: one name has one spelling, or a vendor's serial number would be free twice.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="Lower-case host label, unique.")
    vendor: str = Field(min_length=1, max_length=64, pattern=f"^{ONE_LINE}+$")
    model: str = Field(min_length=1, max_length=100, pattern=f"^{ONE_LINE}+$")
    serial_number: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9 '()+,./:=?-]+$")
    site: str = Field(min_length=1, max_length=100, pattern=f"^{ONE_LINE}+$")
    ward: str = Field("", max_length=100, pattern=f"^{ONE_LINE}*$")
    place: str = Field("", max_length=200, pattern=f"^{ONE_LINE}*$")
    owner: str = Field("", max_length=200, pattern=f"^{ONE_LINE}*$")
    address: str | None = Field(None, max_length=255, pattern=r"^[A-Za-z0-9.:\[\]-]+$")

    @field_validator("address")
    @classmethod
    def _one_spelling(cls, value: str | None) -> str | None:
        return None if value is None else canonical(value)

    @model_validator(mode="before")
    @classmethod
    def _compose(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            key: normalize("NFC", value) if isinstance(value, str) and not value.isascii() else value
            for key, value in data.items()
        }
