"""Seals what is new: leaves, then a signed checkpoint, then files. Recurring work ``ledger.seal``; sealing is never an event.

Steps, each of which may be the last before a crash: 1. the next events get their places in the tree, in one transaction per
batch; 2. the signer is given size, root and the proof that this extends its last checkpoint; 3. the checkpoint is stored;
4. tiles, the ``checkpoint`` file and the file of all checkpoints are brought up to it. The next run goes on from whatever
stands: places are never given anew, so a signer that is one checkpoint ahead of the database is met again. Limits: one
sealer at a time on the signer's machine (a lock file sees to it); posting to a witness comes later.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from lachan import clock
from lachan.database import insert_ignore
from lachan.ledger import merkle, tiles, tree
from lachan.ledger.errors import LedgerDiverged
from lachan.ledger.models import checkpoints
from lachan.ledger.note import Checkpoint
from lachan.log import get as get_logger
from lachan.runtime import Runtime
from lachan.signer.errors import SignerBusy, SignerRefused, SignerUnavailable

BATCH = 5000
log = get_logger(__name__)


def seal(rt: Runtime) -> None:
    """Seal what is new, as recurring work.

    Without a signer it tries again at the next turn. After a refusal it stops until somebody looked (`stopped`): each
    refusal is an event, and an event a second about the same thing helps nobody.
    """
    if stopped(rt.settings.data):
        return
    try:
        seal_now(rt)
    except (SignerUnavailable, SignerBusy) as error:
        log.warning("the ledger waits for the signer", error=str(error))
    except LedgerDiverged as error:
        log.error("the ledger is stopped", error=str(error))


def seal_now(rt: Runtime) -> int:
    """Seal all that is safe to seal and publish it.

    Returns:
        The number of leaves under the newest checkpoint.

    Raises:
        SignerUnavailable: the signer does not answer; places are given, the checkpoint comes later.
        LedgerDiverged: the signer refuses, because its last checkpoint is not of this database.
    """
    folder = rt.settings.data / "ledger"
    folder.mkdir(mode=0o700, exist_ok=True)
    with _alone(folder):
        _give_places(rt)
        try:
            size = _sign(rt)
        except LedgerDiverged as error:
            (folder / "stopped").write_text(error.detail + "\n")
            raise
        _publish(rt, folder)
        (folder / "stopped").unlink(missing_ok=True)
    return size


def stopped(data: Path) -> str:
    """Why recurring sealing is stopped, empty when it is not; `seal_now` tries again and lifts it."""
    try:
        return (data / "ledger" / "stopped").read_text().strip()
    except FileNotFoundError:
        return ""


def reached(step: str) -> None:
    """A boundary between two steps; fault tests end the process here."""


def latest(connection: sa.Connection) -> tuple[Checkpoint, str] | None:
    """The newest stored checkpoint and its signed note."""
    row = connection.execute(sa.select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)).first()
    return None if row is None else (Checkpoint(row.note.split("\n", 1)[0], row.size, bytes(row.root)), row.note)


def _give_places(rt: Runtime) -> None:
    with rt.db.read() as connection:
        if not tree.waiting(connection):
            return
    while True:
        with rt.db.write() as connection:
            if tree.append(connection, limit=BATCH) < BATCH:
                return


def _sign(rt: Runtime) -> int:
    """Have the tree signed as it stands; gives its size."""
    with rt.db.read() as connection:
        edge, last = tree.frontier(connection), latest(connection)
    known = last[0].size if last else 0
    if edge.size == known:
        return known
    reached("ledger.before-signing")
    note = _ask(rt, edge, known)
    reached("ledger.signed")
    with rt.db.write() as connection:
        values = {"size": edge.size, "root": edge.root(), "note": note, "created_at": clock.now()}
        insert_ignore(connection, checkpoints, values, index=("size",))
    reached("ledger.stored")
    return edge.size


def _ask(rt: Runtime, edge: merkle.Frontier, known: int) -> str:
    """The signed note of the tree; proves from the signer's last checkpoint, wherever that is."""
    size, root, old = edge.size, edge.root(), known
    for _ in range(3):
        with rt.db.read() as connection:
            proof = merkle.consistency_path(old, size, tree.StoredNodes(connection))
        try:
            answer = rt.signer.request("checkpoint", size=size, root=root, old_size=old, proof=proof)
        except SignerBusy:
            raise
        except SignerRefused as error:
            raise LedgerDiverged(f"The signer refuses the tree of {size} leaves: {error.detail}") from error
        if "note" in answer:
            return str(answer["note"])
        old = int(answer["size"])
        if old > size:
            break
    raise LedgerDiverged(
        f"The signer's last checkpoint has {old} leaves, the database {size}.", signed=old, stored=size
    )


def _publish(rt: Runtime, folder: Path) -> None:
    """Bring the files up to the newest checkpoint."""
    done = tiles.published(folder)
    with rt.db.read() as connection:
        last = latest(connection)
        if last is None or last[0].size == done:
            return
        tiles.write_tiles(folder, old=done, new=last[0].size, tile=tree.StoredNodes(connection).tile)
        appended = tiles.last_appended(folder)
        query = sa.select(checkpoints.c.note).where(checkpoints.c.size > appended).order_by(checkpoints.c.size)
        notes = list(connection.execute(query).scalars())
    tiles.append_checkpoints(folder, notes)
    reached("ledger.appended")
    tiles.write_checkpoint(folder, last[1])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
