"""One device during one run: its address, the scope, and the budget of time and bytes that all probes share."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

from lachan.net import sockets
from lachan.net.sockets import ConnectFailed, Scope, SocketRefused
from posture.probes.observation import Observation, Outcome, observe

CONNECT = "connect"  # the method that every other one implies


class TimeBoxUsedUp(TimeoutError):
    """The run has no time left for this step."""


class ByteBudgetUsedUp(OSError):
    """The device has sent more than a run takes in."""


@dataclass
class ByteBudget:
    """How many bytes a run still takes in: a device that never stops talking is not listened to for ever."""

    left: int = 32 << 20


@dataclass(frozen=True)
class ProbeTarget:
    """What probes are run against.

    Attributes:
        host: address of the device as registered and approved.
        scope: the engagement's scope; the only way to a socket.
        ports: TCP ports to look at, in order.
        step: most seconds for one connection or exchange.
        deadline: ``time.monotonic`` moment after which nothing new is begun.
        octets: how many bytes of answers are still taken in.
        vendor: the device's vendor, lower case: its factory pairs are tried first.
        try_lockout: whether default logins are tried although the declaration names a lock-out.
        lockout: whether the declaration names one.
    """

    host: str
    scope: Scope
    ports: tuple[int, ...]
    step: float = 3.0
    deadline: float = field(default_factory=lambda: time.monotonic() + 25.0)
    octets: ByteBudget = field(default_factory=ByteBudget)
    vendor: str = ""
    try_lockout: bool = False
    lockout: bool = False

    def allows(self, method: str) -> bool:
        """Tell whether the engagement approved a method."""
        return method in self.scope.methods

    def left(self) -> float:
        """Seconds for the next step.

        Raises:
            TimeBoxUsedUp: nothing new is begun.
        """
        left = min(self.step, self.deadline - time.monotonic())
        if left <= 0:
            raise TimeBoxUsedUp("the time box of this run is used up")
        return left

    def take(self, count: int) -> None:
        """Count bytes that were received.

        Raises:
            ByteBudgetUsedUp: with these it is more than the budget; nothing is made of them.
        """
        self.octets.left -= count
        if self.octets.left < 0:
            raise ByteBudgetUsedUp("the device sent more than one run takes in")

    def connect(self, port: int, *, method: str) -> socket.socket:
        """Open one connection through the socket factory.

        Raises:
            SocketRefused: outside the engagement.
            ConnectFailed: tried in vain.
            TimeoutError: the time box is used up.
        """
        return sockets.connect(self.scope, self.host, port, timeout=self.left(), method=method)


def failure(probe: str, error: Exception, *, port: int) -> Observation:
    """Make the observation for a probe that could not look: never a contradiction, never a confirmation."""
    if isinstance(error, SocketRefused):
        return observe(probe, Outcome.NOT_AUTHORISED, str(error.reason), error.detail, port=port)
    if isinstance(error, ConnectFailed):
        if error.reason in ("timeout", "refused", "unreachable"):
            return observe(probe, Outcome.UNREACHABLE, error.reason, error.detail, port=port)
        return observe(probe, Outcome.ERROR, "probe_error", error.detail, port=port)
    if isinstance(error, TimeBoxUsedUp):
        return observe(probe, Outcome.ERROR, "time_box", str(error), port=port)
    if isinstance(error, ByteBudgetUsedUp):
        return observe(probe, Outcome.ERROR, "byte_budget", str(error), port=port)
    if isinstance(error, TimeoutError):
        return observe(probe, Outcome.UNREACHABLE, "timeout", str(error) or "no answer in time", port=port)
    return observe(probe, Outcome.ERROR, "probe_error", type(error).__name__, port=port)
