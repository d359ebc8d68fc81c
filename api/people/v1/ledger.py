"""The ledger over HTTP: key, checkpoint, proof of one fact, export. All of it is verified without us."""

import base64
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field

from api.fields import Moment
from api.people.access import may, runtime
from api.problems import documented
from lachan import devices
from lachan.errors import NotFound
from lachan.identity import Permission, Principal, scope
from lachan.ledger import merkle, sealer, tree
from lachan.ledger.errors import NotSealed
from lachan.ledger.export import Period, export
from lachan.ledger.models import leaves
from lachan.runtime import Runtime
from lachan.work.outbox import events

router = APIRouter(prefix="/api/v1/ledger", tags=["ledger"])
Reader = Annotated[Principal, Depends(may(Permission.LEDGER_READ))]
Open = Annotated[Runtime, Depends(runtime)]
LINES_AT_ONCE = 256


class CheckpointOut(BaseModel):
    """The signed state of the ledger."""

    size: int = Field(description="How many facts it covers.")
    root: str = Field(description="Merkle root, hex.")
    note: str = Field(description="The signed note (C2SP tlog-checkpoint); keep it to find a cut or rewritten ledger.")


class ProofOut(BaseModel):
    """That one fact stands in the ledger (RFC 9162 2.1.3)."""

    index: int
    size: int
    leaf: str = Field(description="Leaf hash, base64.")
    proof: list[str] = Field(description="Inclusion path, base64, from the leaf up.")
    body: str | None = Field(description="The bytes that were hashed; null when they were erased.")
    checkpoint: str = Field(description="The signed note that the proof leads to.")


@router.get("/key", summary="The ledger's public key", response_class=PlainTextResponse)
def read_ledger_key(caller: Reader, rt: Open) -> PlainTextResponse:
    """Give the key that checkpoints are verified with (C2SP signed note verifier key)."""
    try:
        return PlainTextResponse((rt.settings.data / "ledger" / "key").read_text())
    except FileNotFoundError:
        raise NotSealed("This installation has no ledger key yet.") from None


@router.get("/checkpoint", summary="The newest checkpoint", responses=documented(404))
def read_checkpoint(caller: Reader, rt: Open) -> CheckpointOut:
    """Give the newest signed state of the ledger."""
    with rt.db.read() as connection:
        last = sealer.latest(connection)
    if last is None:
        raise NotSealed
    return CheckpointOut(size=last[0].size, root=last[0].root.hex(), note=last[1])


@router.get("/events/{event_id}/proof", summary="Prove one fact", responses=documented(404))
def prove_event(event_id: str, caller: Reader, rt: Open) -> ProofOut:
    """Prove that a fact stands in the ledger; it is sealed about a second after it happened."""
    query = sa.select(leaves.c.leaf_index, leaves.c.leaf_hash, events.c.body)
    query = query.join(events, events.c.seq == leaves.c.event_seq).where(events.c.id == event_id)
    with rt.db.read() as connection:
        last = sealer.latest(connection)
        row = connection.execute(scope(caller, query, events.c.vendor)).first()
        if row is None or last is None or row.leaf_index >= last[0].size:
            raise NotFound(f"No sealed event {event_id}.")
        path = merkle.inclusion_path(row.leaf_index, last[0].size, tree.StoredNodes(connection))
    body = None if row.body is None else bytes(row.body).decode(errors="replace")
    steps = [base64.b64encode(step).decode() for step in path]
    leaf = base64.b64encode(bytes(row.leaf_hash)).decode()
    return ProofOut(index=row.leaf_index, size=last[0].size, leaf=leaf, proof=steps, body=body, checkpoint=last[1])


@router.get("/export", summary="Export for an auditor", response_class=StreamingResponse, responses=documented(404))
def export_ledger(
    caller: Reader,
    rt: Open,
    device_id: Annotated[str | None, Query(max_length=36)] = None,
    vendor: Annotated[str | None, Query(max_length=100)] = None,
    start: Annotated[Moment | None, Query(description="Recorded then or later, RFC 3339.")] = None,
    end: Annotated[Moment | None, Query(description="Recorded before.")] = None,
    since: Annotated[str, Query(max_length=4000, description="An earlier checkpoint's note.")] = "",
) -> StreamingResponse:
    """Give one JSON object per line, as a stream: the facts in scope with proofs, hashes for the rest.

    `lachan ledger verify FILE --key KEY` checks it without us; with `since` it also finds a cut or rewritten ledger.
    """
    if device_id is not None:
        with rt.db.read() as connection:
            devices.get(connection, device_id, principal=caller)
    lines = export(rt, device_id=device_id, vendor=caller.vendor or vendor, period=Period(start, end), since=since)
    disposition = {"Content-Disposition": 'attachment; filename="ledger.ndjson"'}
    return StreamingResponse(_blocks(lines), media_type="application/x-ndjson", headers=disposition)


def _blocks(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Join lines to blocks: each costs the loop one hand-over to a thread. Nothing is held while the reader takes one."""
    while block := b"".join(islice(lines, LINES_AT_ONCE)):
        yield block
