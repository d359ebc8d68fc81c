"""The signer's own memory of the repository: which root and targets it trusts, and what it signed last.

It lies with the signer's keys, so that versions never go back although the public folder may be lost or changed, and it is
complete: what the worker lost is handed out again. New bins are written first; ``state.json`` then names them, and holds
snapshot and timestamp, in one step: that is when they count, and nothing is handed out before. Limits: restoring an old
backup of the signer's folder makes versions go back; devices then refuse until they have grown past what was published.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from lachan.files import write_atomically
from ota_signing.errors import RepositoryBroken
from ota_signing.online import Online, Part
from ota_signing.repository import Repository

_IN_STATE = ("snapshot", "timestamp")


class Memory:
    """What one signer remembers.

    Args:
        folder: within the signer's folder.
        public: where newer roots and targets may be offered; they are adopted only if they verify.
    """

    def __init__(self, folder: Path, public: Repository) -> None:
        self._folder, self._public = folder, public

    def begin(self, root: bytes, targets: bytes) -> None:
        """Trust a first root and its targets (``lachan init``)."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._save("root.json", root)
        self._save("targets.json", targets)

    def trusted(self) -> tuple[Metadata[Root], Metadata[Targets]]:
        """Find the newest root and top-level targets that verify from the ones known before.

        Raises:
            RepositoryBroken: there are none, or the targets do not verify.
        """
        root = Metadata[Root].from_bytes(self._load("root.json"))
        while (offered := self._public.get(f"{root.signed.version + 1}.root.json")) is not None:
            root = self._adopt_root(root, offered)
        targets = Metadata[Targets].from_bytes(self._load("targets.json"))
        newest = self._public.newest("targets")
        offered = self._public.get(f"{newest}.targets.json") if newest > targets.signed.version else None
        if offered is not None:
            targets = Metadata[Targets].from_bytes(offered)
        try:
            root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
        except RepositoryError as error:
            raise RepositoryBroken(f"targets {targets.signed.version} are not signed by the root's keys.") from error
        if offered is not None:
            self._save("targets.json", offered)
        return root, targets

    def online(self) -> Online:
        """Recall what was signed last; a file that is not whole any more has to be made again."""
        if not (self._folder / "state.json").is_file():
            return Online(parts=self._before_bins())
        state = orjson.loads(self._load("state.json"))
        parts = {
            role: Part(**{**part, "expires": datetime.fromisoformat(part["expires"])})
            for role, part in state["parts"].items()
        }
        for role in parts.keys() - _IN_STATE:
            path = self._folder / f"{parts[role].version}.{role}.json"
            if not path.is_file() or path.stat().st_size != parts[role].length:
                parts[role] = replace(parts[role], content="")
        return Online(
            bits=state["bits"], revisions=tuple(state["revisions"]), counts=tuple(state["counts"]), parts=parts,
            snapshot=state["snapshot"].encode(), timestamp=state["timestamp"].encode(),
        )  # fmt: skip

    def remember(self, online: Online, files: Mapping[str, bytes]) -> None:
        """Keep what was signed, before anyone else may see it."""
        versioned = {role: encoded for role, encoded in files.items() if role not in _IN_STATE}
        for role, encoded in versioned.items():
            self._save(f"{online.parts[role].version}.{role}.json", encoded)
        state = {
            "bits": online.bits, "revisions": online.revisions, "counts": online.counts,
            "parts": {role: asdict(part) for role, part in online.parts.items()},
            "snapshot": online.snapshot.decode(), "timestamp": online.timestamp.decode(),
        }  # fmt: skip
        self._save("state.json", orjson.dumps(state))
        for role in versioned:
            (self._folder / f"{online.parts[role].version - 1}.{role}.json").unlink(missing_ok=True)

    def file(self, role: str, online: Online) -> bytes:
        """Read a bin, or ``releases``, as it was signed last.

        Raises:
            RepositoryBroken: there is no such file, or it is not what was signed.
        """
        part = online.parts.get(role)
        if part is None or role in _IN_STATE:
            raise RepositoryBroken(f"The signer has no file {role[:40]!r}.")
        encoded = self._load(f"{part.version}.{role}.json")
        if hashlib.sha256(encoded).hexdigest() != part.sha256:
            raise RepositoryBroken(f"The signer's file {role} is not what it signed.")
        return encoded

    def _before_bins(self) -> dict[str, Part]:
        """Count on from what an earlier version of lachan signed: one list of all releases."""
        parts = {}
        for role in ("releases", "snapshot", "timestamp"):
            if (self._folder / f"{role}.json").is_file():
                signed = Metadata[Any].from_bytes(self._load(f"{role}.json")).signed
                parts[role] = Part(version=signed.version, expires=signed.expires, length=0, sha256="", content="")
        return parts

    def _adopt_root(self, root: Metadata[Root], offered: bytes) -> Metadata[Root]:
        try:
            new = Metadata[Root].from_bytes(offered)
            root.signed.verify_delegate("root", new.signed_bytes, new.signatures)
            new.signed.verify_delegate("root", new.signed_bytes, new.signatures)
        except (RepositoryError, DeserializationError) as error:
            raise RepositoryBroken(f"root {root.signed.version + 1} does not verify.") from error
        self._save("root.json", offered)
        return new

    def _load(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise RepositoryBroken(f"The signer has no {name}: {error.strerror}.") from error

    def _save(self, name: str, encoded: bytes) -> None:
        write_atomically(self._folder / name, encoded, mode=0o600)
