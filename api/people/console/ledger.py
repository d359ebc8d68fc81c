"""The ledger: can I prove it? The last checkpoint, the key, the export, and the commands that verify it offline."""

from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from api.people.access import may, runtime
from api.people.console import pages
from api.people.v1.events import shown_to
from lachan.identity import Permission, Principal
from lachan.ledger import sealer
from lachan.ledger.models import checkpoints, leaves
from lachan.runtime import Runtime
from lachan.work import outbox
from lachan.work.outbox import events

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
_NEWEST = 25


@router.get("/ledger")
def ledger_page(
    request: Request,
    caller: Annotated[Principal, Depends(may(Permission.LEDGER_READ))],
    rt: Annotated[Runtime, Depends(runtime)],
) -> Response:
    """The last checkpoint, what waits to be sealed, the newest facts, and how to verify."""
    with rt.db.read() as connection:
        last = sealer.latest(connection)
        number = connection.execute(sa.select(sa.func.count()).select_from(checkpoints)).scalar_one()
        newest = connection.execute(sa.select(sa.func.max(events.c.seq))).scalar()
        sealed = connection.execute(sa.select(sa.func.max(leaves.c.event_seq))).scalar()
        rows = outbox.read(connection, limit=_NEWEST, newest_first=True, vendor=caller.vendor)
        facts = shown_to(connection, caller, rows)
    try:
        key = (rt.settings.data / "ledger" / "key").read_text().strip()
    except OSError:
        key = ""
    return pages.render(
        request, "ledger.html", last=last[0] if last else None, note=last[1] if last else "", number=number, key=key,
        sealed=(newest or 0) == (sealed or 0), stopped=sealer.stopped(rt.settings.data), facts=facts,
    )  # fmt: skip
