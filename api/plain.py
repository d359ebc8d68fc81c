"""The status door's connections: plain HTTP/1.1 with the limits that ``api.tls`` gives the other two doors.

uvicorn's own protocol reads a head of any size, waits for it for ever and takes any number of connections. Whoever can
reach the status door needs no certificate, so here, too: a bounded head (``api.wire``), deadlines for head, body and
answer, and limited connections, in all and from one address. Limits: HTTP/1.1 only.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Any, cast

from api.tls import Limits
from api.wire import HttpInner


class PlainDoor:
    """What all connections of a plain door share: limits and counts."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._addresses: Counter[str] = Counter()

    def protocol(self) -> type[asyncio.Protocol]:
        """The class-like factory for ``uvicorn.Config(http=…)``."""
        return cast("type[asyncio.Protocol]", partial(PlainProtocol, self))

    def admit(self, address: str) -> bool:
        """Counts a new connection in; False when the address or the door is full."""
        if self._addresses[address] >= self.limits.per_address or self._addresses.total() >= self.limits.total:
            return False
        self._addresses[address] += 1
        return True

    def dismiss(self, address: str) -> None:
        """Counts a connection out."""
        self._addresses[address] -= 1
        if self._addresses[address] <= 0:
            del self._addresses[address]


class PlainProtocol(HttpInner):
    """One TCP connection: its own outside, so that ``HttpInner`` finds its deadlines here."""

    def __init__(self, door: PlainDoor, **uvicorn_arguments: Any) -> None:
        super().__init__(self, **uvicorn_arguments)
        self.door = door
        self._address: str | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A TCP connection: take it, or drop it when there are too many."""
        plain = cast(asyncio.Transport, transport)
        address = str((plain.get_extra_info("peername") or ("",))[0])
        if not self.door.admit(address):
            plain.abort()
            return
        self._address = address
        super().connection_made(plain)
        self.watch(self.door.limits.header)

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer, as long as somebody listens."""
        if self._address is not None and not self.transport.is_closing():
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection is gone."""
        self.unwatch()
        self._unwatch_write()
        if self._address is not None:
            self.door.dismiss(self._address)
            self._address = None
            super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The peer does not read; it may not do so for ever."""
        self._unwatch_write()
        self._write_deadline = self.loop.call_later(self.door.limits.stall, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._unwatch_write()
        super().resume_writing()

    def watch(self, seconds: float) -> None:
        """The peer has this long for what it owes next; replaces an earlier deadline."""
        self.unwatch()
        self._deadline = self.loop.call_later(seconds, self._late)

    def unwatch(self) -> None:
        """The peer owes nothing now."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    @property
    def watched(self) -> bool:
        """Whether the peer owes something within a deadline."""
        return self._deadline is not None

    def _late(self) -> None:
        self._deadline = None
        if self.flow.read_paused:  # it is us who do not read
            self.watch(self.door.limits.stall)
        else:
            self.transport.abort()

    def _unwatch_write(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
