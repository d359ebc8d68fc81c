"""The ledger as plain files: C2SP tlog-tiles below ``<data>/ledger``, and every checkpoint in one growing file.

``checkpoint`` is the newest signed note, ``tile/<level>/<index>`` (256 hashes) and ``….p/<width>`` (fewer) are the hashes,
``checkpoints`` holds all notes one after another. All but the last can be made again from the database; a crash between
two files is mended by the next seal, because ``checkpoint`` is replaced last. Limits: entry bundles are not written, they
would publish bodies.
"""

import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from lachan.ledger.errors import NoteRefused
from lachan.ledger.note import parse_checkpoint

WIDTH = 256
Tile = Callable[[int, int], list[bytes]]


def tile_path(level: int, index: int, width: int = WIDTH) -> str:
    """Name a tile below the ledger's folder (C2SP tlog-tiles): ``tile/0/x001/x234/067``, partial ones ``.p/<width>``."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.append(f"x{index % 1000:03d}")
    return f"tile/{level}/{'/'.join(reversed(groups))}" + ("" if width == WIDTH else f".p/{width}")


def published(folder: Path) -> int:
    """Read the size of the checkpoint file, 0 without one."""
    try:
        return parse_checkpoint((folder / "checkpoint").read_text()).size
    except (FileNotFoundError, NoteRefused):
        return 0


def write_tiles(folder: Path, *, old: int, new: int, tile: Tile) -> None:
    """Write the tiles that differ between two sizes.

    Args:
        folder: the ledger's folder.
        old: size whose tiles are there.
        new: size wanted.
        tile: gives the hashes of a tile, at least as many as ``new`` leaves make.
    """
    level = 0
    while (count := new >> 8 * level) > 0:
        before = old >> 8 * level
        if count != before:
            for index in range(before // WIDTH, -(-count // WIDTH)):
                width = min(WIDTH, count - index * WIDTH)
                path = folder / tile_path(level, index, width)
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _replace(path, b"".join(tile(level, index)[:width]))
        level += 1


def write_checkpoint(folder: Path, note: str) -> None:
    """Make a note the newest checkpoint; the tiles must be there already."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _replace(folder / "checkpoint", note.encode())


def append_checkpoints(folder: Path, notes: Iterable[str]) -> None:
    """Add notes to the file of all checkpoints, durably."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / "checkpoints", "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.writelines(note.encode() + b"\n" for note in notes)
        file.flush()
        os.fsync(file.fileno())


def last_appended(folder: Path) -> int:
    """Read the size of the last whole note in the file of all checkpoints; a note that a crash cut short is ended."""
    path = folder / "checkpoints"
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4096))
        tail = file.read().decode(errors="replace")
        if not tail.endswith("\n\n") and tail:
            file.write(b"\n\n")
    for part in reversed(tail.split("\n\n")):
        try:
            return parse_checkpoint(part.strip("\n") + "\n").size
        except NoteRefused:
            continue
    return 0


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.write_bytes(data)
    draft.replace(path)
