"""Write an export (`lachan.ledger.document`) of the whole ledger, or of one device, vendor or period.

Everything refers to the newest signed checkpoint. Events in scope leave with their stored bytes and inclusion proofs;
whatever else the tree holds leaves as hashes of the largest subtrees without an event in scope, so that the root can be
computed again. The database is read in pages, each in a short transaction of its own: sealed rows never change, so pages
fit together however long the reader takes, and memory is that of one page. An event erased meanwhile leaves as erased.
Limits: a database that goes away in the middle ends the export without its last line, and `verify` says that it was cut.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import Database
from lachan.ledger import document, merkle, sealer, tree
from lachan.ledger.document import FORMAT, SECTION, ExportScope, b64, encode
from lachan.ledger.errors import NoteRefused, NotSealed
from lachan.ledger.models import leaves
from lachan.ledger.note import Checkpoint, parse_checkpoint
from lachan.runtime import Runtime
from lachan.work.outbox import events

WALK = 16 * SECTION  # leaves looked through in one transaction
FEW = 2000  # events that are found by device or vendor at once, without walking the tree


@dataclass(frozen=True)
class Period:
    """When the events of an export were recorded: ``start`` inclusive, ``end`` exclusive."""

    start: datetime | None = None
    end: datetime | None = None


def export(
    rt: Runtime, *, device_id: str | None = None, vendor: str | None = None, period: Period = Period(), since: str = ""
) -> Iterator[bytes]:
    """Give the lines of an export, one after another; no connection is held between two pages.

    Args:
        rt: an open installation.
        device_id: only events about this device.
        vendor: only events of this vendor.
        period: only events recorded then.
        since: an earlier signed checkpoint; the proof from it goes into the header.

    Raises:
        NotSealed: there is no checkpoint yet; at once, before any line.
        NoteRefused: ``since`` is no checkpoint, or of a larger tree; at once.
    """
    start, end = (clock.iso(moment) if moment else None for moment in (period.start, period.end))
    scope = ExportScope(device_id, vendor, start, end)
    with rt.db.read() as connection:
        last = sealer.latest(connection)
        if last is None:
            raise NotSealed("The ledger has no checkpoint yet.")
        point, note = last
        earlier = _earlier(since, point, tree.StoredNodes(connection))
    head = {
        "type": "header", "format": FORMAT, "origin": point.origin, "size": point.size, "checkpoint": note,
        "scope": scope.json(), "since": earlier, "made_at": clock.iso(clock.now()),
    }  # fmt: skip
    return _with_end(encode(head), _Walk(rt.db, point, _Filter(device_id, vendor, period)).lines())


def _with_end(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    digest, count = hashlib.sha256(head), 1
    yield head
    for line in rest:
        digest.update(line)
        count += 1
        yield line
    yield encode({"type": "end", "lines": count, "sha256": digest.hexdigest()})


def _earlier(since: str, point: Checkpoint, nodes: merkle.Nodes) -> dict[str, Any] | None:
    if not since:
        return None
    old = parse_checkpoint(since)
    if old.size > point.size:
        raise NoteRefused(
            f"The earlier checkpoint has {old.size} events, this ledger {point.size}: its tail is missing."
        )
    proof = merkle.consistency_path(old.size, point.size, nodes)
    return {"checkpoint": since, "proof": [b64(step) for step in proof]}


@dataclass(frozen=True)
class _Filter:
    """The scope as conditions on rows."""

    device_id: str | None
    vendor: str | None
    period: Period

    def conditions(self, *, by_index: bool) -> list[sa.ColumnElement[bool]]:
        """List the conditions; without ``by_index`` they are spelt so that no index is used for device and vendor."""
        found: list[sa.ColumnElement[bool]] = []
        for column, wanted in ((events.c.device_id, self.device_id), (events.c.vendor, self.vendor)):
            if wanted is not None:
                found.append((column if by_index else sa.func.coalesce(column, "")) == wanted)
        if self.period.start is not None:
            found.append(events.c.recorded_at >= self.period.start)
        if self.period.end is not None:
            found.append(events.c.recorded_at < self.period.end)
        return found

    def few(self, connection: sa.Connection) -> bool:
        """Tell whether an index finds all of it in one small page."""
        if self.device_id is None and self.vendor is None:
            return False
        found = sa.select(events.c.seq).where(*self.conditions(by_index=True)).limit(FEW + 1).subquery()
        return connection.execute(sa.select(sa.func.count()).select_from(found)).scalar_one() <= FEW


class _Walk:
    """One way through the tree, from the first leaf to the last."""

    def __init__(self, db: Database, point: Checkpoint, scope: _Filter) -> None:
        self._db, self._point, self._scope = db, point, scope
        self._next = 0  # leaf up to which lines were written

    def lines(self) -> Iterator[bytes]:
        """Give the lines between header and end."""
        size = self._point.size
        with self._db.read() as connection:
            few = self._scope.few(connection)
        for first in range(0, size, max(1, size) if few else WALK):
            with self._db.read() as connection:
                page = self._page(connection, first, size if few else min(first + WALK, size), by_index=few)
            yield from page
        with self._db.read() as connection:
            rest = self._hashes(size, tree.StoredNodes(connection))
        yield from rest

    def _page(self, connection: sa.Connection, first: int, upto: int, *, by_index: bool) -> list[bytes]:
        """Write the events between two leaves, and the hashes before each; those behind the last are left for later."""
        query = sa.select(leaves.c.leaf_index, leaves.c.leaf_hash, events.c.id, events.c.name, events.c.body)
        query = query.join(events, events.c.seq == leaves.c.event_seq).order_by(leaves.c.leaf_index)
        query = query.where(leaves.c.leaf_index >= first, leaves.c.leaf_index < upto)
        rows = connection.execute(query.where(*self._scope.conditions(by_index=by_index))).all()
        nodes = tree.StoredNodes(connection)
        paths, written = tree.Paths(nodes, self._point.size), []
        for place, row in enumerate(rows):
            if place % SECTION == 0:
                listed = [[r.leaf_index, r.id, r.name] for r in rows[place : place + SECTION]]
                written.append(encode({"type": "contents", "events": listed}))
            written += self._hashes(row.leaf_index, nodes)
            written.append(_event(row, paths.to(row.leaf_index)))
            self._next = row.leaf_index + 1
        return written

    def _hashes(self, upto: int, nodes: merkle.Nodes) -> list[bytes]:
        """Write the subtrees from where the lines end up to a leaf."""
        ranges = merkle.subtrees(self._next, upto, self._point.size)
        return [
            encode({"type": "hash", "start": lo, "end": hi, "hash": b64(merkle.range_hash(lo, hi, nodes))})
            for lo, hi in ranges
        ]


def _event(row: Any, proof: list[str]) -> bytes:
    if row.body is None:
        return encode(
            {"type": "erased", "index": row.leaf_index, "id": row.id, "name": row.name, "leaf": b64(bytes(row.leaf_hash)),
             "proof": proof}
        )  # fmt: skip
    # A body that somebody damaged may be no UTF-8 any more; it must still be exported, and then be refused by name.
    return document.encode_event(row.leaf_index, bytes(row.body).decode(errors="replace"), proof)
