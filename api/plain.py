"""The status door's connections: plain HTTP/1.1 with the limits that ``api.tls`` gives the other two doors.

uvicorn's own protocol reads a head of any size, waits for it for ever and takes any number of connections. Whoever can
reach the status door needs no certificate, so here, too: a bounded head (``api.http11``), deadlines for head, body and
answer, and limited connections, in all and from one address. Limits: HTTP/1.1 only.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from api.http11 import HttpInner
from api.limits import ConnectionRoom, Deadlines, Limits
from lachan.shared import SharedCounts


class PlainDoor:
    """What all connections of a plain door share: limits and counts."""

    def __init__(self, limits: Limits | None = None, counts: SharedCounts | None = None) -> None:
        self.limits = limits or Limits()
        self.room = ConnectionRoom(self.limits, counts)

    def protocol(self) -> type[asyncio.Protocol]:
        """Give the class-like factory for ``uvicorn.Config(http=…)``."""
        return cast("type[asyncio.Protocol]", partial(PlainProtocol, self))


class PlainProtocol(HttpInner):
    """One TCP connection: its own outside, so that ``HttpInner`` finds its deadlines here."""

    def __init__(self, door: PlainDoor, **uvicorn_arguments: Any) -> None:
        super().__init__(self, **uvicorn_arguments)
        self.door = door
        self._address: str | None = None
        self.deadlines = Deadlines(door.limits, abort=self._abort, paused=lambda: self.flow.read_paused)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a TCP connection, or drop it when there are too many."""
        plain = cast(asyncio.Transport, transport)
        address = str((plain.get_extra_info("peername") or ("",))[0])
        if not self.door.room.admit(address):
            plain.abort()
            return
        self._address = address
        super().connection_made(plain)
        self.deadlines.watch(self.door.limits.header)

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer, as long as somebody listens."""
        if self._address is not None and not self.transport.is_closing():
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the TCP connection is gone."""
        self.deadlines.end()
        if self._address is not None:
            self.door.room.dismiss(self._address)
            self._address = None
            super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Note that the peer does not read; it may not do so for ever."""
        self.deadlines.unread()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the peer reads again."""
        self.deadlines.read()
        super().resume_writing()

    def _abort(self) -> None:
        self.transport.abort()
