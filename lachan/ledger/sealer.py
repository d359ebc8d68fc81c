"""Seal what is new: leaves, a signed checkpoint, files. Recurring work ``ledger.seal``; sealing is never an event.

Steps, each of which may be the last before a crash: 1. the next events become leaves of the tree, a page a unit;
2. the signer is asked for its last checkpoint, and one that the database does not have yet is stored; 3. what is to be
signed is written down under the lease (`lachan.ledger.lease`); 4. the signer is given size, root and the proof that this
extends its last one; 5. the checkpoint is stored; 6. tiles, the ``checkpoint`` file and the file of all checkpoints are
brought up to it. The signer is never asked inside a transaction. The next run goes on from whatever stands: a leaf is
never appended twice. Limits: on one machine one sealer at a time (a lock file sees to it); posting to a witness comes later.
"""

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import insert_ignore
from lachan.errors import Unavailable
from lachan.ledger import lease, merkle, tiles, tree
from lachan.ledger.errors import LeaseHeld, LedgerDiverged
from lachan.ledger.models import checkpoints
from lachan.ledger.note import Checkpoint
from lachan.log import get as get_logger
from lachan.outage import Outage
from lachan.runtime import Runtime
from lachan.signer.errors import SignerBusy, SignerRefused

BATCH = 500  # events that become leaves in one unit
NOTES = 1000  # checkpoints read at once
TURN = 5.0  # seconds
log = get_logger(__name__)


def seal(rt: Runtime) -> None:
    """Seal what is new, as recurring work: leaves for `TURN` seconds, then the checkpoint; the next turn goes on.

    Without a signer or a database it tries again at the next turn. After a refusal it stops until somebody looked
    (`stopped`): each refusal is an event, and an event a second about the same thing helps nobody.
    """
    if stopped(rt.settings.data):
        return
    try:
        seal_now(rt, turn=TURN)
        rt.keep(_Waits, _Waits).worked()
    except LeaseHeld as error:
        log.info("another signer signs checkpoints", error=str(error))
    except (Unavailable, SignerBusy, sa.exc.OperationalError) as error:
        rt.keep(_Waits, _Waits).failed(error)
    except LedgerDiverged as error:
        log.error("the ledger is stopped", error=str(error))


def seal_now(rt: Runtime, *, turn: float | None = None) -> int:
    """Seal all that is safe to seal and publish it.

    Args:
        rt: an open installation.
        turn: append leaves for so many seconds at most; until none waits by default.

    Returns:
        The number of leaves under the newest checkpoint.

    Raises:
        SignerUnavailable: the signer does not answer; leaves are appended, the checkpoint comes later.
        LeaseHeld: another signer signs checkpoints.
        LedgerDiverged: the signer refuses, because its last checkpoint is not of this database.
    """
    folder = rt.settings.data / "ledger"
    folder.mkdir(mode=0o700, exist_ok=True)
    with _alone(folder):
        _append_leaves(rt, turn)
        try:
            size = _sign(rt)
        except LedgerDiverged as error:
            (folder / "stopped").write_text(error.detail + "\n")
            raise
        _publish(rt, folder)
        (folder / "stopped").unlink(missing_ok=True)
    return size


def stopped(data: Path) -> str:
    """Say why recurring sealing is stopped, empty when it is not; `seal_now` tries again and lifts it."""
    try:
        return (data / "ledger" / "stopped").read_text().strip()
    except FileNotFoundError:
        return ""


def reached(step: str) -> None:
    """Mark a boundary between two steps; fault tests end the process here."""


def latest(connection: sa.Connection) -> tuple[Checkpoint, str] | None:
    """Read the newest stored checkpoint and its signed note."""
    row = connection.execute(sa.select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)).first()
    return None if row is None else (Checkpoint(row.note.split("\n", 1)[0], row.size, bytes(row.root)), row.note)


