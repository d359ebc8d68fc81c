"""Signs checkpoints inside the signer: only one that extends the last one it signed.

The signer remembers size and root of its last checkpoint in its own folder (``ledger.json``, durable before the answer), so
that whoever rules the database, or restores an old one, gets no second history signed. The consistency proof is checked
from that memory, never from the caller's word. Limits: one ledger per signer.
"""

import base64
import json
import os
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lachan.ledger import merkle
from lachan.ledger.errors import ProofRefused
from lachan.ledger.models import checkpoints
from lachan.ledger.note import Checkpoint, Verifier, origin_of, sign
from lachan.signer.context import SignerContext, strict
from lachan.signer.errors import SignatureRefused, SignerStateLost
from lachan.signer.keystore import KeyStore, sync_folder

KEY = "ledger"
_one_at_a_time = threading.Lock()


def checkpoint(signer: SignerContext, request: dict[str, Any]) -> dict[str, Any]:
    """Sign the state of the tree.

    Args:
        signer: the signer's world.
        request: ``size``, ``root``; ``old_size`` and ``proof``, the consistency proof from the checkpoint that the caller
            believes to be the last one.

    Returns:
        ``size``, ``root`` and ``note``: the new checkpoint. When ``old_size`` is not the signer's last, nothing is signed
        and these are the signer's last ones, so that the caller can prove from there.

    Raises:
        SignatureRefused: the tree is smaller than the last one, or does not extend it.
        SignerStateLost: the memory of the last one is missing.
    """
    wanted = strict(request, {"size": int, "root": bytes, "old_size": int, "proof": list})
    size, new_root = wanted["size"], wanted["root"]
    proof = [step for step in wanted["proof"] if isinstance(step, bytes)]
    if len(proof) != len(wanted["proof"]) or len(new_root) != merkle.HASH_SIZE:
        raise SignatureRefused("hashes are 32 bytes each", subject=str(size))
    with _one_at_a_time:
        last = recall(signer.folder)
        if size < last.size:
            raise SignatureRefused(f"a smaller tree: {size} leaves after {last.size}", subject=str(size))
        if wanted["old_size"] != last.size:
            return {"unsigned": True, "size": last.size, "root": last.root}
        try:
            merkle.verify_consistency(
                old_size=last.size, old_root=last.root, new_size=size, new_root=new_root, path=proof
            )
        except ProofRefused as error:
            raise SignatureRefused(error.detail, subject=str(size)) from error
        key = verifier(signer.keys)
        found = Checkpoint(key.name, size, new_root)
        note = sign(found.text, key, lambda text: signer.keys.sign(KEY, text))
        signer.signed(str(size), found.text.encode())
        remember(signer.folder, found)
        return {"size": size, "root": new_root, "note": note}


def is_known(connection: sa.Connection, subject: str) -> bool:
    """Whether the database knows the checkpoint of this size."""
    return (
        connection.execute(sa.select(checkpoints.c.size).where(checkpoints.c.size == int(subject))).first() is not None
    )


def verifier(keys: KeyStore) -> Verifier:
    """The ledger's public key under its own name."""
    key = keys.public(KEY)
    assert isinstance(key, Ed25519PublicKey)
    raw = key.public_bytes_raw()
    return Verifier(origin_of(raw), raw)


def recall(folder: Path) -> Checkpoint:
    """The last checkpoint that this signer signed.

    Raises:
        SignerStateLost: the file is missing or unreadable.
    """
    try:
        found = json.loads((folder / "ledger.json").read_bytes())
        return Checkpoint("", int(found["size"]), base64.b64decode(found["root"], validate=True))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SignerStateLost(f"{folder / 'ledger.json'} cannot be read: {error}") from error


def remember(folder: Path, last: Checkpoint) -> None:
    """Make a checkpoint the last one, durably, before anybody hears of it."""
    draft = folder / ".ledger.json"
    with open(draft, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        json.dump({"size": last.size, "root": base64.b64encode(last.root).decode()}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / "ledger.json")
    sync_folder(folder)
