"""Files that are written whole or not at all, and the ones that nobody may replace."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lachan.files import write_atomically, write_new


def _torn() -> Iterator[bytes]:
    yield b"half"
    raise OSError("no space left")


def test_what_cannot_be_written_whole_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write_atomically(path, b"old", mode=0o600) == 3
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, _torn())
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_new(path, b"first")
    with pytest.raises(FileExistsError):
        write_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["key"]
