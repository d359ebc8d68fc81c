"""Uploading firmware: the body is the file, streamed to the disk while it is hashed."""

import re
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.pages import Page, Wanted, wanted
from api.people.access import may, runtime
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from ota_signing import artifacts, service
from ota_signing.errors import ArtifactBroken, ArtifactTooLarge
from ota_signing.schemas import Artifact
from ota_signing.settings import OtaSettings
from ota_signing.store import Stored

router = APIRouter(prefix="/api/v1/artifacts", tags=["firmware"])
_BLOCK = 1 << 20
_Name = Annotated[str, Query(min_length=1, max_length=100)]


class ArtifactView(BaseModel):
    """An uploaded firmware file; its bytes never change."""

    id: str
    vendor: str
    name: str = Field(description="File name, for people.")
    sha256: str
    length: int = Field(description="Bytes.")
    uploaded_by: str
    uploaded_at: datetime

    @classmethod
    def of(cls, artifact: Artifact) -> "ArtifactView":
        """Give the view of an artifact."""
        return cls(**artifact.__dict__)


@router.post("", status_code=201, summary="Upload firmware")
async def upload_artifact(
    request: Request,
    response: Response,
    vendor: _Name,
    caller: Annotated[Principal, Depends(may(Permission.OTA_UPLOAD))],
    rt: Annotated[Runtime, Depends(runtime)],
    name: _Name = "firmware.bin",
    sha256: Annotated[str | None, Query(pattern="^[0-9a-fA-F]{64}$", description="What the file must be.")] = None,
) -> ArtifactView:
    """Take the request's body as a firmware file. The same bytes again give the artifact that is there."""
    artifacts.check_names(vendor=vendor, name=name)
    stored = await _receive(request, rt, caller, vendor=vendor, sha256=sha256)
    made = await run_in_threadpool(service.record, rt, caller, stored, vendor=vendor, name=name)
    response.headers["Location"] = f"/api/v1/artifacts/{made.id}"
    return ArtifactView.of(made)


@router.get("", summary="Uploaded firmware")
def list_artifacts(
    caller: Annotated[Principal, Depends(may(Permission.OTA_READ))],
    rt: Annotated[Runtime, Depends(runtime)],
    page: Annotated[Wanted, Depends(wanted)],
) -> Page[ArtifactView]:
    """Artifacts, oldest first; manufacturers see their own."""
    key = page.key(str)
    with rt.db.read() as connection:
        rows = artifacts.find(connection, principal=caller, after=key[0] if key else "", limit=page.limit + 1)
    return page.page(rows, key=lambda row: (row.id,), show=ArtifactView.of)


@router.get("/{artifact_id}", summary="One artifact")
def read_artifact(
    artifact_id: str,
    caller: Annotated[Principal, Depends(may(Permission.OTA_READ))],
    rt: Annotated[Runtime, Depends(runtime)],
) -> ArtifactView:
    """One artifact by its id."""
    with rt.db.read() as connection:
        return ArtifactView.of(artifacts.get(connection, artifact_id, principal=caller))


async def _receive(request: Request, rt: Runtime, caller: Principal, *, vendor: str, sha256: str | None) -> Stored:
    header = request.headers.get("content-length", "")
    announced = int(header) if re.fullmatch(r"\d{1,18}", header) else None
    limit = OtaSettings.of(rt.settings).ota_artifact_max_bytes
    if announced is not None and announced > limit:
        raise ArtifactTooLarge(f"The artifact has {announced} bytes, {limit} are allowed.", limit=limit)
    incoming = await run_in_threadpool(service.receive, rt, caller, vendor=vendor)
    with incoming:
        waiting = bytearray()
        try:
            async for chunk in request.stream():
                waiting += chunk
                if len(waiting) >= _BLOCK:  # few visits to a thread, and never more than a block in memory
                    await run_in_threadpool(incoming.write, bytes(waiting))
                    waiting.clear()
        except ClientDisconnect as error:
            raise ArtifactBroken("The connection ended before the file did.") from error
        await run_in_threadpool(incoming.write, bytes(waiting))
        return await run_in_threadpool(incoming.finish, sha256=sha256, length=announced)
