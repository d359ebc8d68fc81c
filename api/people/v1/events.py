"""The feed: every fact in the order of the ledger, for platforms that follow along.

The place of a fact is its leaf index: the sealer gives it out behind its safe horizon, so a reader that remembers `next`
never misses one, also where a transaction with a lower number commits later. Limits: a fact appears when it is sealed,
about a second after it happened; the device's timeline shows it at once.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from api.fields import Whole
from api.people.access import may, runtime
from api.people.redaction import hide
from lachan.identity import Permission, Principal, scope
from lachan.ledger.models import leaves
from lachan.runtime import Runtime
from lachan.work import outbox
from lachan.work.outbox import StoredEvent, events

router = APIRouter(prefix="/api/v1/events", tags=["events"])


class EventOut(BaseModel):
    """One fact."""

    seq: int = Field(description="The order in which it was written down; gaps mean nothing.")
    id: str
    name: str = Field(examples=["DeviceContained"])
    actor: str = Field(examples=["person:an"], description="Who decided it.")
    device_id: str | None
    happened_at: datetime
    recorded_at: datetime
    data: dict[str, Any] | None = Field(description="What it says; null when its body was erased.")

    @classmethod
    def of(cls, stored: StoredEvent) -> "EventOut":
        """Tell what the caller gets of a stored fact."""
        return cls(
            seq=stored.seq,
            id=stored.id,
            name=stored.name,
            actor=stored.actor,
            device_id=stored.device_id,
            happened_at=stored.happened_at,
            recorded_at=stored.recorded_at,
            data=None if stored.event is None else stored.event.body(),
        )


class Feed(BaseModel):
    """A stretch of the feed."""

    events: list[EventOut]
    next: int = Field(description="Send it as `after` to read on; the same number again means that nothing is new.")


def shown_to(connection: sa.Connection, caller: Principal, rows: Sequence[StoredEvent]) -> list[EventOut]:
    """Tell what a caller gets of stored facts: a manufacturer without the ids of other vendors' devices."""
    plain = [EventOut.of(row) for row in rows]
    if caller.vendor is None:
        return plain
    hidden = hide(connection, caller, [event.model_dump(mode="json") for event in plain])
    return [EventOut.model_validate(event) for event in hidden]


@router.get("", summary="Follow the facts")
def read_events(
    caller: Annotated[Principal, Depends(may(Permission.EVENTS_READ))],
    rt: Annotated[Runtime, Depends(runtime)],
    after: Annotated[
        Whole, Query(ge=0, lt=2**63, description="The `next` of the stretch before; 0 from the start.")
    ] = 0,
    limit: Annotated[Whole, Query(ge=1, le=500)] = 100,
    device_id: Annotated[str | None, Query(max_length=36)] = None,
) -> Feed:
    """Give facts after a place, in the ledger's order; a manufacturer gets those about its own devices only."""
    places = sa.select(leaves.c.leaf_index, events).join(events, events.c.seq == leaves.c.event_seq)
    query = places.where(leaves.c.leaf_index >= after).order_by(leaves.c.leaf_index).limit(limit)
    if device_id is not None:
        query = query.where(events.c.device_id == device_id)
    with rt.db.read() as connection:
        rows = connection.execute(scope(caller, query, events.c.vendor)).mappings().all()
        shown = shown_to(connection, caller, outbox.told(rows, device_id=device_id, vendor=caller.vendor))
    return Feed(events=shown, next=rows[-1]["leaf_index"] + 1 if rows else after)
