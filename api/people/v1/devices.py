"""The registry over HTTP: list, read, register, set criticality, retire, and the timeline of one device."""

from datetime import datetime
from typing import Annotated, Self

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.answers import holds
from api.middleware import entity_tag
from api.pages import Page, Wanted, wanted
from api.people.access import may, runtime
from api.people.v1.events import EventOut, shown_to
from api.problems import documented
from lachan import devices
from lachan.devices import Criticality, Device, DeviceState, NewDevice
from lachan.errors import LachanError
from lachan.identity import Permission, Principal, require
from lachan.runtime import Runtime
from lachan.work import outbox

router = APIRouter(prefix="/api/v1/devices", tags=["devices"])
Reader = Annotated[Principal, Depends(may(Permission.DEVICES_READ))]
Writer = Annotated[Principal, Depends(may(Permission.DEVICES_WRITE))]
Open = Annotated[Runtime, Depends(runtime)]


class DeviceChangedMeanwhile(LachanError):
    """If-Match names another state than the present one (RFC 9110 13.1.1)."""

    status, title = 412, "Changed meanwhile"
    hint = "Read it again, then decide whether your change still fits."


class DeviceOut(BaseModel):
    """A device of the registry."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str = Field(examples=["cam-hoankiem-0017"])
    vendor: str = Field(examples=["An Ninh Camera"])
    model: str = Field(examples=["AN-200"])
    serial_number: str = Field(examples=["AN200-000017"])
    site: str = Field(examples=["hoan-kiem"])
    ward: str
    place: str
    owner: str
    criticality: Criticality = Field(description="What is lost when it is cut off; unknown counts as essential.")
    state: DeviceState
    firmware_version: str | None
    address: str | None
    vouched: bool = Field(
        description="An operator says name, site and address; what a manufacturer registers is a hint."
    )
    seen_address: str | None = Field(description="From where it last used its certificate.")
    last_seen: datetime | None = Field(description="Written down every few seconds.")
    created_at: datetime

    @property
    def tag(self) -> str:
        """The ETag: of what people decide, not of when the device last spoke."""
        return entity_tag(self.model_dump_json(exclude={"last_seen", "seen_address"}).encode())


class DeviceChange(BaseModel):
    """What may be changed of a device; at least one of them."""

    model_config = ConfigDict(extra="forbid")

    criticality: Criticality | None = None
    address: str | None = Field(None, min_length=1, max_length=255, description="Where it is, on an operator's word.")
    site: str | None = Field(None, min_length=1, max_length=100, description="Where it is, on an operator's word.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.criticality is None and self.address is None and self.site is None:
            raise ValueError("say criticality, address or site")
        return self


class Retirement(BaseModel):
    """Why a device goes out of service."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=200, examples=["replaced"])


def _out(device: Device) -> DeviceOut:
    return DeviceOut.model_validate(device)


@router.get("", summary="List devices")
def list_devices(
    caller: Reader,
    rt: Open,
    page: Annotated[Wanted, Depends(wanted)],
    site: Annotated[str | None, Query(max_length=100)] = None,
    vendor: Annotated[str | None, Query(max_length=100)] = None,
    model: Annotated[str | None, Query(max_length=100)] = None,
    state: DeviceState | None = None,
    criticality: Criticality | None = None,
    q: Annotated[str | None, Query(max_length=100, description="Part of name, serial number, address or ward.")] = None,
) -> Page[DeviceOut]:
    """List devices by name; a manufacturer sees its own only."""
    asked = {"site": site, "vendor": vendor, "model": model, "state": state, "criticality": criticality, "q": q}
    filters = {column: str(value) for column, value in asked.items() if value}
    (after,) = page.key(str) or ("",)
    with rt.db.read() as connection:
        rows = devices.find(connection, principal=caller, after=after, limit=page.limit + 1, filters=filters)
    return page.page(rows, key=lambda row: (row.name,), show=_out)


@router.post("", summary="Register a device", status_code=201, responses=documented(404, 409))
def register_device(body: NewDevice, caller: Writer, rt: Open, response: Response) -> DeviceOut:
    """Make a device known; it can then be given an enrolment secret."""
    device = rt.db.run(lambda connection: devices.register(connection, body, actor=caller))
    response.headers["Location"] = f"/api/v1/devices/{device.id}"
    return _out(device)


@router.get("/{device_id}", summary="Read a device", responses=documented(404))
def read_device(device_id: str, caller: Reader, rt: Open, response: Response) -> DeviceOut:
    """Read one device; another vendor's is not found."""
    with rt.db.read() as connection:
        device = _out(devices.get(connection, device_id, principal=caller))
    response.headers["ETag"] = device.tag
    return device


@router.patch("/{device_id}", summary="Set criticality or place", responses=documented(404, 412))
def change_device(
    device_id: str,
    body: DeviceChange,
    caller: Annotated[Principal, Depends(may(Permission.CRITICALITY_WRITE))],
    rt: Open,
    response: Response,
    if_match: Annotated[str | None, Header(description="ETag that the change is meant for.")] = None,
) -> DeviceOut:
    """Say how much depends on a device, or where it is; administrators only, and it stands in the ledger.

    A device whose address or site an operator says binds what collectors report about that address.
    """

    def unit(connection: sa.Connection) -> devices.Device:
        present = _out(devices.get(connection, device_id, principal=caller))
        if if_match is not None and not holds(if_match, present.tag):
            raise DeviceChangedMeanwhile
        if body.address is not None or body.site is not None:
            devices.place(connection, device_id, actor=caller, address=body.address, site=body.site)
        if body.criticality is not None:
            devices.set_criticality(connection, device_id, body.criticality, actor=caller)
        return devices.get(connection, device_id)

    changed = _out(rt.db.run(unit))
    response.headers["ETag"] = changed.tag
    return changed


@router.post("/{device_id}/retire", summary="Retire a device", responses=documented(404))
def retire_device(device_id: str, body: Retirement, caller: Writer, rt: Open) -> DeviceOut:
    """End a device's life: its certificates stop working at the doors, and it never enrols again."""

    def unit(connection: sa.Connection) -> devices.Device:
        devices.retire(connection, device_id, body.reason, actor=caller)
        return devices.get(connection, device_id)

    device = rt.db.run(unit, urgent=True)
    rt.wake()
    return _out(device)


@router.get("/{device_id}/timeline", summary="What happened to a device", responses=documented(404))
def read_timeline(device_id: str, caller: Reader, rt: Open, page: Annotated[Wanted, Depends(wanted)]) -> Page[EventOut]:
    """Everything recorded about one device, newest first."""
    require(caller, Permission.EVENTS_READ)
    (before,) = page.key(int) or (0,)
    with rt.db.read() as connection:
        devices.get(connection, device_id, principal=caller)
        rows = outbox.read(
            connection, after=before, limit=page.limit + 1, device_id=device_id, vendor=caller.vendor, newest_first=True
        )
        shown = dict(zip((row.seq for row in rows), shown_to(connection, caller, rows), strict=True))
    return page.page(rows, key=lambda row: (row.seq,), show=lambda row: shown[row.seq])
