"""`BlobStore`: large things that are written once and read in ranges (firmware, its metadata, evidence, reports).

A blob has a name of segments (``sha256/ab/abcd…``), chosen by the room that writes it, and bytes. It is there whole or not
at all, and durable when `put` or `adopt` has returned. `FolderStore` keeps them as files of the data folder, which a door
may hand to ``sendfile``; a store without files answers None to `local_path` and is read with `open`.

Limits: names are checked here, what they mean is the room's business; there is no lock, so two who write one name at once
must mean the same bytes, or be kept apart by the room.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

from lachan.errors import NotFound
from lachan.files import sync_folder, write_atomically
from lachan.settings import Settings

BLOCK = 1 << 18  # bytes of one piece of a stream
_NAME = re.compile(r"[A-Za-z0-9_~+-][A-Za-z0-9._~+-]{0,199}(?:/[A-Za-z0-9_~+-][A-Za-z0-9._~+-]{0,199}){0,7}")


class NoSuchBlob(NotFound):
    """Nothing of that name is in the store."""

    title = "No such blob"


class BlobStore(Protocol):
    """What a store of blobs can do; every ``name`` that cannot be one is as if nothing were there."""

    def put(self, name: str, content: bytes | Iterable[bytes]) -> int:
        """Write a blob, or replace it in one step; give its length in bytes.

        Raises:
            ValueError: the name cannot be one.
        """

    def adopt(self, name: str, file: Path) -> None:
        """Take over a finished local file as a blob; the file is gone from where it was.

        Raises:
            ValueError: the name cannot be one.
        """

    def open(self, name: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read a range in pieces of at most `BLOCK` bytes; the blob is looked up at once.

        Args:
            name: the blob.
            start: first byte.
            length: how many bytes at most; to the end by default.

        Raises:
            NoSuchBlob: it is not there.
        """

    def size(self, name: str) -> int:
        """Tell the length in bytes.

        Raises:
            NoSuchBlob: it is not there.
        """

    def exists(self, name: str) -> bool:
        """Tell whether it is there."""

    def delete(self, name: str) -> None:
        """Remove it, if it is there."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """Name the blobs that begin with ``prefix``, in no order."""

    def local_path(self, name: str) -> Path | None:
        """Give the file that holds the blob, or will when it is written; None where blobs are no files."""


class FolderStore:
    """Blobs as files below a folder; names that begin with a dot are drafts and no blobs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, content: bytes | Iterable[bytes]) -> int:
        """Write or replace a blob (`BlobStore.put`)."""
        path = self._place(name)
        return write_atomically(path, content)

    def adopt(self, name: str, file: Path) -> None:
        """Rename a file of the same disk into the store, read-only (`BlobStore.adopt`)."""
        path = self._place(name)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            os.fchmod(handle.fileno(), 0o440)
        file.replace(path)
        sync_folder(path.parent)

    def open(self, name: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read a range (`BlobStore.open`)."""
        path = self._path(name)
        if path is None:
            raise NoSuchBlob(f"There is no blob {name[:80]!r}.")
        try:
            file = path.open("rb")
        except OSError as error:
            raise NoSuchBlob(f"There is no blob {name[:80]!r}: {error.strerror}.") from error
        file.seek(start)

        def pieces() -> Iterator[bytes]:
            left = length
            with closing(file):
                while block := file.read(BLOCK if left is None else min(BLOCK, left)):
                    left = None if left is None else left - len(block)
                    yield block

        return pieces()

    def size(self, name: str) -> int:
        """Tell the length (`BlobStore.size`)."""
        path = self._path(name)
        if path is None or not path.is_file():
            raise NoSuchBlob(f"There is no blob {name[:80]!r}.")
        return path.stat().st_size

    def exists(self, name: str) -> bool:
        """Tell whether it is there (`BlobStore.exists`)."""
        path = self._path(name)
        return path is not None and path.is_file()

    def delete(self, name: str) -> None:
        """Remove it (`BlobStore.delete`)."""
        path = self._path(name)
        if path is not None:
            path.unlink(missing_ok=True)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Walk the folder (`BlobStore.names`)."""
        folder, _, _ = prefix.rpartition("/")
        for place, folders, files in os.walk(self.root / folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for file in files:
                name = str((Path(place) / file).relative_to(self.root))
                if not file.startswith(".") and name.startswith(prefix):
                    yield name

    def local_path(self, name: str) -> Path | None:
        """Give the file (`BlobStore.local_path`)."""
        return self._path(name)

    def _path(self, name: str) -> Path | None:
        return self.root / name if _NAME.fullmatch(name) else None

    def _place(self, name: str) -> Path:
        path = self._path(name)
        if path is None:
            raise ValueError(f"{name[:80]!r} cannot name a blob")
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        return path


def blobs(settings: Settings, area: str) -> BlobStore:
    """Open the installation's store of one area.

    Args:
        settings: of the installation.
        area: a room's own part of it: ``artifacts``, ``tuf/metadata`` …
    """
    return FolderStore(settings.data / area)
