"""TLS ClientHellos written by hand, and what the server answers to them.

A modern TLS library refuses to speak what we must find (SSL 3.0, TLS 1.0, RC4, export suites), so the hello is built
from the RFCs here and no cryptography is needed: the server's choice stands in its ServerHello (RFC 5246 7.4.1.3,
RFC 8446 4.1.3), and up to TLS 1.2 its certificate follows in the clear (RFC 5246 7.4.2). For TLS 1.3 an empty key share
makes the server answer with HelloRetryRequest (RFC 8446 4.2.8), which names the version just as well.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

VERSIONS = {"SSL 3.0": 0x0300, "TLS 1.0": 0x0301, "TLS 1.1": 0x0302, "TLS 1.2": 0x0303, "TLS 1.3": 0x0304}
SUITES = (
    0xC02B, 0xC02C, 0xCCA9, 0xC02F, 0xC030, 0xCCA8, 0xC009, 0xC00A, 0xC013, 0xC014, 0x009E, 0x009F, 0x0033, 0x0039,
    0x009C, 0x009D, 0x002F, 0x0035, 0x003C, 0x003D, 0x000A, 0x0005, 0x0004,
)  # fmt: skip
SUITES_13 = (0x1301, 0x1302, 0x1303)
WEAK_SUITES = {
    0x0001: "NULL-MD5", 0x0002: "NULL-SHA", 0x003B: "NULL-SHA256", 0xC010: "ECDHE-NULL", 0xC006: "ECDHE-ECDSA-NULL",
    0x0003: "EXP-RC4", 0x0006: "EXP-RC2", 0x0008: "EXP-DES", 0x0014: "EXP-DHE-DES", 0x0004: "RC4-MD5",
    0x0005: "RC4-SHA", 0xC011: "ECDHE-RC4", 0xC007: "ECDHE-ECDSA-RC4", 0x0009: "DES", 0x0015: "DHE-DES", 0x000A: "3DES",
    0x0016: "DHE-3DES", 0xC012: "ECDHE-3DES", 0xC008: "ECDHE-ECDSA-3DES", 0x0018: "ADH-RC4", 0x001B: "ADH-3DES",
    0x0034: "ADH-AES128", 0x003A: "ADH-AES256", 0x006C: "ADH-AES128-SHA256", 0x00A6: "ADH-AES128-GCM",
    0xC018: "AECDH-AES128", 0xC019: "AECDH-AES256",
}  # fmt: skip
_GROUPS = (29, 23, 24, 25, 256, 257)
_SIGNATURES = (0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0807, 0x0203, 0x0201, 0x0202)
ALERT, HANDSHAKE = 21, 22
SERVER_HELLO, CERTIFICATE, SERVER_KEY_EXCHANGE, SERVER_HELLO_DONE = 2, 11, 12, 14


@dataclass(frozen=True)
class ServerHello:
    """What the server chose.

    Attributes:
        version: code point, 0x0304 for TLS 1.3 also when it stands in supported_versions.
        suite: cipher suite code point.
    """

    version: int
    suite: int


def client_hello(version: int, *, suites: tuple[int, ...] | None = None, name: str = "") -> bytes:
    """Give a ClientHello record that offers exactly one version.

    Args:
        version: code point out of `VERSIONS`.
        suites: cipher suites offered; by default all that the version may use.
        name: server name to send (SNI), empty for none.
    """
    if suites is None:
        suites = SUITES_13 if version == 0x0304 else SUITES
    extensions = b"" if version == 0x0300 else _extensions(version, name)
    offered = b"".join(struct.pack("!H", suite) for suite in suites)
    session = os.urandom(32) if version == 0x0304 else b""  # middlebox compatibility, RFC 8446 D.4
    body = struct.pack("!H", min(version, 0x0303)) + os.urandom(32) + bytes([len(session)]) + session
    body += struct.pack("!H", len(offered)) + offered + b"\x01\x00"
    if extensions:
        body += struct.pack("!H", len(extensions)) + extensions
    handshake = b"\x01" + struct.pack("!I", len(body))[1:] + body
    return bytes([HANDSHAKE]) + struct.pack("!HH", min(version, 0x0301), len(handshake)) + handshake


def _extensions(version: int, name: str) -> bytes:
    found = _extension(10, _list(_GROUPS)) + _extension(11, b"\x01\x00") + _extension(13, _list(_SIGNATURES))
    if name and not name.replace(".", "").isdigit() and ":" not in name:
        host = name.encode("idna")
        entry = b"\x00" + struct.pack("!H", len(host)) + host
        found += _extension(0, struct.pack("!H", len(entry)) + entry)
    if version == 0x0304:
        found += _extension(43, b"\x02\x03\x04") + _extension(51, b"\x00\x00")
    return found


def _extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!HH", kind, len(body)) + body


def _list(values: tuple[int, ...]) -> bytes:
    packed = b"".join(struct.pack("!H", value) for value in values)
    return struct.pack("!H", len(packed)) + packed


class NotTls(Exception):
    """What came back is no TLS record."""


class Flight:
    """The server's first flight, fed as it arrives.

    Attributes:
        alert: description code of an alert, None without one.
        hello: the ServerHello once it was whole.
        certificate: DER of the server's own certificate, when it was sent in the clear.
        done: nothing more of interest will come in the clear.
        silent: the server neither answered nor hung up in time, so nothing follows from it.
    """

    def __init__(self) -> None:
        self.alert: int | None = None
        self.hello: ServerHello | None = None
        self.certificate: bytes | None = None
        self.done = False
        self.silent = False
        self._records = bytearray()
        self._handshake = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in what was received.

        Raises:
            NotTls: this is no TLS.
        """
        self._records += data
        if self._records and self._records[0] not in (ALERT, HANDSHAKE, 20, 23):
            raise NotTls
        while len(self._records) >= 5:
            kind, major, length = self._records[0], self._records[1], int.from_bytes(self._records[3:5], "big")
            if kind not in (ALERT, HANDSHAKE, 20, 23) or major != 3 or length > 18_432:
                raise NotTls
            if len(self._records) < 5 + length:
                return
            body = bytes(self._records[5 : 5 + length])
            del self._records[: 5 + length]
            self._record(kind, body)

    def _record(self, kind: int, body: bytes) -> None:
        if kind == ALERT and len(body) >= 2:
            self.alert, self.done = body[1], True
        elif kind == HANDSHAKE:
            self._handshake += body
            while len(self._handshake) >= 4:
                length = int.from_bytes(self._handshake[1:4], "big")
                if len(self._handshake) < 4 + length:
                    return
                message = bytes(self._handshake[4 : 4 + length])
                kind_of = self._handshake[0]
                del self._handshake[: 4 + length]
                self._message(kind_of, message)
        else:
            self.done = True  # encrypted from here on

    def _message(self, kind: int, body: bytes) -> None:
        if kind == SERVER_HELLO:
            self.hello = _server_hello(body)
            self.done = self.hello.version == 0x0304
        elif kind == CERTIFICATE and len(body) >= 6:
            length = int.from_bytes(body[3:6], "big")
            self.certificate, self.done = body[6 : 6 + length], True
        elif kind in (SERVER_KEY_EXCHANGE, SERVER_HELLO_DONE):
            self.done = True


def _server_hello(body: bytes) -> ServerHello:
    try:
        version = int.from_bytes(body[0:2], "big")
        at = 35 + body[34]
        suite = int.from_bytes(body[at : at + 2], "big")
        at += 3
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        at += 2
        while at + 4 <= min(end, len(body)):
            kind, length = struct.unpack_from("!HH", body, at)
            if kind == 43 and length == 2:
                version = int.from_bytes(body[at + 4 : at + 6], "big")
            at += 4 + length
    except (IndexError, struct.error) as error:
        raise NotTls from error
    return ServerHello(version, suite)
