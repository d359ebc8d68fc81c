"""`_bulk` for collectors and platforms (``Authorization: ApiKey``), and the newest lines for people."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from api import bulk
from api.fields import Whole
from api.people.access import may, runtime
from api.problems import documented
from lachan import devices
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from siem_rules import logs

router = APIRouter(tags=["logs"])
Sender = Annotated[Principal, Depends(may(Permission.LOGS_WRITE))]
Open = Annotated[Runtime, Depends(runtime)]


class LineOut(BaseModel):
    """One log line. What stands in ``line`` was written by the sender and may be an attacker's."""

    received: datetime
    sender: str = Field(examples=["device:0192f0c1-…"], description="Who delivered it.")
    line: str = Field(description="The document as it came, at most 2 000 characters.")


class Lines(BaseModel):
    """The newest lines, newest first."""

    items: list[LineOut]


@router.post("/_bulk", summary="Deliver log lines", responses=documented(413, 429))
async def deliver(request: Request, sender: Sender, rt: Open) -> Response:
    """Take a batch in the format of Elasticsearch's bulk API; answer when it is on disk.

    Lines with an `_id`, and batches with an `Idempotency-Key`, may be sent again and count once.
    """
    return await bulk.deliver(request, rt, sender)


@router.put("/_bulk", summary="Deliver log lines", responses=documented(413, 429))
async def deliver_put(request: Request, sender: Sender, rt: Open) -> Response:
    """The same with PUT, as elasticsearch-py sends it."""
    return await bulk.deliver(request, rt, sender)


@router.post("/{index}/_bulk", summary="Deliver log lines of one index", responses=documented(413, 429))
async def deliver_to(index: str, request: Request, sender: Sender, rt: Open) -> Response:
    """The same with the index named once, in the path."""
    return await bulk.deliver(request, rt, sender, index=index)


@router.put("/{index}/_bulk", summary="Deliver log lines of one index", responses=documented(413, 429))
async def deliver_to_put(index: str, request: Request, sender: Sender, rt: Open) -> Response:
    """The same with PUT, as elasticsearch-py sends it."""
    return await bulk.deliver(request, rt, sender, index=index)


@router.get("/api/v1/logs", summary="The newest lines of a device", responses=documented(404))
def read_lines(
    caller: Annotated[Principal, Depends(may(Permission.LOGS_READ))],
    rt: Open,
    device_id: Annotated[
        str, Query(max_length=36, pattern=r"^[^\x00]*$", description="Lines that this device delivered itself.")
    ],
    limit: Annotated[Whole, Query(ge=1, le=200)] = 50,
) -> Lines:
    """Give what a device delivered last; lines that others delivered about it are not among them."""
    with rt.db.read() as connection:
        devices.get(connection, device_id, principal=caller)
    found = logs.newest(rt, limit=limit, sender=f"device:{device_id}")
    return Lines(items=[LineOut.model_validate(line, from_attributes=True) for line in found])
