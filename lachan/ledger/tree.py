"""The tree as the database holds it: appending sealed events, and the hash of any node.

`append` works behind a safe horizon. On SQLite the order of commit is the order of ``seq``. On PostgreSQL a transaction
with a lower ``seq`` may commit later, so only rows whose transaction id is below ``pg_snapshot_xmin`` are taken: every
transaction below it has ended, nothing can still appear there. Leaves are ordered by (transaction id, seq). Limits: one
transaction left open holds the seal back; after a restore into a new cluster, whose transaction ids start over, the whole
table is looked through once.
"""

import base64
from collections import OrderedDict
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lachan.database import for_update, insert_ignore
from lachan.ledger import merkle
from lachan.ledger.merkle import HASH_SIZE, Frontier, node_hash
from lachan.ledger.models import leaves, nodes, state
from lachan.work.outbox import events

TILE_HEIGHT = 8  # levels that one C2SP tile spans
TILE_WIDTH = 1 << TILE_HEIGHT
TILES_KEPT = 64
_XMIN = sa.text(
    "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() s"
)


class StoredNodes:
    """`lachan.ledger.merkle.Nodes` over the database, for one use inside one connection.

    Stored are leaves, and nodes every eight levels; what lies between is computed from tiles of at most 256 hashes.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._tiles: OrderedDict[tuple[int, int], list[list[bytes]]] = OrderedDict()

    def __call__(self, level: int, index: int) -> bytes:
        """Give the hash of a complete node.

        Raises:
            LookupError: it is not complete yet.
        """
        tile_level, height = divmod(level, TILE_HEIGHT)
        tile, offset = divmod(index, TILE_WIDTH >> height)
        row = self._levels(tile_level, tile)[height]
        if offset >= len(row):
            raise LookupError(f"node {index} of level {level} is not complete")
        return row[offset]

    def tile(self, tile_level: int, tile: int) -> list[bytes]:
        """Give the hashes of one C2SP tile, as many as are there (0 to 256)."""
        return self._levels(tile_level, tile)[0]

    def rows(self, tile: int) -> list[list[bytes]]:
        """Give the leaves of one tile and the seven levels above them inside the tile."""
        return self._levels(0, tile)

    def _levels(self, tile_level: int, tile: int) -> list[list[bytes]]:
        """Give one tile and the seven levels above it inside the tile; the last used ones are remembered."""
        key = (tile_level, tile)
        if key in self._tiles:
            self._tiles.move_to_end(key)
            return self._tiles[key]
        first, last = tile * TILE_WIDTH, (tile + 1) * TILE_WIDTH
        if tile_level == 0:
            query = sa.select(leaves.c.leaf_hash).order_by(leaves.c.leaf_index)
            query = query.where(leaves.c.leaf_index >= first, leaves.c.leaf_index < last)
        else:
            query = sa.select(nodes.c.hash).order_by(nodes.c.node_index)
            query = query.where(nodes.c.level == tile_level * TILE_HEIGHT)
            query = query.where(nodes.c.node_index >= first, nodes.c.node_index < last)
        rows = [[bytes(found) for found in self._connection.execute(query).scalars()]]
        for _ in range(TILE_HEIGHT - 1):
            below = rows[-1]
            rows.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
        self._tiles[key] = rows
        if len(self._tiles) > TILES_KEPT:
            self._tiles.popitem(last=False)
        return rows


class Paths:
    """Inclusion proofs in base64 for leaves that are asked in order: what a tile's leaves share is made once.

    Args:
        nodes: the tree.
        size: its leaves.
    """

    def __init__(self, nodes: StoredNodes, size: int) -> None:
        self._nodes, self._size = nodes, size
        self._tile = -1
        self._inside: list[list[str]] = []
        self._above: list[str] = []

    def to(self, index: int) -> list[str]:
        """Give the proof of one leaf, from the leaf up."""
        tile = index // TILE_WIDTH
        if (tile + 1) * TILE_WIDTH > self._size:  # the right edge: its tile is not whole
            return [_base64(step) for step in merkle.inclusion_path(index, self._size, self._nodes)]
        if tile != self._tile:
            self._tile = tile
            self._inside = [[_base64(node) for node in row] for row in self._nodes.rows(tile)]
            ranges = merkle.inclusion_ranges(tile * TILE_WIDTH, self._size)[TILE_HEIGHT:]
            self._above = [_base64(merkle.range_hash(lo, hi, self._nodes)) for lo, hi in ranges]
        offset = index % TILE_WIDTH
        return [row[offset >> level ^ 1] for level, row in enumerate(self._inside)] + self._above


def frontier(connection: sa.Connection) -> Frontier:
    """Give the right edge of the tree as it was last appended to."""
    row = connection.execute(sa.select(state.c.size, state.c.peaks)).first()
    return Frontier() if row is None else Frontier(row.size, _split(bytes(row.peaks)))


def append(connection: sa.Connection, *, limit: int) -> int:
    """Give the next unsealed events their places, in the caller's transaction.

    Args:
        connection: an open `Database.write`.
        limit: at most so many.

    Returns:
        How many; fewer than ``limit`` means that all that is safe is sealed.
    """
    insert_ignore(connection, state, {"id": 1, "size": 0, "peaks": b"", "position": 0}, index=("id",))
    row = connection.execute(for_update(sa.select(state), connection)).one()
    edge = Frontier(row.size, _split(bytes(row.peaks)))
    found, position = _unsealed(connection, row.position, limit)
    new_leaves, new_nodes = [], []
    for event in found:
        new_leaves.append({"leaf_index": edge.size, "event_seq": event.seq, "leaf_hash": bytes(event.leaf_hash)})
        for level, index, digest in edge.append(bytes(event.leaf_hash)):
            if level % TILE_HEIGHT == 0:
                new_nodes.append({"level": level, "node_index": index, "hash": digest})
    if new_leaves:
        connection.execute(leaves.insert(), new_leaves)
    if new_nodes:
        connection.execute(nodes.insert(), new_nodes)
    if new_leaves or position != row.position:
        connection.execute(state.update().values(size=edge.size, peaks=b"".join(edge.peaks), position=position))
    return len(found)


def waiting(connection: sa.Connection) -> tuple[int, datetime] | None:
    """Give an event that may not be sealed yet: a cheap look that keeps an idle sealer off the write lock.

    Returns:
        Its number and when it was recorded, of the first one; None when all is sealed.
    """
    row = connection.execute(sa.select(state.c.position)).first()
    position = 0 if row is None else row.position
    if connection.dialect.name == "sqlite":
        query = sa.select(events.c.seq, events.c.recorded_at).where(events.c.seq > position).order_by(events.c.seq)
    else:
        _, highest = connection.execute(_XMIN).one()
        query = sa.select(events.c.seq, events.c.recorded_at).where(_not_sealed()).order_by(events.c.txid, events.c.seq)
        if position <= highest:
            query = query.where(events.c.txid >= position)
    row = connection.execute(query.limit(1)).first()
    return None if row is None else (row.seq, row.recorded_at)


def _unsealed(connection: sa.Connection, position: int, limit: int) -> tuple[list[Any], int]:
    """Give the next events that are safe to seal, in tree order, and the position behind them."""
    columns = sa.select(events.c.seq, events.c.leaf_hash, events.c.txid).limit(limit)
    if connection.dialect.name == "sqlite":
        found = list(connection.execute(columns.where(events.c.seq > position).order_by(events.c.seq)))
        return found, found[-1].seq if found else position
    lowest, highest = connection.execute(_XMIN).one()
    query = columns.where(_not_sealed()).order_by(events.c.txid, events.c.seq)
    if position > highest:  # restored into a cluster that counts from the start: ids of the old one mean nothing
        found = list(connection.execute(query.where(sa.or_(events.c.txid < lowest, events.c.txid >= highest))))
        return found, lowest if len(found) < limit else position
    found = list(connection.execute(query.where(events.c.txid >= position, events.c.txid < lowest)))
    return found, max(position, lowest) if len(found) < limit else found[-1].txid


def _not_sealed() -> sa.ColumnElement[bool]:
    return ~sa.exists().where(leaves.c.event_seq == events.c.seq)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _split(peaks: bytes) -> list[bytes]:
    return [peaks[i : i + HASH_SIZE] for i in range(0, len(peaks), HASH_SIZE)]
