"""The registry: who each device is, whose it is, where it stands, how much depends on it.

Every other room refers to a device by its id and reads the rest here. ``name`` is unique and becomes the certificate's
common name and the MQTT client name; vendor and serial number together are unique too. Limits: place is free text and
coordinates come later.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lachan import clock, outbox, trust
from lachan.database import UtcDateTime, metadata
from lachan.errors import Conflict, Invalid, NotFound
from lachan.events import DeviceChanged, DeviceRegistered, DeviceRetired, DevicesImported
from lachan.identity import Permission, Principal, require, scope
from lachan.ids import new_id


class Criticality(StrEnum):
    """What is lost when the device is cut off; unknown counts as essential."""

    NORMAL = "normal"
    ESSENTIAL = "essential"
    LIFE_SAFETY = "life_safety"
    UNKNOWN = "unknown"


class State(StrEnum):
    """The device's life cycle."""

    REGISTERED = "registered"
    ENROLLED = "enrolled"
    RETIRED = "retired"


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
    sa.Column("last_seen", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("vendor", "serial_number", name="uq_devices_vendor_serial_number"),
)


class AlreadyRegistered(Conflict):
    """The name, or the vendor's serial number, is taken."""

    title, hint = "Device already registered", "Use another name, or read the registered device first."


class BadFile(Invalid):
    """The import file cannot be read as a table at all."""

    title, hint = "Unreadable import file", "Send CSV with a header line, or one JSON object per line."


@dataclass(frozen=True)
class Device:
    """A row of the registry."""

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
    state: State
    firmware_version: str | None
    address: str | None
    last_seen: datetime | None
    created_at: datetime


