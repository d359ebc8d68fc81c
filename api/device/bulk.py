"""`_bulk` at the device door: a device delivers its own log lines through its own mutual-TLS identity."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api import bulk
from api.device.access import runtime, speaker
from lachan.identity import Principal
from lachan.runtime import Runtime

router = APIRouter(tags=["logs"])
Speaker = Annotated[Principal, Depends(speaker)]
Open = Annotated[Runtime, Depends(runtime)]


@router.post("/_bulk", summary="Deliver log lines")
async def deliver(request: Request, device: Speaker, rt: Open) -> Response:
    """Take a batch in the format of Elasticsearch's bulk API; answer when it is on disk."""
    return await bulk.deliver(request, rt, device)


@router.put("/_bulk", summary="Deliver log lines")
async def deliver_put(request: Request, device: Speaker, rt: Open) -> Response:
    """The same with PUT, as elasticsearch-py sends it."""
    return await bulk.deliver(request, rt, device)


@router.put("/{index}/_bulk", summary="Deliver log lines of one index")
@router.post("/{index}/_bulk", summary="Deliver log lines of one index")
async def deliver_to(index: str, request: Request, device: Speaker, rt: Open) -> Response:
    """The same with the index named once, in the path."""
    return await bulk.deliver(request, rt, device, index=index)
