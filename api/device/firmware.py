"""Firmware for devices: what to install, the update framework's files, the bytes with ranges, the report afterwards.

A device polls ``/device/v1/firmware``, takes the metadata and the target from ``/tuf/…`` with any TUF client (or the
plain file and its detached CMS signature from ``/firmware/…``), and reports. It sees releases of its own vendor and
model only; a halted one is gone with the next request (`api.memory` tells the bound). All devices of a model that run the
same version are answered with the same bytes.
"""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api import machine
from api.answers import MachineAnswer
from api.asked import MachineRequest, json_answer
from api.device.access import Verified, principal
from api.device.desk import DeviceDesk
from api.files import Served, serve
from api.machine import Auth, MachineRoute
from api.middleware import entity_tag
from lachan.errors import NotFound
from ota_signing import delivery
from ota_signing.delivery import Firmware
from ota_signing.errors import ArtifactMissing
from ota_signing.repository import Repository
from ota_signing.schemas import InstallOutcome

KEPT = 1 << 20  # octets of a metadata file that is kept in memory


class Update(BaseModel):
    """A release to install, and where its parts are (paths on this door)."""

    release_id: str
    version: str
    length: int = Field(description="Bytes.")
    sha256: str = Field(description="Of the firmware, hex.")
    downgrade: bool = Field(description="People approved it for devices with a higher version, too.")
    target: str = Field(description="Path in the TUF repository.", examples=["acme/cam1/2.0.0/firmware.bin"])
    metadata: str = Field(description="Base path of the TUF metadata.")
    targets: str = Field(description="Base path of the TUF targets (consistent snapshots: hash-prefixed names).")
    download: str = Field(description="The same bytes without TUF; ranges are served.")
    signature: str = Field(description="Detached CMS (DER) over those bytes.")


class Poll(BaseModel):
    """The answer to a poll."""

    update: Update | None = Field(description="Null when there is nothing to install.")
    poll_seconds: int = Field(300, description="When to ask again.")


class Report(BaseModel):
    """What became of an update."""

    model_config = ConfigDict(extra="forbid")

    release_id: str = Field(max_length=36)
    version: str = Field(min_length=1, max_length=64, description="What the device runs now.")
    outcome: InstallOutcome
    detail: str = Field("", max_length=500, description="The device's own words, for people.")


class Reported(BaseModel):
    """That a report was taken; the same report again gives the same id."""

    id: str


def _desk(asked: MachineRequest) -> DeviceDesk:
    found: DeviceDesk = asked.state.desk
    return found


def _runs(device: Verified) -> tuple[str, str, str]:
    return device.vendor, device.model, device.firmware_version or ""


def _known_poll(asked: MachineRequest) -> MachineAnswer | None:
    desk = _desk(asked)
    mark = desk.marks.fresh()
    return None if mark is None else desk.polls.get(_runs(asked.device), mark.firmware)


async def poll_firmware(asked: MachineRequest) -> MachineAnswer:
    """Names the release that this device should install now, if there is one."""
    desk, device = _desk(asked), asked.device
    mark = await desk.marks.now()
    known = desk.polls.get(_runs(device), mark.firmware)
    if known is not None:
        return known
    release = await desk.marks.look(
        lambda connection: delivery.newest(connection, vendor=device.vendor, model=device.model)
    )
    found = delivery.offered(release, has=device.firmware_version)
    update = found and Update(
        release_id=found.release_id, version=found.version, length=found.length, sha256=found.sha256,
        downgrade=found.downgrade, target=found.target_path, metadata="/tuf/metadata/",
        targets="/tuf/targets/", download=f"/firmware/{found.release_id}",
        signature=f"/firmware/{found.release_id}/signature",
    )  # fmt: skip
    return desk.polls.put(_runs(device), mark.firmware, json_answer(Poll(update=update)))


async def report_firmware(asked: MachineRequest) -> MachineAnswer:
    """Take the device's word on an update, and with it the version that it runs now."""
    told = await asked.json(Report)
    rt = _desk(asked).rt
    unit = delivery.reporting(
        principal(asked.device), release_id=told.release_id, version=told.version, outcome=told.outcome,
        detail=told.detail,
    )  # fmt: skip
    made = await rt.db.arun(unit)
    rt.wake()
    return json_answer(Reported(id=made.id))


