"""How much patience and room a door has, and the deadlines of one connection: the same for TLS and plain doors.

`Limits` are the numbers, `ConnectionRoom` counts a door's connections, `Deadlines` times what a peer owes: the next bytes, or reading
the answer it asked for. `Peer` is what the HTTP protocol (``api.http11``) needs to know of the connection around it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lachan.addresses import household
from lachan.shared import SharedCounts, SharedMemory


@dataclass(frozen=True)
class Limits:
    """How much patience and room a door has for one peer.

    Attributes:
        handshake: Seconds until the TLS handshake must be finished.
        header: Seconds until a begun request's head must be complete (slow loris).
        stall: Seconds a peer may neither send the body it announced nor read the answer it asked for.
        body_rate: Octets a second that a body must come with on average, once `body_grace` is over.
        body_grace: Seconds until that counts.
        body_seconds: Seconds that a body may take in all.
        per_address: Open connections from one address.
        total: Open connections of the door.
    """

    handshake: float = 10.0
    header: float = 10.0
    stall: float = 60.0
    body_rate: int = 1024
    body_grace: float = 30.0
    body_seconds: float = 3600.0
    per_address: int = 512
    total: int = 8192


class ConnectionRoom:
    """Count a door's connections, in all and by address (an IPv6 /64 is one), over all processes of the door.

    Args:
        limits: of the door.
        counts: where its processes count; of this process alone by default.
    """

    def __init__(self, limits: Limits, counts: SharedCounts | None = None) -> None:
        self.limits = limits
        self._counts = counts or SharedCounts(SharedMemory.alone(), "connections", most=limits.total)

    def admit(self, address: str) -> bool:
        """Count a new connection in; False when the address or the door is full."""
        return self._counts.add(household(address), of_one=self.limits.per_address, of_all=self.limits.total)

    def dismiss(self, address: str) -> None:
        """Count a connection out."""
        self._counts.take_back(household(address))


class Deadlines:
    """What one peer owes, and until when.

    Args:
        limits: of the door.
        abort: ends the connection at once.
        paused: tells whether it is us who do not read, so that the peer cannot send what it owes.
    """

    def __init__(self, limits: Limits, *, abort: Callable[[], None], paused: Callable[[], bool]) -> None:
        self.limits = limits
        self._abort, self._paused = abort, paused
        self._loop = asyncio.get_running_loop()
        self._until: float | None = None  # when it must be here; set three times a request
        self._timer: asyncio.TimerHandle | None = None  # rings then or earlier, and looks
        self._unread: asyncio.TimerHandle | None = None

    def watch(self, seconds: float) -> None:
        """Give the peer this long for what it owes next; replaces an earlier deadline."""
        self._until = until = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= until:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(until, self._rings)

    def unwatch(self) -> None:
        """Note that the peer owes nothing now."""
        self._until = None

    @property
    def watched(self) -> bool:
        """Whether the peer owes something within a deadline."""
        return self._until is not None

    def unread(self) -> None:
        """Note that the peer does not read what we write; it may not do so for ever."""
        self.read()
        self._unread = self._loop.call_later(self.limits.stall, self._abort)

    def read(self) -> None:
        """Note that the peer reads again."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def end(self) -> None:
        """Cancel everything: the connection is gone."""
        self.unwatch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.read()

    def _rings(self) -> None:
        self._timer = None
        if self._until is None:
            return
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._rings)
        elif self._paused():
            self.watch(self.limits.stall)
        else:
            self._abort()


def patience(limits: Limits, *, since: float, size: int, now: float) -> float:
    """Tell how many seconds a peer has for the next piece of a body: what has come buys time at the least rate.

    Args:
        limits: of the door.
        since: when the body began, in seconds of any clock.
        size: octets that have come.
        now: by the same clock.
    """
    bought = max(limits.body_grace, size / limits.body_rate if limits.body_rate else limits.body_seconds)
    return min(limits.stall, since + min(bought, limits.body_seconds) - now)


class Peer(Protocol):
    """The connection around an HTTP protocol: TLS (``api.tls``) or plain (``api.plain``)."""

    deadlines: Deadlines
