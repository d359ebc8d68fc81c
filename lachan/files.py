"""Files that a crash cannot tear: written aside, made durable, then given their name in one step."""

import os
from collections.abc import Iterable
from pathlib import Path

from lachan.ids import new_id


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes | Iterable[bytes], *, mode: int = 0o644) -> int:
    """Write or replace a file in one step: readers see the old bytes or the new ones, also after a crash.

    Args:
        path: the file; its folder exists.
        content: all of it, or its pieces in order.
        mode: of a new file.

    Returns:
        How many bytes it has now.
    """
    draft = _draft(path)
    try:
        length = _write(draft, content, mode)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return length


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that did not exist, whole and durable or not at all.

    Raises:
        FileExistsError: it exists; it stays as it is.
    """
    draft = _draft(path)
    try:
        _write(draft, content, mode)
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{new_id()}")


def _write(draft: Path, content: bytes | Iterable[bytes], mode: int) -> int:
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        for chunk in [content] if isinstance(content, bytes) else content:
            file.write(chunk)
        length = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return length
