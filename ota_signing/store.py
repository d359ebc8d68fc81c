"""Content-addressed files: written once, named by their SHA-256, never changed.

Steps of an upload: bytes stream into ``incoming/`` while they are hashed (once), then the blob store takes the file over
as ``sha256/ab/abcd…``. A crash at any point leaves either the whole blob or a left-over in ``incoming/``, which `sweep`
removes. Limits: uploads are received on this machine's disk; nothing is deduplicated below whole files.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lachan.blobs import NoSuchBlob, blobs
from lachan.ids import new_id
from lachan.settings import Settings
from ota_signing.errors import ArtifactBroken, ArtifactMissing, ArtifactTooLarge


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file in the store: SHA-256 (hex) and length (bytes) of what it holds."""

    sha256: str
    length: int


class Store:
    """The firmware files of one installation."""

    def __init__(self, settings: Settings) -> None:
        self._blobs = blobs(settings, "artifacts")
        self._incoming = settings.data / "artifacts" / "incoming"

    def path(self, sha256: str) -> Path:
        """Tell where the file of that digest lies, or would lie.

        Raises:
            ArtifactMissing: the text is no SHA-256, so no file can have it.
        """
        found = self._blobs.local_path(_name(sha256))
        assert found is not None, "artifacts are served from files"
        return found

    def receive(self, *, limit: int) -> "Incoming":
        """Begin an upload of at most ``limit`` bytes."""
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Incoming(self, self._incoming / new_id(), limit)

    def adopt(self, sha256: str, file: Path) -> None:
        """Take over a received file; the same name means the same bytes, so replacing a twin changes nothing."""
        self._blobs.adopt(_name(sha256), file)

    def measure(self, sha256: str) -> Stored:
        """Read the file again and say what its bytes are now.

        Raises:
            ArtifactMissing: there is no such file.
        """
        digest, length = hashlib.sha256(), 0
        try:
            for block in self._blobs.open(_name(sha256)):
                digest.update(block)
                length += len(block)
        except (OSError, NoSuchBlob) as error:
            raise ArtifactMissing(f"The file of artifact {sha256} cannot be read: {error}") from error
        return Stored(sha256=digest.hexdigest(), length=length)

    def sweep(self, *, older_than: float = 86400.0) -> int:
        """Remove left-overs of uploads that broke off more than ``older_than`` seconds ago; tell how many."""
        gone = 0
        for file in self._incoming.glob("*"):
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
        self._file.close()
        self._store.adopt(found.sha256, self._path)
        return found


def _name(sha256: str) -> str:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ArtifactMissing(f"{sha256[:80]!r} is no SHA-256.")
    return f"sha256/{sha256[:2]}/{sha256}"
