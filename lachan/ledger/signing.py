"""Sign checkpoints inside the signer: only one that extends the last one it signed, and that was written down before.

The signer remembers its last checkpoint, note and all, in its own folder (``ledger.json``, durable before the answer), so
that whoever rules the database, or restores an old one, gets no second history signed. The consistency proof is checked
from that memory, never from the caller's word. Whoever lost the answer is told the last one again. Limits: one ledger per
signer; two signers with one key are kept apart by the database (`lachan.ledger.lease`), not by each other.
"""

import base64
import json
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lachan.files import write_atomically
from lachan.ledger import lease, merkle
from lachan.ledger.errors import ProofRefused
from lachan.ledger.lease import Lease
from lachan.ledger.models import checkpoints
from lachan.ledger.note import Checkpoint, Verifier, origin_of, sign
from lachan.signer.context import SignerContext, strict
from lachan.signer.errors import SignatureRefused, SignerStateLost
from lachan.signer.keys import KeyStore

KEY = "ledger"
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class CheckpointMemory:
    """The last checkpoint of a signer; ``note`` is empty for the empty tree, which nobody signed."""

    point: Checkpoint
    note: str = ""


def checkpoint(signer: SignerContext, request: dict[str, Any]) -> dict[str, Any]:
    """Sign the state of the tree, or tell what was signed last.

    Args:
        signer: the signer's world.
        request: ``size``, ``root``; ``old_size`` and ``proof``, the consistency proof from this signer's last checkpoint;
            ``fence`` of the lease under which all this was written down. Or nothing at all: tell the last one.

    Returns:
        ``size``, ``root`` and ``note`` of the new checkpoint. When nothing was asked, ``old_size`` is not the signer's last,
        or somebody has written down something else since, nothing is signed and these are the last ones (``unsigned``);
        then ``signer`` is this signer's name for the lease.

    Raises:
        SignatureRefused: the tree is smaller than the last one, does not extend it, or nobody wrote it down.
        SignerStateLost: the memory of the last one is missing.
    """
    if not request:
        return _told(signer, recall(signer.folder))
    wanted = strict(request, {"size": int, "root": bytes, "old_size": int, "proof": list, "fence": int})
    size, new_root = wanted["size"], wanted["root"]
    proof = [step for step in wanted["proof"] if isinstance(step, bytes)]
    if len(proof) != len(wanted["proof"]) or len(new_root) != merkle.HASH_SIZE:
        raise SignatureRefused("hashes are 32 bytes each", subject=str(size))
    with _one_at_a_time:
        memory = recall(signer.folder)
        last = memory.point
        if size < last.size:
            raise SignatureRefused(f"a smaller tree: {size} leaves after {last.size}", subject=str(size))
        if wanted["old_size"] != last.size:
            return _told(signer, memory)
        _extends(last, Checkpoint("", size, new_root), proof)
        if not _written_down(signer, Lease(name_of(signer.folder), wanted["fence"], size, new_root)):
            return _told(signer, memory)
        key = verifier(signer.keys)
        found = Checkpoint(key.name, size, new_root)
        note = sign(found.text, key, lambda text: signer.keys.sign(KEY, text))
        signer.signed(str(size), found.text.encode())
        remember(signer.folder, CheckpointMemory(found, note))
        return {"size": size, "root": new_root, "note": note}


def name_of(folder: Path) -> str:
    """Name a signer for the lease, so that a copy of its folder elsewhere has another name."""
    return f"{socket.gethostname()}:{os.stat(folder).st_ino}:{folder.resolve()}"[:200]


def _extends(last: Checkpoint, new: Checkpoint, proof: list[bytes]) -> None:
    try:
        merkle.verify_consistency(
            old_size=last.size, old_root=last.root, new_size=new.size, new_root=new.root, path=proof
        )
    except ProofRefused as error:
        raise SignatureRefused(error.detail, subject=str(new.size)) from error


def _told(signer: SignerContext, memory: CheckpointMemory) -> dict[str, Any]:
    last = {"size": memory.point.size, "root": memory.point.root, "note": memory.note}
    return {"unsigned": True, "signer": name_of(signer.folder), **last}


def _written_down(signer: SignerContext, asked: Lease) -> bool:
    """Tell whether the lease holds what is asked; False when somebody went on since.

    Raises:
        SignatureRefused: nobody wrote it down.
    """
    with signer.db.read() as connection:
        stands = lease.read(connection)
    if stands.fence > asked.fence or (stands.fence == asked.fence and stands.holder != asked.holder):
        return False
    if stands != asked:
        raise SignatureRefused("nobody wrote down that this is to be signed", subject=str(asked.size))
    return True


def is_known(connection: sa.Connection, subject: str) -> bool:
    """Tell whether the database knows the checkpoint of this size."""
    return (
        connection.execute(sa.select(checkpoints.c.size).where(checkpoints.c.size == int(subject))).first() is not None
    )


def verifier(keys: KeyStore) -> Verifier:
    """Give the ledger's public key under its own name."""
    key = keys.public(KEY)
    assert isinstance(key, Ed25519PublicKey)
    raw = key.public_bytes_raw()
    return Verifier(origin_of(raw), raw)


def recall(folder: Path) -> CheckpointMemory:
    """Read the last checkpoint that this signer signed.

    Raises:
        SignerStateLost: the file is missing or unreadable.
    """
    try:
        found = json.loads((folder / "ledger.json").read_bytes())
        root = base64.b64decode(found["root"], validate=True)
        return CheckpointMemory(Checkpoint("", int(found["size"]), root), str(found.get("note", "")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SignerStateLost(f"{folder / 'ledger.json'} cannot be read: {error}") from error


def remember(folder: Path, last: CheckpointMemory) -> None:
    """Make a checkpoint the last one, durably, before anybody hears of it."""
    value = {"size": last.point.size, "root": base64.b64encode(last.point.root).decode(), "note": last.note}
    write_atomically(folder / "ledger.json", json.dumps(value).encode(), mode=0o600)
