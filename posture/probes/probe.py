"""What a probe is: the seam between a run over one device and each way of looking at it.

A `Probe` says which method an engagement must approve for it and which names of the catalogue it answers for; its `look`
takes `Inputs` and gives observations, and raises nothing for a device's sake. Its budget is the target's: seconds for one
step and for the run, and bytes taken in (`posture.probes.target.ProbeTarget`). A new probe is one value in `posture.probes.run.TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from lachan import patterns
from lachan.net.answer import HttpAnswer
from posture.probes.observation import Observation
from posture.probes.target import ProbeTarget

MOST = 16  # challenges of one answer that are looked at
_NEXT = patterns.compile(r",\s*[A-Za-z][\w-]*\s+[\w-]+=")


@dataclass(frozen=True)
class Port:
    """What one port did when it was connected and listened to: ``open``, ``closed`` or ``silent``, and its greeting."""

    number: int
    state: str
    greeting: bytes = b""


@dataclass(frozen=True)
class FrontPage:
    """What one port answers over HTTP to somebody who did not sign in."""

    scheme: str
    port: int
    answer: HttpAnswer

    @property
    def challenges(self) -> tuple[str, ...]:
        """The ``WWW-Authenticate`` values of a 401, one for each scheme (RFC 9110 11.6.1), the first `MOST`."""
        if self.answer.status != 401:
            return ()
        values = [value for name, value in self.answer.headers if name == "www-authenticate"]
        return tuple(islice((part for value in values for part in _split(value)), MOST))


@dataclass
class Inputs:
    """What a probe is given: the target, the content, and what the probes before it found.

    Attributes:
        target: the device, its scope and the budget of this run.
        paths: rows of ``criteria/paths.yaml``.
        pairs: rows of ``criteria/credentials.yaml``.
        ports: what each port did; by the sweep.
        encrypted: ports that speak TLS; by the TLS probe, else those that do so by custom.
        pages: front pages; by the web probe.
    """

    target: ProbeTarget
    paths: Sequence[Mapping[str, str]]
    pairs: Sequence[Mapping[str, str]]
    ports: tuple[Port, ...] = ()
    encrypted: set[int] = field(default_factory=lambda: {443, 8443})
    pages: list[FrontPage] = field(default_factory=list)

    @property
    def opened(self) -> list[Port]:
        """The ports that took the connection."""
        return [port for port in self.ports if port.state == "open"]

    @property
    def quiet(self) -> list[int]:
        """The open ports that wait to be spoken to: a service that speaks first is left alone."""
        return [port.number for port in self.opened if not port.greeting]

    @property
    def silent(self) -> str:
        """Which ports did not answer, for people; empty when all did."""
        numbers = ", ".join(str(port.number) for port in self.ports if port.state == "silent")
        return f"ports that did not answer: {numbers}" if numbers else ""


@dataclass(frozen=True)
class Probe:
    """One way of looking at a device.

    Attributes:
        method: what the engagement must approve.
        names: what it answers for, as the catalogue's rows name it.
        look: gives what it saw; for a name that it says nothing about, the run says why.
    """

    method: str
    names: tuple[str, ...]
    look: Callable[[Inputs], list[Observation]]


def _split(value: str) -> list[str]:
    """Take several challenges of one header apart, at commas that are followed by a scheme name."""
    begins = [0, *(found.span()[0] for found in _NEXT.finditer(value))]
    parts = (value[begin:end].strip(" \t,") for begin, end in zip(begins, [*begins[1:], len(value)], strict=True))
    return [part for part in parts if part]
