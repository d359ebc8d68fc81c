"""The blob store keeps whole blobs under checked names, whatever breaks off; its rules are tried on every implementation."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lachan import blobs
from lachan.blobs import BlobStore, FolderStore, NoSuchBlob


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """A store in a folder that does not exist yet."""
    return FolderStore(tmp_path / "blobs")


def test_what_was_put_is_read_in_ranges(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "BLOCK", 4)
    assert store.put("a/b.json", [b"0123", b"", b"456789"]) == 10
    assert (store.size("a/b.json"), store.exists("a/b.json")) == (10, True)
    assert list(store.open("a/b.json")) == [b"0123", b"4567", b"89"]
    for start, length in ((0, 0), (3, 5), (8, 50), (10, None), (11, 1), (2, None)):
        end = None if length is None else start + length
        assert b"".join(store.open("a/b.json", start=start, length=length)) == b"0123456789"[start:end]


def test_names_list_and_delete(store: BlobStore, tmp_path: Path) -> None:
    assert list(store.names()) == []
    for name in ("x/1", "x/2", "xy", "x/deep/3"):
        store.put(name, b"")
    (tmp_path / "blobs" / "x" / ".draft").write_bytes(b"")
    assert sorted(store.names()) == ["x/1", "x/2", "x/deep/3", "xy"]
    assert sorted(store.names("x/")) == ["x/1", "x/2", "x/deep/3"]
    assert sorted(store.names("x/d")) == ["x/deep/3"]
    store.delete("x/1")
    store.delete("x/1")
    assert not store.exists("x/1")


def test_a_file_is_taken_over_and_cannot_be_written(store: BlobStore, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(b"firmware")
    store.adopt("sha256/ab/cd", file)
    assert not file.exists()
    kept = store.local_path("sha256/ab/cd")
    assert kept is not None
    assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (b"firmware", 0o440)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../x", "a//b", ".hidden", "a/.b", "a\0", "a/", "x" * 300]
)
def test_what_cannot_be_a_name_names_nothing(store: BlobStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    with pytest.raises(ValueError, match="cannot name"):
        store.put(name, b"")
    with pytest.raises(NoSuchBlob):
        store.open(name)
    with pytest.raises(NoSuchBlob):
        store.size(name)
    assert not store.exists(name)
    assert store.local_path(name) is None
    store.delete(name)
    assert (tmp_path / "x").exists()


def test_a_blob_is_replaced_whole_or_not_at_all(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("b", b"old")

    def broken() -> Iterator[bytes]:
        yield b"ne"
        raise ConnectionError("the sender is gone")

    with pytest.raises(ConnectionError):
        store.put("b", broken())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            store.put("b", b"new")
    assert b"".join(store.open("b")) == b"old"
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == ["b"]


def test_what_is_not_there_is_said_at_once(store: BlobStore) -> None:
    with pytest.raises(NoSuchBlob):
        store.open("none")
    with pytest.raises(NoSuchBlob):
        store.size("none")
