"""Content-addressed files: written once, named by their SHA-256, never changed.

Steps of an upload: bytes stream into ``incoming/`` while they are hashed (once), then the file is synced, made
read-only and renamed to ``sha256/ab/abcd…``, and the folder is synced. A crash at any point leaves either the whole
file or a left-over in ``incoming/``, which `sweep` removes. Limits: one machine's disk; nothing is deduplicated below
whole files.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lachan.ids import new_id
from ota_signing.errors import ArtifactBroken, ArtifactMissing, ArtifactTooLarge

_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file in the store: SHA-256 (hex) and length (bytes) of what it holds."""

    sha256: str
    length: int


class Store:
    """The store below one data folder."""

    def __init__(self, data: Path) -> None:
        self._root = data / "artifacts"

    def path(self, sha256: str) -> Path:
        """Where the file of that digest lies, or would lie.

        Raises:
            ArtifactMissing: the text is no SHA-256, so no file can have it.
        """
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ArtifactMissing(f"{sha256[:80]!r} is no SHA-256.")
        return self._root / "sha256" / sha256[:2] / sha256

    def receive(self, *, limit: int) -> "Incoming":
        """Begin an upload of at most ``limit`` bytes."""
        folder = self._root / "incoming"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Incoming(self, folder / new_id(), limit)

    def measure(self, sha256: str) -> Stored:
        """Read the file again and say what its bytes are now.

        Raises:
            ArtifactMissing: there is no such file.
        """
        digest, length = hashlib.sha256(), 0
        try:
            with self.path(sha256).open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    length += len(block)
        except OSError as error:
            raise ArtifactMissing(f"The file of artifact {sha256} cannot be read: {error.strerror}.") from error
        return Stored(sha256=digest.hexdigest(), length=length)

    def sweep(self, *, older_than: float = 86400.0) -> int:
        """Remove left-overs of uploads that broke off more than ``older_than`` seconds ago; tell how many."""
        gone = 0
        for file in (self._root / "incoming").glob("*"):
            if file.stat().st_mtime < time.time() - older_than:
                file.unlink(missing_ok=True)
                gone += 1
        return gone


class Incoming:
    """One upload; use it in a ``with`` block: unless `finish` was reached, nothing stays behind."""

    def __init__(self, store: Store, path: Path, limit: int) -> None:
        self._store, self._path, self._limit = store, path, limit
        self._digest, self._length = hashlib.sha256(), 0
        self._file = path.open("xb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            ArtifactTooLarge: they pass the limit.
        """
        self._length += len(chunk)
        if self._length > self._limit:
            raise ArtifactTooLarge(f"The artifact has more than the {self._limit} bytes allowed.", limit=self._limit)
        self._digest.update(chunk)
        self._file.write(chunk)

    def finish(self, *, sha256: str | None = None, length: int | None = None) -> Stored:
        """Put the file into the store.

        Args:
            sha256: what the sender says it is (hex), if they do.
            length: the announced length in bytes, if there is one.

        Raises:
            ArtifactBroken: it is empty, or not what was announced.
        """
        found = Stored(sha256=self._digest.hexdigest(), length=self._length)
        if not found.length:
            raise ArtifactBroken("The upload is empty.")
        if length is not None and length != found.length:
            raise ArtifactBroken(f"{length} bytes were announced, {found.length} arrived.")
        if sha256 is not None and sha256.lower() != found.sha256:
            raise ArtifactBroken(f"The sender announced SHA-256 {sha256.lower()}, the bytes have {found.sha256}.")
        self._file.flush()
        os.fsync(self._file.fileno())
        os.fchmod(self._file.fileno(), 0o440)
        home = self._store.path(found.sha256)
        home.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._path.replace(home)  # the same name means the same bytes: replacing a twin changes nothing
        sync_folder(home.parent)
        return found


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a small file in one step: readers see the old bytes or the new ones, also after a crash."""
    draft = path.with_name(f".{path.name}.{new_id()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
