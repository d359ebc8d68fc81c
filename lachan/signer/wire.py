"""Messages on the signer's socket: four bytes of length (big-endian), then one JSON object.

Bytes inside travel as ``{"$bytes": "<base64>"}`` and arrive as ``bytes``. What is big (a CRL) is a file: it travels as
``{"$file": n}`` and its descriptor beside the first byte of the message (SCM_RIGHTS, docs/adr/0024), and arrives as an open
file. Only the signer sends files; it never accepts one. Limits: `MAX_FRAME` bytes per message, so that neither side can be
made to buffer without bound; `MAX_FILES` files; no other types than JSON's, bytes and files.
"""

import array
import base64
import binascii
import io
import json
import os
import socket
import struct
import time
from typing import Any

import orjson

from lachan.signer.errors import BadFrame

MAX_FRAME = 4 << 20
MAX_FILES = 4
_LENGTH = struct.Struct(">I")
HEAD = _LENGTH.size


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Write one message; the files in it are closed here.

    Raises:
        BadFrame: it is larger than `MAX_FRAME` or holds more than `MAX_FILES` files.
        TypeError: it holds something that is neither JSON nor bytes nor a file.
    """
    files: list[io.BufferedIOBase] = []
    try:
        data = pack(message, files)
        sent = socket.send_fds(connection, [data], [file.fileno() for file in files]) if files else 0
        connection.sendall(memoryview(data)[sent:])
    finally:
        for file in files:
            file.close()


def pack(message: dict[str, Any], files: list[io.BufferedIOBase] | None = None) -> bytes:
    """Give the bytes of one message, and its files in their order; raises as `send` does."""

    def out(value: object) -> dict[str, Any]:
        if files is not None and isinstance(value, io.BufferedIOBase):
            files.append(value)
            return {"$file": len(files) - 1}
        return _bytes_out(value)

    body = orjson.dumps(message, default=out, option=orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME)
    if len(body) > MAX_FRAME or len(files or ()) > MAX_FILES:
        raise BadFrame(f"A message of {len(body)} bytes and {len(files or ())} files is over the limit of {MAX_FRAME}.")
    return _LENGTH.pack(len(body)) + body


def length(head: bytes) -> int:
    """Read a message's first `HEAD` bytes: the size of its body.

    Raises:
        BadFrame: it is too large.
    """
    (size,) = _LENGTH.unpack(head)
    if size > MAX_FRAME:
        raise BadFrame(f"A message of {size} bytes is over the limit of {MAX_FRAME}.")
    return int(size)


def unpack(body: bytes, descriptors: list[int] | None = None) -> dict[str, Any]:
    """Read a message's body.

    Args:
        body: its octets.
        descriptors: that came beside it; the one of a file that the message names becomes -1, the file closes it now.

    Raises:
        BadFrame: it is no JSON object, or names a file that did not come.
    """
    opened: list[io.BufferedIOBase] = []

    def taken(value: dict[str, Any]) -> Any:
        if value.keys() != {"$file"} or descriptors is None:
            return _bytes_in(value)
        number = value["$file"]
        if not isinstance(number, int) or not 0 <= number < len(descriptors) or descriptors[number] < 0:
            raise ValueError("a file that did not come")
        descriptor, descriptors[number] = descriptors[number], -1
        opened.append(os.fdopen(descriptor, "rb"))
        return opened[-1]

    try:
        message = json.loads(body, object_hook=taken)
        if not isinstance(message, dict):
            raise BadFrame("A message is no JSON object.")
    except (ValueError, RecursionError, BadFrame) as error:
        for file in opened:
            file.close()
        raise error if isinstance(error, BadFrame) else BadFrame(f"A message is no JSON: {error}") from error
    return message


def receive(connection: socket.socket, *, files: bool = False) -> dict[str, Any] | None:
    """Read one message; None when the peer hung up between messages.

    Args:
        connection: a Unix stream socket.
        files: whether the message may bring files; without it the kernel drops them.

    Raises:
        BadFrame: the message is cut short, too large, or no JSON object, or names a file that did not come.
    """
    descriptors: list[int] = []
    try:
        head = _head(connection, descriptors if files else None)
        if head is None:
            return None
        return unpack(_exactly(connection, length(head)) or b"", descriptors if files else None)
    finally:
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


class Frames:
    """The messages of one connection as the signer reads them: in as few calls of the kernel as they come, without files.

    Args:
        connection: a Unix stream socket; its time-out is set here.
        patience: seconds in which a begun message must be complete.
    """

    def __init__(self, connection: socket.socket, *, patience: float) -> None:
        self._connection, self._patience = connection, patience
        self._read = bytearray()

    def next(self) -> dict[str, Any] | None:
        """Wait for a message, however long; None when the peer hung up between messages.

        Raises:
            BadFrame: the message is cut short, too large, or no JSON object.
            OSError: it was not complete in time (TimeoutError), or the connection broke.
        """
        self._connection.settimeout(None)
        if not self._read and not self._more():
            return None
        end = time.monotonic() + self._patience
        self._complete(HEAD, end)
        size = length(bytes(self._read[:HEAD]))
        self._complete(HEAD + size, end)
        body = bytes(self._read[HEAD : HEAD + size])
        del self._read[: HEAD + size]
        return unpack(body)

    def _complete(self, size: int, end: float) -> None:
        while len(self._read) < size:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("a message was not complete in time")
            self._connection.settimeout(left)
            if not self._more():
                raise BadFrame("The peer hung up inside a message.")

    def _more(self) -> bool:
        part = self._connection.recv(1 << 16)
        self._read += part
        return bool(part)


def _head(connection: socket.socket, descriptors: list[int] | None) -> bytes | None:
    """Give the length; descriptors come with its first byte."""
    if descriptors is None:
        return _exactly(connection, _LENGTH.size, at_boundary=True)
    room = socket.CMSG_SPACE(MAX_FILES * array.array("i").itemsize)
    first, ancillary, _, _ = connection.recvmsg(_LENGTH.size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found = array.array("i")
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
            descriptors.extend(found)
    return first + (_exactly(connection, _LENGTH.size - len(first)) or b"") if first else None


def _exactly(connection: socket.socket, length: int, *, at_boundary: bool = False) -> bytes | None:
    chunks = bytearray()
    while len(chunks) < length:
        chunk = connection.recv(min(length - len(chunks), 1 << 16))
        if not chunk:
            if at_boundary and not chunks:
                return None
            raise BadFrame("The peer hung up inside a message.")
        chunks += chunk
    return bytes(chunks)


def _bytes_out(value: object) -> dict[str, str]:
    if isinstance(value, bytes | bytearray):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} cannot travel to the signer")


def _bytes_in(value: dict[str, Any]) -> Any:
    if value.keys() == {"$bytes"} and isinstance(value["$bytes"], str):
        try:
            return base64.b64decode(value["$bytes"], validate=True)
        except binascii.Error as error:
            raise ValueError(f"bad base64: {error}") from error
    return value