async def read_tuf_metadata(asked: MachineRequest) -> MachineAnswer:
    """Metadata of the update framework by file name, as TUF clients ask for it."""
    desk, name = _desk(asked), asked.parameters["name"]
    repository = Repository(desk.rt.settings)
    stamp = _stamp(repository.path(name))
    known = desk.metadata.get(name, stamp) if stamp is not None else None
    if known is not None:
        return known
    encoded = await asyncio.to_thread(repository.get, name)
    if encoded is None:
        raise NotFound(f"There is no metadata {name[:60]!r}.")
    kept = b"no-cache" if name == "timestamp.json" else b"max-age=604800, immutable"
    headers = [(b"content-type", b"application/json"), (b"cache-control", kept)]
    answer = MachineAnswer(200, headers, encoded, etag=entity_tag(encoded).encode())
    if stamp is not None and len(encoded) <= KEPT:
        desk.metadata.put(name, stamp, answer)
    return answer


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Tell by what a file is known to be the same; None where there is no file to look at."""
    try:
        found = os.stat(path) if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


async def read_tuf_target(asked: MachineRequest) -> MachineAnswer:
    """A firmware by its hash-prefixed target path."""
    return _file(asked, await _firmware(asked, path=asked.parameters["path"]))


def _known_range(asked: MachineRequest) -> MachineAnswer | None:
    """A small range of a release that is known, as far as the kernel has it in memory."""
    desk, device = _desk(asked), asked.device
    if b"range" not in asked.headers or (mark := desk.marks.fresh()) is None:
        return None
    key = (device.vendor, device.model, asked.parameters.get("release_id", ""), asked.parameters.get("path", ""))
    found = desk.firmware.get(key, mark.firmware)
    if found is None:
        return None
    answer = _file(asked, found)
    if not isinstance(answer.body, bytes):
        answer.body.close()
        return None
    return answer


async def download_firmware(asked: MachineRequest) -> MachineAnswer:
    """The bytes of a release; ``Range``, ``If-Range`` and ``If-None-Match`` are understood."""
    return _file(asked, await _firmware(asked, release_id=asked.parameters["release_id"]))


async def download_signature(asked: MachineRequest) -> MachineAnswer:
    """The detached signature (RFC 5652, DER) over the bytes of a release."""
    found = await _firmware(asked, release_id=asked.parameters["release_id"])
    return MachineAnswer(200, [(b"content-type", b"application/pkcs7-signature")], found.signature)


async def _firmware(asked: MachineRequest, *, release_id: str = "", path: str = "") -> Firmware:
    """Give the file of a release for this device's vendor and model.

    Raises:
        NoSuchRelease: there is none, or it is not published yet.
        ReleaseHalted: it was halted.
    """
    desk, device = _desk(asked), asked.device
    key = (device.vendor, device.model, release_id, path)
    mark = await desk.marks.now()
    known = desk.firmware.get(key, mark.firmware)
    if known is not None:
        return known
    found = await desk.marks.look(
        lambda connection: delivery.firmware_for(
            connection, desk.rt.settings, vendor=device.vendor, model=device.model, release_id=release_id, path=path
        )
    )
    return desk.firmware.put(key, mark.firmware, found)


def _file(asked: MachineRequest, found: Firmware) -> MachineAnswer:
    digest = base64.b64encode(bytes.fromhex(found.sha256))
    headers = [(b"repr-digest", b"sha-256=:" + digest + b":"), (b"cache-control", b"private, max-age=86400")]
    settings = _desk(asked).rt.settings
    if settings.accel_redirect and asked.address in settings.proxies:  # nginx reads Range and If-None-Match itself
        place = settings.accel_redirect + found.path.relative_to(settings.data / "artifacts").as_posix()
        told = [(b"content-type", b"application/octet-stream"), (b"x-accel-redirect", place.encode())]
        return MachineAnswer(200, [*headers, *told], etag=f'"{found.sha256}"'.encode())
    served = Served(found.path, b"application/octet-stream", headers, f'"{found.sha256}"'.encode())
    try:
        return serve(served, asked.headers)
    except FileNotFoundError as error:
        raise ArtifactMissing(f"The file of release {found.release_id} is missing.") from error


def _route(method: str, path: str, handler: machine.Handler, summary: str, **more: object) -> MachineRoute:
    return MachineRoute(
        method=method, path=path, auth=Auth.DEVICE, handler=handler, name=handler.__name__, summary=summary, **more  # type: ignore[arg-type]
    )  # fmt: skip


MACHINE = (
    _route("GET", "/device/v1/firmware", poll_firmware, "What should I install?", ready=_known_poll,
           more={"response_model": Poll}),
    _route("POST", "/device/v1/firmware/report", report_firmware, "This became of it", limit=16 << 10,
           more={"response_model": Reported}),
    _route("GET", "/tuf/metadata/{name}", read_tuf_metadata, "TUF metadata"),
    _route("GET", "/tuf/targets/{path:path}", read_tuf_target, "TUF target", ready=_known_range),
    _route("GET", "/firmware/{release_id}", download_firmware, "Firmware", ready=_known_range),
    _route("GET", "/firmware/{release_id}/signature", download_signature, "Firmware's detached CMS"),
)  # fmt: skip
router = APIRouter(tags=["firmware"])
machine.document(router, MACHINE)
