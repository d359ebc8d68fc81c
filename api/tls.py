"""TLS for the doors: a uvicorn protocol that ends TLS itself, over pyOpenSSL memory BIOs.

What for: EST needs the peer's certificate chain, `tls-unique` (RFC 5929 3) and the TLS exporter (RFC 9266), and no
ASGI server gives them. This protocol does, in ``scope["extensions"]["lachan.tls"]``.

Steps: accept (unless the address or the door is full) → handshake, within a time limit → plaintext to uvicorn's own
HTTP/1.1 parser → its answer, head repaired for old clients (``api.http11``), back through TLS. Buffers are bounded in
both directions: what the application does not read is not decrypted, what the peer does not read is not produced.

Limits: **a finished handshake proves nothing but possession of a key.** Any certificate is accepted here, also none,
expired or self-made ones; ``api.device.access`` judges it and must fail closed. A resumed session carries the leaf
only (OpenSSL keeps no chain in tickets) and is judged anew like any other. HTTP/1.1 only.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL, crypto

from api.http11 import HttpInner, restore_head
from api.limits import ConnectionRoom, Deadlines, Limits
from lachan.shared import SharedCounts

_CHUNK = 64 * 1024
_LARGE = 16 * 1024
_SLICE = 128 * 1024  # octets that are encrypted at once
_TLS12_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
_EXPORTER_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266 2


def server_context(*, chain: Path, key: Path, ask_client: bool) -> SSL.Context:
    """Build the server's TLS context: TLS 1.2 and 1.3, AEAD only, no renegotiation, resumption on.

    Args:
        chain: PEM file, leaf first.
        key: PEM file of the leaf's private key.
        ask_client: Whether a client certificate is asked for (never required: the application judges).

    Raises:
        OpenSSL.SSL.Error: If a file cannot be read or key and certificate do not belong together.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_TLS12_CIPHERS)
    context.set_options(
        SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_IGNORE_UNEXPECTED_EOF
    )
    context.use_certificate_chain_file(str(chain))
    context.use_privatekey_file(str(key))
    context.check_privatekey()
    # Without a context id OpenSSL refuses to resume sessions that carry a client certificate.
    context.set_session_id(hashlib.sha256(f"lachan:{ask_client}".encode()).digest()[:32])
    context.set_alpn_select_callback(_select_alpn)
    if ask_client:
        context.set_verify(SSL.VERIFY_PEER, _accept_any)
    return context


def _accept_any(*_: object) -> bool:
    """Let every handshake finish. Whoever reads the chain must verify it: this is NOT authentication."""
    return True


def _select_alpn(_: SSL.Connection, offered: list[bytes]) -> Any:
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


@cache
def _room() -> tuple[tuple[Any, memoryview], int]:
    """Where what is encrypted passes through on its way to the kernel: one for all, since the loop has one thread."""
    size = _SLICE + 8192  # with what TLS adds to each record of 16 KiB
    made = SSL._ffi.new("char[]", size)  # type: ignore[attr-defined]
    return (made, memoryview(SSL._ffi.buffer(made))), size  # type: ignore[attr-defined]


class TlsDoor:
    """What all connections of one listening door share: context, limits, counts and the register of live ones."""

    def __init__(self, context: SSL.Context, limits: Limits | None = None, counts: SharedCounts | None = None) -> None:
        self.context = context  # may be replaced at any time; new connections take the new one
        self.limits = limits or Limits()
        self.live: set[TlsProtocol] = set()
        self.gone: Callable[[TlsProtocol], None] = lambda _connection: None  # told of each that ended
        self._room = ConnectionRoom(self.limits, counts)

    def protocol(self) -> type[asyncio.Protocol]:
        """Give the class-like factory for ``uvicorn.Config(http=…)``."""
        return cast("type[asyncio.Protocol]", partial(TlsProtocol, self))

    def admit(self, connection: TlsProtocol, address: str) -> bool:
        """Count a new connection in; False when the address or the door is full."""
        if not self._room.admit(address):
            return False
        self.live.add(connection)
        return True

    def dismiss(self, connection: TlsProtocol, address: str) -> None:
        """Count a connection out."""
        self.live.discard(connection)
        self.gone(connection)
        self._room.dismiss(address)


