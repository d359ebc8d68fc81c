"""Big answers leave the signer as files: a descriptor beside the message, and never the other way."""

import array
import json
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from typing import IO

import pytest

from lachan.signer import wire
from lachan.signer.errors import BadFrame


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets."""
    one, other = socket.socketpair()
    for end in (one, other):
        end.settimeout(10)
    with one, other:
        yield one, other


def opened() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def made(content: bytes) -> IO[bytes]:
    file = tempfile.TemporaryFile()
    file.write(content)
    file.seek(0)
    return file


def test_a_file_of_any_size_travels_by_its_descriptor(ends: tuple[socket.socket, socket.socket]) -> None:
    before = opened()
    content = os.urandom(1 << 20) * 9
    file = made(content)
    wire.send(ends[0], {"ok": {"crl": file, "n": 1, "more": made(b"x")}})
    assert file.closed, "the sender needs it no more"
    answer = wire.receive(ends[1], files=True)
    assert answer is not None
    with answer["ok"]["crl"] as got, answer["ok"]["more"] as more:
        assert (got.read(), more.read()) == (content, b"x")
    assert opened() == before


def test_who_expects_no_file_gets_none(ends: tuple[socket.socket, socket.socket]) -> None:
    before = opened()
    wire.send(ends[0], {"fields": {"x": made(b"secret")}})
    assert wire.receive(ends[1]) == {"fields": {"x": {"$file": 0}}}, "words without a file, for `strict` to refuse"
    assert opened() == before


def forged(connection: socket.socket, body: dict, files: int) -> None:
    data = json.dumps(body).encode()
    file = made(b"x")
    with file:
        descriptors = array.array("i", [file.fileno()] * files)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if files else []
        connection.sendmsg([struct.pack(">I", len(data)) + data], ancillary)


@pytest.mark.parametrize(
    ("body", "files"),
    [
        ({"ok": {"$file": 0}}, 0),
        ({"ok": {"$file": 1}}, 1),
        ({"ok": {"$file": -1}}, 1),
        ({"ok": {"$file": "0"}}, 1),
        ({"ok": [{"$file": 0}, {"$file": 0}]}, 1),
    ],
)
def test_a_file_that_did_not_come_is_no_message(
    ends: tuple[socket.socket, socket.socket], body: dict, files: int
) -> None:
    before = opened()
    forged(ends[0], body, files)
    with pytest.raises(BadFrame):
        wire.receive(ends[1], files=True)
    assert opened() == before


def test_files_that_nobody_names_are_closed(ends: tuple[socket.socket, socket.socket]) -> None:
    before = opened()
    forged(ends[0], {"ok": {}}, 3)
    assert wire.receive(ends[1], files=True) == {"ok": {}}
    assert opened() == before


def test_more_files_than_a_message_may_have_are_not_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(BadFrame):
        wire.send(ends[0], {"ok": [made(b"") for _ in range(wire.MAX_FILES + 1)]})


def test_messages_are_read_one_by_one_however_they_come(ends: tuple[socket.socket, socket.socket]) -> None:
    one, two = (wire.pack({"kind": "ping", "fields": {"n": number}}) for number in (1, 2))
    incoming = wire.Frames(ends[1], patience=10)
    ends[0].sendall(one + two + one[:3])
    assert [(incoming.next() or {})["fields"]["n"] for _ in range(2)] == [1, 2]
    ends[0].sendall(one[3:])
    assert (incoming.next() or {})["fields"] == {"n": 1}
    ends[0].sendall(two[:-1])
    ends[0].close()
    with pytest.raises(BadFrame):
        incoming.next()


def test_a_message_must_be_complete_in_time_and_none_need_begin(ends: tuple[socket.socket, socket.socket]) -> None:
    incoming = wire.Frames(ends[1], patience=0.05)
    ends[0].sendall(struct.pack(">I", wire.MAX_FRAME + 1))
    with pytest.raises(BadFrame):
        incoming.next()
    incoming = wire.Frames(ends[1], patience=0.05)
    ends[0].sendall(b"\0\0")
    with pytest.raises(TimeoutError):
        incoming.next()
    ends[0].close()
    assert wire.Frames(ends[1], patience=0.05).next() is None
