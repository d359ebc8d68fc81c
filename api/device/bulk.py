"""`_bulk` at the device door: a device delivers its own log lines through its own mutual-TLS identity."""

from fastapi import APIRouter

from api import bulk, machine
from api.answers import MachineAnswer
from api.asked import MachineRequest
from api.bulk import BulkDesk
from api.device.access import principal
from api.machine import Auth, MachineRoute


async def deliver(asked: MachineRequest) -> MachineAnswer:
    """Take a batch in the format of Elasticsearch's bulk API; answer when it is on disk."""
    desk, index = BulkDesk.of(asked.state.rt), asked.parameters.get("index", "")
    return await desk.deliver(principal(asked.device), asked.stream(), asked.headers, index=index)


MACHINE = tuple(
    MachineRoute(
        method=method, path=path, auth=Auth.DEVICE, handler=deliver, limit=bulk.BODY, name=f"deliver{name}_{method.lower()}",
        summary=summary,
    )
    for path, name, summary in (
        ("/_bulk", "", "Deliver log lines"),
        ("/{index}/_bulk", "_to", "Deliver log lines of one index"),
    )
    for method in ("POST", "PUT")
)  # fmt: skip
router = APIRouter(tags=["logs"])
machine.document(router, MACHINE)