class NewDevice(BaseModel):
    """What is needed to register a device. Text is printable; criticality is set by an administrator afterwards."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="Lower-case host label, unique.")
    vendor: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")
    model: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
    serial_number: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9 '()+,./:=?-]+$")
    site: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
    ward: str = Field("", max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")
    place: str = Field("", max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
    owner: str = Field("", max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
    address: str | None = Field(None, max_length=255, pattern=r"^[A-Za-z0-9.:\[\]-]+$")


def parse_new(fields: dict[str, Any]) -> NewDevice:
    """Check the fields of a new device.

    Raises:
        Invalid: one of them does not hold; ``field`` names it.
    """
    try:
        return NewDevice.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise Invalid(f"{name}: {first['msg']}", field=name) from error


def get(connection: sa.Connection, device_id: str, *, principal: Principal | None = None) -> Device:
    """One device by id; with ``principal`` only if they may see its vendor.

    Raises:
        NotFound: there is none, or it is another vendor's.
    """
    return _one(connection, devices.c.id == device_id, device_id, principal)


def by_name(connection: sa.Connection, name: str, *, principal: Principal | None = None) -> Device:
    """One device by name; the rest as in `get`."""
    return _one(connection, devices.c.name == name, name, principal)


def find(
    connection: sa.Connection,
    *,
    principal: Principal,
    after: str = "",
    limit: int = 100,
    filters: dict[str, str] | None = None,
) -> list[Device]:
    """Devices by name, after a given one, that the principal may see.

    Args:
        connection: an open connection.
        principal: who asks.
        after: the last name of the page before.
        limit: most devices to return.
        filters: column name → wanted value; ``q`` searches name, serial number and address.
    """
    query = sa.select(devices).where(devices.c.name > after).order_by(devices.c.name).limit(limit)
    for column, value in (filters or {}).items():
        if column == "q":
            escaped = re.sub(r"([%_/])", r"/\1", value)
            like = f"%{escaped}%"
            fields = (devices.c.name, devices.c.serial_number, devices.c.address, devices.c.ward)
            query = query.where(sa.or_(*(field.ilike(like, escape="/") for field in fields)))
        else:
            query = query.where(devices.c[column] == value)
    return [_device(row) for row in connection.execute(scope(principal, query, devices.c.vendor)).mappings()]


def register(
    connection: sa.Connection,
    new: NewDevice,
    *,
    actor: Principal,
    criticality: Criticality = Criticality.UNKNOWN,
    record: bool = True,
) -> Device:
    """Make a device known, in the caller's transaction.

    Raises:
        NotFound: a manufacturer registers another vendor's device.
        AlreadyRegistered: the name, or the vendor's serial number, is taken.
    """
    require(actor, Permission.DEVICES_WRITE, vendor=new.vendor)
    if criticality is not Criticality.UNKNOWN:
        require(actor, Permission.CRITICALITY_WRITE)
    same = sa.or_(
        devices.c.name == new.name,
        sa.and_(devices.c.vendor == new.vendor, devices.c.serial_number == new.serial_number),
    )
    if connection.execute(sa.select(devices.c.id).where(same)).first():
        raise AlreadyRegistered(f"{new.name} or serial number {new.serial_number} of {new.vendor} is registered.")
    device_id = new_id()
    values = {**new.model_dump(), "id": device_id, "state": State.REGISTERED, "created_at": clock.now()}
    connection.execute(devices.insert().values(**values, criticality=criticality))
    if record:
        event = DeviceRegistered(
            device_id=device_id, name=new.name, vendor=new.vendor, model=new.model, serial=new.serial_number,
            criticality=criticality,
        )  # fmt: skip
        outbox.append(connection, event, actor=actor)
    return get(connection, device_id)


def set_criticality(connection: sa.Connection, device_id: str, value: Criticality, *, actor: Principal) -> Device:
    """Say how much depends on a device; administrators only, and in the ledger (design decision 10).

    Raises:
        Forbidden: the actor is no administrator.
        NotFound: there is no such device.
    """
    require(actor, Permission.CRITICALITY_WRITE)
    before = get(connection, device_id)
    connection.execute(devices.update().where(devices.c.id == device_id).values(criticality=value))
    if before.criticality is not value:
        event = DeviceChanged(device_id=device_id, field_name="criticality", before=before.criticality, after=value)
        outbox.append(connection, event, actor=actor)
    return get(connection, device_id)


def retire(connection: sa.Connection, device_id: str, reason: str, *, actor: Principal) -> None:
    """End a device's life; it can never enrol again.

    Raises:
        NotFound: there is no such device, or it is another vendor's.
    """
    device = get(connection, device_id, principal=actor)
    require(actor, Permission.DEVICES_WRITE, vendor=device.vendor)
    connection.execute(devices.update().where(devices.c.id == device_id).values(state=State.RETIRED))
    signal = trust.Signal(
        device_id=device_id, source="registry", answer=trust.Answer.DENY, reason="retired", detail=reason,
        ref=device_id, since=clock.now(),
    )  # fmt: skip
    trust.set_signal(connection, signal)
    outbox.append(connection, DeviceRetired(device_id=device_id, reason=reason), actor=actor)
    trust.touch(connection)  # the device door looks at the registry again


@dataclass(frozen=True)
class BadRow:
    """A row that was not taken: its line number in the file, why, and what it said."""

    row: int
    reason: str
    values: dict[str, Any]


@dataclass(frozen=True)
class ImportResult:
    """What became of a file: ids of the devices taken, and the rows that were not."""

    accepted: tuple[str, ...]
    rejected: tuple[BadRow, ...]


def import_rows(connection: sa.Connection, rows: Iterable[tuple[int, Any]], *, actor: Principal) -> ImportResult:
    """Register the good rows and give the bad ones back with row and reason; one event for all.

    Args:
        connection: an open `Database.write`.
        rows: (line number, values or the error that stopped its parsing).
        actor: who imports.
    """
    accepted: list[str] = []
    rejected: list[BadRow] = []
    digest = hashlib.sha256()
    for number, values in rows:
        try:
            if isinstance(values, str):
                raise Invalid(values)
            new = NewDevice.model_validate({k: v for k, v in values.items() if v not in (None, "")})
            device = register(connection, new, actor=actor, record=False)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            rejected.append(BadRow(number, reason, dict(values)))
        except (NotFound, Invalid, Conflict) as error:
            reason = "vendor: not yours" if isinstance(error, NotFound) else error.detail
            rejected.append(BadRow(number, reason, values if isinstance(values, dict) else {}))
        else:
            accepted.append(device.id)
            digest.update(hashlib.sha256(b"\0" + new.model_dump_json().encode()).digest())
    if accepted or rejected:
        event = DevicesImported(accepted=len(accepted), rejected=len(rejected), merkle_root=digest.hexdigest())
        outbox.append(connection, event, actor=actor)
    return ImportResult(tuple(accepted), tuple(rejected))


def parse_file(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a CSV or NDJSON file with their line numbers; a line that is no row yields the reason.

    Raises:
        BadFile: it is neither, or not UTF-8.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path.name}: {error}") from error
    return parse_text(text, json_lines=path.suffix in {".ndjson", ".jsonl", ".json"} or text.lstrip()[:1] == "{")


def parse_text(text: str, *, json_lines: bool) -> Iterator[tuple[int, Any]]:
    """The rows of a CSV or NDJSON text; see `parse_file`."""
    if json_lines:
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
                yield number, values if isinstance(values, dict) else "the line is no JSON object"
            except ValueError as error:
                yield number, f"the line is no JSON: {error}"
        return
    reader = csv.DictReader(text.splitlines(), strict=True)
    if not reader.fieldnames or "name" not in reader.fieldnames:
        raise BadFile("The first line must name the columns, among them: name, vendor, model, serial_number, site.")
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"the line is no CSV: {error}"
            continue
        extra = values.pop(None, None)
        yield reader.line_num, "the row has more cells than the header" if extra else values


def touch_seen(connection: sa.Connection, seen: dict[str, datetime]) -> None:
    """Write down when devices were last seen (coalesced by the doors; no event)."""
    for device_id, moment in sorted(seen.items()):
        connection.execute(devices.update().where(devices.c.id == device_id).values(last_seen=moment))


def _one(connection: sa.Connection, where: Any, what: str, principal: Principal | None) -> Device:
    query = sa.select(devices).where(where)
    if principal is not None:
        query = scope(principal, query, devices.c.vendor)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"No device {what}.")
    return _device(row)


def _device(row: Any) -> Device:
    return Device(**{**row, "criticality": Criticality(row["criticality"]), "state": State(row["state"])})
