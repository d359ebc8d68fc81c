"""Firmware for devices: what to install, the update framework's files, the bytes with ranges, the report afterwards.

A device polls ``/device/v1/firmware``, takes the metadata and the target from ``/tuf/…`` with any TUF client (or the
plain file and its detached CMS signature from ``/firmware/…``), and reports. It sees releases of its own vendor and
model only; a halted one is gone with the next request.
"""

import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from api.device.access import Verified, runtime, speaker, verified
from lachan.errors import Invalid, NotFound
from lachan.identity import Principal
from lachan.runtime import Runtime
from ota_signing import delivery
from ota_signing.errors import ArtifactMissing
from ota_signing.repository import Repository
from ota_signing.schemas import InstallOutcome

router = APIRouter(tags=["firmware"])
_MAX_RANGES = 16


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


@router.get("/device/v1/firmware", summary="What should I install?")
def poll_firmware(device: Annotated[Verified, Depends(verified)], rt: Annotated[Runtime, Depends(runtime)]) -> Poll:
    """Names the release that this device should install now, if there is one."""
    found = delivery.offer(rt, device.device_id)
    if found is None:
        return Poll(update=None)
    update = Update(
        release_id=found.release_id, version=found.version, length=found.length, sha256=found.sha256,
        downgrade=found.downgrade, target=found.target_path, metadata="/tuf/metadata/",
        targets="/tuf/targets/", download=f"/firmware/{found.release_id}",
        signature=f"/firmware/{found.release_id}/signature",
    )  # fmt: skip
    return Poll(update=update)


@router.post("/device/v1/firmware/report", summary="This became of it")
def report_firmware(
    body: Report, device: Annotated[Principal, Depends(speaker)], rt: Annotated[Runtime, Depends(runtime)]
) -> Reported:
    """Take the device's word on an update, and with it the version that it runs now."""
    made = delivery.report(
        rt, device, release_id=body.release_id, version=body.version, outcome=body.outcome, detail=body.detail
    )
    rt.wake()
    return Reported(id=made.id)


@router.get("/tuf/metadata/{name}", summary="TUF metadata", response_class=FileResponse)
def read_tuf_metadata(
    name: str, _: Annotated[Verified, Depends(verified)], rt: Annotated[Runtime, Depends(runtime)]
) -> Response:
    """Metadata of the update framework by file name, as TUF clients ask for it."""
    encoded = Repository(rt.settings).get(name)
    if encoded is None:
        raise NotFound(f"There is no metadata {name[:60]!r}.")
    kept = "no-cache" if name == "timestamp.json" else "max-age=604800, immutable"
    return Response(encoded, media_type="application/json", headers={"Cache-Control": kept})


@router.api_route("/tuf/targets/{path:path}", methods=["GET"], summary="TUF target", response_class=FileResponse)
def read_tuf_target(
    path: str,
    request: Request,
    device: Annotated[Verified, Depends(verified)],
    rt: Annotated[Runtime, Depends(runtime)],
) -> Response:
    """A firmware by its hash-prefixed target path."""
    return _file(request, delivery.target(rt, device.device_id, path))


@router.get("/firmware/{release_id}", summary="Firmware", response_class=FileResponse)
def download_firmware(
    release_id: str,
    request: Request,
    device: Annotated[Verified, Depends(verified)],
    rt: Annotated[Runtime, Depends(runtime)],
) -> Response:
    """The bytes of a release; ``Range``, ``If-Range`` and ``If-None-Match`` are understood."""
    return _file(request, delivery.firmware(rt, device.device_id, release_id))


@router.get("/firmware/{release_id}/signature", summary="Firmware's detached CMS", response_class=Response)
def download_signature(
    release_id: str, device: Annotated[Verified, Depends(verified)], rt: Annotated[Runtime, Depends(runtime)]
) -> Response:
    """The detached signature (RFC 5652, DER) over the bytes of a release."""
    found = delivery.firmware(rt, device.device_id, release_id)
    return Response(found.signature, media_type="application/pkcs7-signature")


def _file(request: Request, found: delivery.Firmware) -> Response:
    tag = f'"{found.sha256}"'
    digest = base64.b64encode(bytes.fromhex(found.sha256)).decode()
    headers = {"ETag": tag, "Repr-Digest": f"sha-256=:{digest}:", "Cache-Control": "private, max-age=86400"}
    if tag in [item.strip() for item in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    if request.headers.get("range", "").count(",") >= _MAX_RANGES:
        raise Invalid(f"At most {_MAX_RANGES} ranges at once.", field="Range")
    if not found.path.is_file():
        raise ArtifactMissing(f"The file of release {found.release_id} is missing.")
    return FileResponse(found.path, media_type="application/octet-stream", headers=headers)
