"""Messages on the signer's socket: four bytes of length (big-endian), then one JSON object.

Bytes inside travel as ``{"$bytes": "<base64>"}`` and arrive as ``bytes``. Limits: `MAX_FRAME` bytes per message, so that
neither side can be made to buffer without bound; no other types than JSON's and bytes.
"""

import base64
import binascii
import json
import socket
import struct
from typing import Any

from lachan.signer.errors import BadFrame

MAX_FRAME = 4 << 20
_LENGTH = struct.Struct(">I")
HEAD = _LENGTH.size


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Write one message.

    Raises:
        BadFrame: it is larger than `MAX_FRAME`.
        TypeError: it holds something that is neither JSON nor bytes.
    """
    connection.sendall(pack(message))


def pack(message: dict[str, Any]) -> bytes:
    """Give the bytes of one message; raises as `send` does."""
    body = json.dumps(message, default=_bytes_out, separators=(",", ":"), ensure_ascii=False).encode()
    if len(body) > MAX_FRAME:
        raise BadFrame(f"A message of {len(body)} bytes is over the limit of {MAX_FRAME}.")
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


def unpack(body: bytes) -> dict[str, Any]:
    """Read a message's body.

    Raises:
        BadFrame: it is no JSON object.
    """
    try:
        message = json.loads(body, object_hook=_bytes_in)
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"A message is no JSON: {error}") from error
    if not isinstance(message, dict):
        raise BadFrame("A message is no JSON object.")
    return message


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Read one message; None when the peer hung up between messages.

    Raises:
        BadFrame: the message is cut short, too large, or no JSON object.
    """
    head = _exactly(connection, _LENGTH.size, at_boundary=True)
    if head is None:
        return None
    return unpack(_exactly(connection, length(head)) or b"")


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
