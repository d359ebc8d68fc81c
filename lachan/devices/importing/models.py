"""The tables of imports, and one import as its readers meet it.

An import is a row; what its file said lies in the blob store (its id with `ROWS` and `REFUSED`), so that no table and no
transaction grows with a file. ``open_key`` and ``request_key`` are unique: one open import per file and sender, one per
Idempotency-Key. Rows refused only when they were applied are few, and stand in a table.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from lachan.blobs import BlobStore, blobs
from lachan.database import Json, UtcDateTime, metadata
from lachan.settings import Settings

AREA = "imports"  # of the blob store
ROWS, REFUSED = ".rows", ".refused"  # after an import's id: its blobs of good rows still to be applied, and of bad ones


class ImportState(StrEnum):
    """How far an import is; it was validated before it has a row."""

    APPLYING = "applying"
    DONE = "done"


imports = sa.Table(
    "imports",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("vendor", sa.String(100)),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("open_key", sa.String(64), unique=True),
    sa.Column("request_key", sa.String(64), unique=True),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("accepted", sa.Integer, nullable=False),
    sa.Column("rejected", sa.Integer, nullable=False),
    sa.Column("chunk", sa.Integer, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("peaks", sa.LargeBinary, nullable=False),
    sa.Column("merkle_root", sa.String(64)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime, index=True),
)

refusals = sa.Table(
    "import_refusals",
    metadata,
    sa.Column("import_id", sa.String(36), sa.ForeignKey("imports.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("row", sa.Integer, primary_key=True),
    sa.Column("column", sa.String(80), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("values", Json, nullable=False),
)


@dataclass(frozen=True)
class Import:
    """One import.

    Attributes:
        id: its id; in every fact about it.
        actor: who sent the file, as the ledger names them.
        vendor: of a manufacturer who did; None for those who see all vendors.
        sha256: of the file.
        state: how far it is.
        rows: rows of the file.
        accepted: rows whose device is registered.
        rejected: rows that were not taken, in validation or because somebody was quicker.
        chunk: number of the next chunk.
        position: byte of the blob of good rows at which that chunk begins.
        peaks: hashes of the tree over the chunks' roots so far (`lachan.merkle.Frontier`), one after the other.
        merkle_root: of that tree, at the end.
        created_at: when it was validated.
        finished_at: when its last chunk was applied.
    """

    id: str
    actor: str
    vendor: str | None
    sha256: str
    state: ImportState
    rows: int
    accepted: int
    rejected: int
    chunk: int
    position: int
    peaks: bytes
    merkle_root: str | None
    created_at: datetime
    finished_at: datetime | None

    @property
    def done(self) -> int:
        """Rows of which it is known what became of them."""
        return self.accepted + self.rejected

    @classmethod
    def of(cls, row: Any) -> "Import":
        """Give an import of its row (a mapping)."""
        known = {one.name: row[one.name] for one in fields(cls)}
        return cls(**{**known, "state": ImportState(row["state"])})


def store(settings: Settings) -> BlobStore:
    """Open the blobs of imports."""
    return blobs(settings, AREA)