def _append_leaves(rt: Runtime, turn: float | None) -> None:
    with rt.db.read() as connection:
        if not tree.waiting(connection):
            return
    began = time.monotonic()
    while rt.db.run(lambda connection: tree.append(connection, limit=BATCH)) >= BATCH:
        if turn is not None and time.monotonic() - began > turn:
            return


def _sign(rt: Runtime) -> int:
    """Have the tree signed as it stands; give the size of the newest checkpoint."""
    with rt.db.read() as connection:
        edge, known, seen = tree.frontier(connection), latest(connection), lease.read(connection)
    size = known[0].size if known else 0
    if edge.size == size and seen.size <= size:
        return size
    told = _ask(rt)
    last = Checkpoint("", int(told["size"]), told["root"])
    with rt.db.read() as connection:
        nodes = tree.StoredNodes(connection)
        ours = [point.size <= edge.size and merkle.tree_root(point.size, nodes) == point.root for point in (last, seen)]
        old = min(last.size, edge.size)
        proof = merkle.consistency_path(old, edge.size, nodes)
    if ours[0] and told["note"] and last.size > size:
        _store(rt, last, told["note"])  # a crash came between its signature and its row
    reached("ledger.before-signing")
    point, fence = Checkpoint("", edge.size, edge.root()), 0
    if all(ours):
        wanted = {"holder": told["signer"], "size": point.size, "root": point.root}
        fence = rt.db.run(lambda connection: lease.take(connection, seen=seen, **wanted)).fence
    reached("ledger.intended")
    answer = _ask(rt, size=point.size, root=point.root, old_size=old, proof=proof, fence=fence)
    if "unsigned" in answer and not fence:  # the signer would sign it, but its predecessors are not of this tree
        raise LedgerDiverged(f"What was to be signed last, {seen.size} leaves, is not of this tree of {edge.size}.")
    if "unsigned" in answer:
        raise LeaseHeld("Another signer or sealer went on in the meantime.")
    reached("ledger.signed")
    _store(rt, point, str(answer["note"]))
    reached("ledger.stored")
    return point.size


def _ask(rt: Runtime, **fields: Any) -> dict[str, Any]:
    """Ask the signer for a checkpoint, or without fields for its last one.

    Raises:
        LedgerDiverged: it refuses.
    """
    try:
        return rt.signer.request("checkpoint", **fields)
    except SignerBusy:
        raise
    except SignerRefused as error:
        raise LedgerDiverged(f"The signer refuses the tree: {error.detail}") from error


def _store(rt: Runtime, point: Checkpoint, note: str) -> None:
    values = {"size": point.size, "root": point.root, "note": note, "created_at": clock.now()}
    rt.db.run(lambda connection: insert_ignore(connection, checkpoints, values, index=("size",)))


def _publish(rt: Runtime, folder: Path) -> None:
    """Bring the files up to the newest checkpoint; the database is read a tile or a page at a time."""
    done = tiles.published(folder)
    with rt.db.read() as connection:
        last = latest(connection)
    if last is None or last[0].size == done:
        return

    def tile(level: int, index: int) -> list[bytes]:
        with rt.db.read() as connection:
            return tree.StoredNodes(connection).tile(level, index)

    tiles.write_tiles(folder, old=done, new=last[0].size, tile=tile)
    appended = tiles.last_appended(folder)
    while rows := _notes_after(rt, appended):
        tiles.append_checkpoints(folder, [row.note for row in rows])
        appended = rows[-1].size
    reached("ledger.appended")
    tiles.write_checkpoint(folder, last[1])


def _notes_after(rt: Runtime, size: int) -> Sequence[Any]:
    query = sa.select(checkpoints.c.size, checkpoints.c.note).where(checkpoints.c.size > size)
    with rt.db.read() as connection:
        return connection.execute(query.order_by(checkpoints.c.size).limit(NOTES)).all()


class _Waits(Outage):
    """Whether the sealer waits; kept with the runtime, so that it is said once."""

    def __init__(self) -> None:
        super().__init__("the ledger waits for the signer or the database")

    def close(self) -> None:
        """Nothing is kept open."""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
