"""The folder of metadata that devices read, and the signer's own memory of what it signed.

`Repository` is public: versioned files (consistent snapshots) and one ``timestamp.json`` that names the snapshot. It is
written in the order that keeps every reader whole after a crash: releases, snapshot, timestamp last, each by an atomic
rename. `Memory` lies with the signer's keys: which root and targets it trusts and what it signed last, so that versions
never go back although the public folder may be lost or changed. Limits: restoring an old backup of the signer's folder
makes versions go back; devices then refuse until they have grown past what was published.
"""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from lachan.files import write_atomically
from lachan.settings import Settings
from ota_signing import tuf_metadata
from ota_signing.errors import RepositoryBroken
from ota_signing.tuf_metadata import Online

KEEP = 20  # older versions of a role, for clients that are in the middle of an update
_NAME = re.compile(r"(?:(\d{1,9})\.(root|targets|releases|snapshot)|timestamp)\.json")


class Repository:
    """The public metadata folder of one data folder."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.data / "tuf" / "metadata"

    def file(self, name: str) -> Path | None:
        """The file of a metadata name, None if no such name can be or is there."""
        path = self.folder / name
        return path if _NAME.fullmatch(name) and path.is_file() else None

    def newest(self, role: str) -> int:
        """The highest version of a role that lies there; 0 without any."""
        found = (_NAME.fullmatch(path.name) for path in self.folder.glob(f"*.{role}.json"))
        return max((int(match[1]) for match in found if match), default=0)

    def read(self, role: str) -> bytes | None:
        """The newest encoded metadata of a role, None without any."""
        path = self.file("timestamp.json" if role == "timestamp" else f"{self.newest(role)}.{role}.json")
        return None if path is None else path.read_bytes()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers of this machine out."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (self.folder.parent / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def add(self, role: str, encoded: bytes) -> None:
        """Write one versioned file."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = self.folder / f"{tuf_metadata.version(encoded)}.{role}.json"
        if not path.is_file() or path.read_bytes() != encoded:
            write_atomically(path, encoded)

    def publish(self, online: Online) -> None:
        """Make what the signer signed public; the timestamp last, and never one older than what is there."""
        for role, encoded in online.files():
            if role != "timestamp":
                self.add(role, encoded)
            elif _version(self.read(role) or b"") <= tuf_metadata.version(encoded):
                write_atomically(self.folder / "timestamp.json", encoded)
        for role in ("releases", "snapshot"):
            for old in range(self.newest(role) - KEEP, 0, -1):
                path = self.folder / f"{old}.{role}.json"
                if not path.is_file():
                    break
                path.unlink()


class Memory:
    """The signer's own copy of the repository's state.

    Args:
        folder: within the signer's folder.
        public: where newer roots and targets may be offered; they are adopted only if they verify.
    """

    def __init__(self, folder: Path, public: Repository) -> None:
        self._folder, self._public = folder, public

    def begin(self, root: bytes, targets: bytes) -> None:
        """Trust a first root and its targets (``lachan init``)."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._save("root", root)
        self._save("targets", targets)

    def trusted(self) -> tuple[Metadata[Root], Metadata[Targets]]:
        """The newest root and top-level targets that verify from the ones known before.

        Raises:
            RepositoryBroken: there are none, or the targets do not verify.
        """
        root = Metadata[Root].from_bytes(self._load("root"))
        while (offered := self._offered("root", root.signed.version + 1)) is not None:
            root = self._adopt_root(root, offered)
        targets = Metadata[Targets].from_bytes(self._load("targets"))
        newest = self._public.newest("targets")
        offered = self._offered("targets", newest) if newest > targets.signed.version else None
        if offered is not None:
            targets = Metadata[Targets].from_bytes(offered)
        try:
            root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
        except RepositoryError as error:
            raise RepositoryBroken(f"targets {targets.signed.version} are not signed by the root's keys.") from error
        if offered is not None:
            self._save("targets", offered)
        return root, targets

    def online(self) -> Online:
        """What was signed last."""
        found = {role: self._load(role) if self._has(role) else None for role in ("releases", "snapshot", "timestamp")}
        return Online(**found)

    def remember(self, online: Online) -> None:
        """Keep what was signed, before anyone else may see it."""
        for role, encoded in online.files():
            if not self._has(role) or self._load(role) != encoded:
                self._save(role, encoded)

    def _adopt_root(self, root: Metadata[Root], offered: bytes) -> Metadata[Root]:
        try:
            new = Metadata[Root].from_bytes(offered)
            root.signed.verify_delegate("root", new.signed_bytes, new.signatures)
            new.signed.verify_delegate("root", new.signed_bytes, new.signatures)
        except (RepositoryError, DeserializationError) as error:
            raise RepositoryBroken(f"root {root.signed.version + 1} does not verify.") from error
        self._save("root", offered)
        return new

    def _offered(self, role: str, version: int) -> bytes | None:
        path = self._public.file(f"{version}.{role}.json")
        return None if path is None else path.read_bytes()

    def _has(self, role: str) -> bool:
        return (self._folder / f"{role}.json").is_file()

    def _load(self, role: str) -> bytes:
        try:
            return (self._folder / f"{role}.json").read_bytes()
        except OSError as error:
            raise RepositoryBroken(f"The signer has no {role} metadata: {error.strerror}.") from error

    def _save(self, role: str, encoded: bytes) -> None:
        write_atomically(self._folder / f"{role}.json", encoded, mode=0o600)


def _version(encoded: bytes) -> int:
    try:
        return int(Metadata[Any].from_bytes(encoded).signed.version)
    except DeserializationError:
        return 0  # a torn or foreign file is replaced
