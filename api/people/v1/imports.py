"""Imports of devices over HTTP: send a file, look how far it is, read what was refused.

The answer 202 comes when the whole file has been validated; its good rows are then applied in chunks by the work role.
Limits: one file at a time is validated in a door's process, others wait; a body has at most 32 MiB (`api.people.app`).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import IO, Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api.pages import Page, Wanted, wanted
from api.people.access import may, runtime
from api.problems import documented
from lachan.devices import importing
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime

router = APIRouter(prefix="/api/v1", tags=["devices"])
Reader = Annotated[Principal, Depends(may(Permission.DEVICES_READ))]
Writer = Annotated[Principal, Depends(may(Permission.DEVICES_WRITE))]
Open = Annotated[Runtime, Depends(runtime)]
Key = Annotated[
    str | None,
    Header(min_length=1, max_length=255, pattern=r"^[ -~]+$", description="The same key and file: the same import."),
]
BLOCK = 1 << 20  # bytes that wait for the disk at once
FIRST = 20  # refused rows that an answer shows


class BadRowOut(BaseModel):
    """A row that was not taken."""

    row: int = Field(description="The line of the file at which it begins.")
    column: str = Field(description="The first column at fault; empty where it is no single one.")
    reason: str = Field(description="Every fault.", examples=["serial_number: Field required"])
    values: dict[str, str]


class ImportOut(BaseModel):
    """An import, and how far it is."""

    id: str
    state: importing.ImportState
    actor: str
    sha256: str = Field(description="Of the file.")
    rows: int = Field(description="Rows of the file.")
    done: int = Field(description="Rows of which it is known what became of them.")
    accepted: int = Field(description="Rows whose device is registered now.")
    rejected: int = Field(description="Rows that were not taken.")
    first_rejected: list[BadRowOut] = Field(description=f"The first {FIRST} of them.")
    rejected_csv: str = Field(description="Where all of them are.", examples=["/api/v1/imports/…/rejected"])
    merkle_root: str | None = Field(description="Over the roots of its chunks, as the closing fact has it (RFC 9162).")
    created_at: datetime
    finished_at: datetime | None


def _place(found: importing.Import) -> str:
    return f"/api/v1/imports/{found.id}"


def _out(rt: Runtime, found: importing.Import) -> ImportOut:
    bad_rows = islice(importing.rejected(rt, found.id), FIRST if found.rejected else 0)
    return ImportOut(
        id=found.id, state=found.state, actor=found.actor, sha256=found.sha256, rows=found.rows, done=found.done,
        accepted=found.accepted, rejected=found.rejected, first_rejected=[BadRowOut(**asdict(bad)) for bad in bad_rows],
        rejected_csv=f"{_place(found)}/rejected", merkle_root=found.merkle_root, created_at=found.created_at,
        finished_at=found.finished_at,
    )  # fmt: skip


@router.post("/devices/import", summary="Import devices", status_code=202, responses=documented(413))
async def import_devices(
    request: Request, caller: Writer, rt: Open, response: Response, idempotency_key: Key = None
) -> ImportOut:
    """Take CSV (`text/csv`; comma, semicolon or tab) or one JSON object per line (`application/x-ndjson`).

    The whole file is validated first; then its good rows are registered in chunks, and bad ones are told with their row and
    every reason. Look at `Location` for how far it is. The same file, sent again while it is open, is the same import.
    """
    json_lines = True if "json" in request.headers.get("content-type", "") else None
    turn: asyncio.Semaphore = request.app.state.validating
    with tempfile.TemporaryFile(dir=rt.settings.data) as file:
        waiting = bytearray()
        async for piece in request.stream():
            waiting += piece
            if len(waiting) >= BLOCK:  # few visits to a thread, and never more than a block in memory
                await run_in_threadpool(file.write, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(file.write, bytes(waiting))
        async with turn:
            shown = await run_in_threadpool(_begin, rt, caller, file, json_lines, idempotency_key or "")
    response.headers["Location"] = f"/api/v1/imports/{shown.id}"
    return shown


def _begin(rt: Runtime, caller: Principal, file: IO[bytes], json_lines: bool | None, key: str) -> ImportOut:
    found, _ = importing.begin(rt, file, actor=caller, json_lines=json_lines, key=key)
    rt.wake()
    return _out(rt, found)


@router.get("/imports", summary="List imports")
def list_imports(caller: Reader, rt: Open, page: Annotated[Wanted, Depends(wanted)]) -> Page[ImportOut]:
    """Imports, the newest first; a manufacturer sees its own only."""
    (before,) = page.key(str) or ("",)
    with rt.db.read() as connection:
        rows = importing.find(connection, principal=caller, before=before, limit=page.limit + 1)
    return page.page(rows, key=lambda row: (row.id,), show=lambda row: _out(rt, row))


@router.get("/imports/{import_id}", summary="Read an import", responses=documented(404))
def read_import(import_id: str, caller: Reader, rt: Open) -> ImportOut:
    """How far it is, and the first rows that were refused; another vendor's is not found."""
    with rt.db.read() as connection:
        found = importing.get(connection, import_id, principal=caller)
    return _out(rt, found)


@router.get(
    "/imports/{import_id}/rejected",
    summary="Read what an import refused",
    response_class=StreamingResponse,
    responses=documented(404),
)
def read_rejected(import_id: str, caller: Reader, rt: Open) -> StreamingResponse:
    """All rows that were refused, as CSV whose cells no spreadsheet runs."""
    with rt.db.read() as connection:
        importing.get(connection, import_id, principal=caller)
    disposition = {"Content-Disposition": f'attachment; filename="rejected-{import_id}.csv"'}
    return StreamingResponse(_blocks(rt, import_id), media_type="text/csv; charset=utf-8", headers=disposition)


def _blocks(rt: Runtime, import_id: str) -> Iterator[str]:
    lines = importing.as_csv(importing.rejected(rt, import_id))
    while block := "".join(islice(lines, 500)):
        yield block
