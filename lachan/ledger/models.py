"""Tables of the ledger. Rows are only ever added, but for the one row of `state` and that of `lease`.

`leaves` gives every sealed event its place. `nodes` keeps the hashes of complete subtrees of 256, 65 536 … leaves (the
entries of the C2SP tiles of level 1 and up), so that a proof reads a few hundred hashes however long the ledger is.
"""

import sqlalchemy as sa

from lachan.database import UtcDateTime, metadata

leaves = sa.Table(
    "ledger_leaves",
    metadata,
    sa.Column("leaf_index", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_seq", sa.BigInteger, nullable=False, unique=True),
    sa.Column("leaf_hash", sa.LargeBinary(32), nullable=False),
)

nodes = sa.Table(
    "ledger_nodes",
    metadata,
    sa.Column("level", sa.Integer, primary_key=True, autoincrement=False, comment="8, 16, 24 …"),
    sa.Column("node_index", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.LargeBinary(32), nullable=False),
)

state = sa.Table(
    "ledger_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False, comment="always 1"),
    sa.Column("size", sa.BigInteger, nullable=False, comment="leaves so far"),
    sa.Column("peaks", sa.LargeBinary, nullable=False, comment="hashes of the perfect subtrees, largest first"),
    sa.Column(
        "position", sa.BigInteger, nullable=False,
        comment="everything below is sealed: a seq on SQLite, a transaction id on PostgreSQL",
    ),
)  # fmt: skip

checkpoints = sa.Table(
    "ledger_checkpoints",
    metadata,
    sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("root", sa.LargeBinary(32), nullable=False),
    sa.Column("note", sa.Text, nullable=False, comment="the signed note, as it was published"),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

lease = sa.Table(
    "ledger_lease",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False, comment="always 1"),
    sa.Column("holder", sa.String(200), nullable=False, comment="the signer that may sign"),
    sa.Column("fence", sa.BigInteger, nullable=False, comment="grows with every intent"),
    sa.Column("until", UtcDateTime, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False, comment="what is to be signed, written before it is"),
    sa.Column("root", sa.LargeBinary(32), nullable=False),
)
