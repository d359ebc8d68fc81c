"""The lease of the ledger's key: exactly one signer signs checkpoints, and only what was written down before.

One row: holder, fence, end, and the checkpoint that is to be signed. `take` writes it in one short unit, under the row's
lock; the signer reads it again before it signs. So whatever two signers do at whatever speed, everything that either of
them signs stands in one row after another, each extending the one before, and there are never two checkpoints of one size.
The end of the lease only decides whose turn it is. Limits: a holder that is gone keeps the others waiting for `TERM`; who
rules the database and two signers with one key can have two histories signed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from lachan import clock
from lachan.database import for_update, insert_ignore
from lachan.ledger.errors import LeaseHeld
from lachan.ledger.merkle import EMPTY_ROOT
from lachan.ledger.models import lease

TERM = timedelta(seconds=10)


@dataclass(frozen=True)
class Lease:
    """Who may sign under which fence, and what: ``size`` leaves under ``root``."""

    holder: str = ""
    fence: int = 0
    size: int = 0
    root: bytes = EMPTY_ROOT


def read(connection: sa.Connection) -> Lease:
    """Read the lease as it stands; an empty one before the first."""
    row = connection.execute(sa.select(lease)).first()
    return Lease() if row is None else Lease(row.holder, row.fence, row.size, bytes(row.root))


def take(connection: sa.Connection, *, seen: Lease, holder: str, size: int, root: bytes) -> Lease:
    """Write down what is to be signed: a unit of work.

    Args:
        connection: of the unit.
        seen: the lease that the caller read, and whose tree it has checked to be extended by the new one.
        holder: name of the signer that will be asked.
        size: leaves of the new checkpoint.
        root: its root.

    Raises:
        LeaseHeld: another signer holds it, or somebody has written since.
    """
    now = _now(connection)
    empty = {"id": 1, "holder": "", "fence": 0, "until": now, "size": 0, "root": EMPTY_ROOT}
    insert_ignore(connection, lease, empty, index=("id",))
    row = connection.execute(for_update(sa.select(lease), connection)).one()
    if row.fence != seen.fence:
        raise LeaseHeld("Another sealer was faster.")
    if row.holder not in ("", holder) and now < row.until <= now + TERM:  # one that ends later is void
        raise LeaseHeld(f"{row.holder} signs checkpoints until {clock.iso(row.until)}.")
    new = Lease(holder, row.fence + 1, size, root)
    connection.execute(lease.update().values(holder=holder, fence=new.fence, until=now + TERM, size=size, root=root))
    return new


def _now(connection: sa.Connection) -> datetime:
    """Read the database's clock: on SQLite it is this machine's."""
    if connection.dialect.name == "sqlite":
        return clock.now()
    found: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return found