class TlsProtocol(asyncio.Protocol):
    """One TLS connection: encrypted bytes on the outside, uvicorn's HTTP protocol on the inside.

    Attributes:
        identity: Free for the application: what it made of the chain, for the life of the connection.
    """

    def __init__(self, door: TlsDoor, **uvicorn_arguments: Any) -> None:
        self.door = door
        self.inner = HttpInner(self, **uvicorn_arguments)
        self.loop = asyncio.get_running_loop()
        self.identity: object = None
        self.ready = False
        self.reading_paused = False
        self._address = ""
        self._admitted = False
        self.deadlines = Deadlines(door.limits, abort=self._abort, paused=lambda: self.reading_paused)

    # -- asyncio's side ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a TCP connection, or drop it when the peer has too many."""
        self.raw = cast(asyncio.Transport, transport)
        self._address = str((transport.get_extra_info("peername") or ("",))[0])
        self._admitted = self.door.admit(self, self._address)
        if not self._admitted:
            self.raw.abort()
            return
        self._socket = self.raw.get_extra_info("socket").fileno()
        self.tls = SSL.Connection(self.door.context, None)
        self.tls.set_accept_state()
        self.deadlines.watch(self.door.limits.handshake)

    def data_received(self, data: bytes) -> None:
        """Encrypted bytes from the peer."""
        if not self._admitted:
            return
        self.tls.bio_write(data)
        if not self.ready:
            self._handshake()
        if self.ready:
            self.pump()

    def eof_received(self) -> None:
        """TCP end without close_notify: nothing more to say."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the TCP connection is gone."""
        self.deadlines.end()
        if self._admitted:
            self._admitted = False
            self.door.dismiss(self, self._address)
        if self.ready:
            self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Let the application wait while the peer does not read, which it may not do for ever."""
        self.deadlines.unread()
        if self.ready:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Note that the peer reads again."""
        self.deadlines.read()
        if self.ready:
            self.inner.resume_writing()

    def _abort(self) -> None:
        self.raw.abort()

    # -- TLS -----------------------------------------------------------------------------------------------------

    def _handshake(self) -> None:
        try:
            self.tls.do_handshake()
        except SSL.WantReadError:
            self.flush()
            return
        except (SSL.Error, ValueError):
            self.flush()  # the alert
            self.raw.close()
            return
        self.flush()
        self.inner.facts = self._facts()
        self.ready = True
        self.deadlines.watch(self.door.limits.header)
        self.inner.connection_made(_Plain(self))

    def _facts(self) -> dict[str, Any]:
        """Tell what EST may know of the handshake; see ``scope["extensions"]["lachan.tls"]``."""
        leaf = self.tls.get_peer_certificate()  # OpenSSL's, unread: what they say is the judge's business
        rest = self.tls.get_peer_cert_chain() or []  # on a server it lacks the leaf
        octets = partial(crypto.dump_certificate, crypto.FILETYPE_ASN1)
        chain = [] if leaf is None else [octets(item) for item in (leaf, *rest)]
        version = self.tls.get_protocol_version_name()
        return {
            "chain": chain,
            "tls_unique": self._tls_unique() if version != "TLSv1.3" else None,
            "exporter": self.tls.export_keying_material(_EXPORTER_LABEL, 32, b""),
            "version": version,
            "resumed": self._resumed(),
        }

    def _resumed(self) -> bool:
        # pyOpenSSL offers no public call for this; the binding it is made of does.
        return bool(SSL._lib.SSL_session_reused(self.tls._ssl))  # type: ignore[attr-defined]

    def _tls_unique(self) -> bytes | None:
        # RFC 5929 3.1: the first Finished message: the client's, but the server's in an abbreviated handshake.
        return self.tls.get_finished() if self._resumed() else self.tls.get_peer_finished()

    def pump(self) -> None:
        """Decrypt what has arrived and hand it to the HTTP parser, as long as that one wants it."""
        try:
            while not self.reading_paused and not self.raw.is_closing():
                self.inner.data_received(self.tls.recv(_CHUNK))
        except SSL.WantReadError:
            self.flush()
        except SSL.ZeroReturnError:  # the peer's close_notify
            self.close()
        except SSL.Error:
            self.flush()
            self.raw.abort()

    def send(self, plain: bytes | memoryview) -> None:
        """Encrypt and send, a slice at a time, so that what is copied stays in the processor's cache."""
        view = memoryview(plain)
        for start in range(0, len(view), _SLICE):
            if self.raw.is_closing():
                return
            try:
                self.tls.sendall(view[start : start + _SLICE])
            except SSL.Error:
                self.raw.abort()
                return
            self.flush()

    def flush(self) -> None:
        """Move what OpenSSL has produced to the socket: straight into the kernel while it takes it."""
        room, size = _room()
        lib, bio = SSL._lib, self.tls._from_ssl  # type: ignore[attr-defined]
        while (count := lib.BIO_read(bio, room[0], size)) > 0:
            made = room[1][:count]
            sent = 0
            if not self.raw.get_write_buffer_size() and not self.raw.is_closing():
                try:
                    sent = os.write(self._socket, made)
                except OSError:  # full, or gone: the transport finds out which
                    sent = 0
            if sent < count:
                self.raw.write(bytes(made[sent:]))
        lib.ERR_clear_error()  # an empty BIO is no error of ours

    def close(self) -> None:
        """End the connection in order: close_notify, then TCP."""
        if self.raw.is_closing():
            return
        try:
            self.tls.shutdown()
        except SSL.Error:
            pass  # the peer broke off first
        self.flush()
        self.raw.close()

    def cut(self) -> None:
        """End the connection now, also when the peer does not read or a request is under way."""
        if self.ready:
            self.close()
        self.raw.abort() if self.raw.get_write_buffer_size() else self.raw.close()


