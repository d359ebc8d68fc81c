"""Writes an export (`lachan.ledger.document`) of the whole ledger, or of one device, vendor or period.

Everything refers to the newest signed checkpoint. Events in scope leave with their stored bytes and inclusion proofs;
whatever else the tree holds leaves as hashes of the largest subtrees without an event in scope, so that the root can be
computed again. Limits: the table of contents (three short values per event) is held in memory.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.ledger import document, merkle, sealer, tree
from lachan.ledger.document import FORMAT, Scope, b64, encode
from lachan.ledger.errors import NoteRefused, NotSealed
from lachan.ledger.models import leaves
from lachan.ledger.note import Checkpoint, parse_checkpoint
from lachan.outbox import events
from lachan.runtime import Runtime

CHUNK = 200


@dataclass(frozen=True)
class Period:
    """When the events of an export were recorded: ``start`` inclusive, ``end`` exclusive."""

    start: datetime | None = None
    end: datetime | None = None


def export(
    rt: Runtime, *, device_id: str | None = None, vendor: str | None = None, period: Period = Period(), since: str = ""
) -> Iterator[bytes]:
    """The lines of an export.

    Args:
        rt: an open installation.
        device_id: only events about this device.
        vendor: only events of this vendor.
        period: only events recorded then.
        since: an earlier signed checkpoint; the proof from it goes into the header.

    Raises:
        NotSealed: there is no checkpoint yet.
        NoteRefused: ``since`` is no checkpoint, or of a larger tree.
    """
    digest, count = hashlib.sha256(), 0
    for value in _values(rt, device_id, vendor, period, since):
        line = encode(value)
        digest.update(line)
        count += 1
        yield line
    yield encode({"type": "end", "lines": count, "sha256": digest.hexdigest()})


def _values(
    rt: Runtime, device_id: str | None, vendor: str | None, period: Period, since: str
) -> Iterator[dict[str, Any]]:
    with rt.db.read() as connection:
        last = sealer.latest(connection)
        if last is None:
            raise NotSealed("The ledger has no checkpoint yet.")
        point, note = last
        scope = Scope(
            device_id,
            vendor,
            clock.iso(period.start) if period.start else None,
            clock.iso(period.end) if period.end else None,
        )
        contents = _contents(connection, point, scope, period)
        nodes = tree.StoredNodes(connection)
        yield {
            "type": "header", "format": FORMAT, "origin": point.origin, "size": point.size, "checkpoint": note,
            "scope": scope.json(), "contents": contents, "since": _earlier(since, point, nodes),
            "made_at": clock.iso(clock.now()),
        }  # fmt: skip
        indexes = [index for index, _, _ in contents]
        bodies = _bodies(connection, indexes)
        for lo, hi in _spans(indexes, point.size):
            if bisect_left(indexes, hi) == bisect_left(indexes, lo):
                yield {"type": "hash", "start": lo, "end": hi, "hash": b64(merkle.range_hash(lo, hi, nodes))}
            else:
                yield _event(next(bodies), point, nodes)


def _contents(connection: sa.Connection, point: Checkpoint, scope: Scope, period: Period) -> list[tuple[int, str, str]]:
    query = sa.select(leaves.c.leaf_index, events.c.id, events.c.name).join(events, events.c.seq == leaves.c.event_seq)
    query = query.where(leaves.c.leaf_index < point.size).order_by(leaves.c.leaf_index)
    if scope.device_id is not None:
        query = query.where(events.c.device_id == scope.device_id)
    if scope.vendor is not None:
        query = query.where(events.c.vendor == scope.vendor)
    if period.start is not None:
        query = query.where(events.c.recorded_at >= period.start)
    if period.end is not None:
        query = query.where(events.c.recorded_at < period.end)
    return [(index, event_id, name) for index, event_id, name in connection.execute(query)]


def _bodies(connection: sa.Connection, indexes: list[int]) -> Iterator[Any]:
    columns = sa.select(leaves.c.leaf_index, leaves.c.leaf_hash, events.c.id, events.c.name, events.c.body)
    query = columns.join(events, events.c.seq == leaves.c.event_seq).order_by(leaves.c.leaf_index)
    for first in range(0, len(indexes), CHUNK):
        yield from connection.execute(query.where(leaves.c.leaf_index.in_(indexes[first : first + CHUNK]))).all()


def _event(row: Any, point: Checkpoint, nodes: merkle.Nodes) -> dict[str, Any]:
    proof = [b64(step) for step in merkle.inclusion_path(row.leaf_index, point.size, nodes)]
    if row.body is None:
        return {
            "type": "erased", "index": row.leaf_index, "id": row.id, "name": row.name,
            "leaf": b64(bytes(row.leaf_hash)), "proof": proof,
        }  # fmt: skip
    # A body that somebody damaged may be no UTF-8 any more; it must still be exported, and then be refused by name.
    text = bytes(row.body).decode(errors="replace")
    return {"type": "event", "index": row.leaf_index, "body": text, "proof": proof}


def _spans(indexes: list[int], size: int) -> Iterator[merkle.Range]:
    """The tree cut into single events in scope and the largest subtrees without any, in order."""
    stack = [(0, size)] if size else []
    while stack:
        lo, hi = stack.pop()
        if hi - lo == 1 or bisect_left(indexes, hi) == bisect_left(indexes, lo):
            yield lo, hi
            continue
        middle = lo + (1 << (hi - lo - 1).bit_length() - 1)
        stack += [(middle, hi), (lo, middle)]


def _earlier(since: str, point: Checkpoint, nodes: merkle.Nodes) -> dict[str, Any] | None:
    if not since:
        return None
    old = parse_checkpoint(since)
    if old.size > point.size:
        raise NoteRefused(
            f"The earlier checkpoint has {old.size} events, this ledger {point.size}: its tail is missing."
        )
    proof = merkle.consistency_path(old.size, point.size, nodes)
    return {"checkpoint": since, "proof": [document.b64(step) for step in proof]}