class _Plain(asyncio.Transport):
    """The transport that uvicorn sees: plaintext.

    It is written once per turn of the loop, so that head and body share a TLS record.
    """

    def __init__(self, outer: TlsProtocol) -> None:
        super().__init__()
        self._outer = outer
        self._waiting: list[bytes] = []
        self._size = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the socket's transport says; ``sslcontext`` makes uvicorn know that this is https."""
        return (
            self._outer.tls if name in ("sslcontext", "ssl_object") else self._outer.raw.get_extra_info(name, default)
        )

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take plaintext; send it at the end of this turn, or at once when it is much."""
        if not data or self._outer.raw.is_closing():
            return
        if self._outer.inner.head_due:
            data = restore_head(bytes(data), self._outer.inner)
        if len(data) >= _LARGE:  # by itself: putting it together with others would copy it
            self._send()
            self._outer.send(data if isinstance(data, bytes) else memoryview(data))
            return
        if not self._waiting:
            self._outer.loop.call_soon(self._send)
        self._waiting.append(bytes(data))
        self._size += len(data)
        if self._size >= _CHUNK:
            self._send()

    def _send(self) -> None:
        if self._waiting:
            plain, self._waiting, self._size = b"".join(self._waiting), [], 0
            self._outer.send(plain)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Take several pieces."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Send what waits, then end in order."""
        self._send()
        self._outer.close()

    def abort(self) -> None:
        """End at once."""
        self._outer.raw.abort()

    def is_closing(self) -> bool:
        """Tell whether the end has begun."""
        return self._outer.raw.is_closing()

    def pause_reading(self) -> None:
        """Stop decrypting and stop reading the socket."""
        self._outer.reading_paused = True
        self._outer.raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on with what was left undecrypted, then with the socket."""
        if self._outer.reading_paused:
            self._outer.reading_paused = False
            if not self._outer.raw.is_closing():
                self._outer.raw.resume_reading()
                self._outer.loop.call_soon(self._outer.pump)

    def get_write_buffer_size(self) -> int:
        """Bytes not yet taken by the socket."""
        return self._size + self._outer.raw.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        """TLS has no half-close here."""
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Not supported: no protocol is switched to on these doors (no WebSocket)."""
        raise NotImplementedError("no protocol upgrade on this door")
