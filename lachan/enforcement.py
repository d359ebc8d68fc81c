"""The protocol of an enforcement point, and their registry.

Containment is desired state (design decision 9): the reconciler of `soar_playbooks` drives every point to it and back. A
point is idempotent, survives its own restarts by being driven again, and gives evidence, not "200 OK". A point of our own
that is only rows of the same database (`OwnPoint`) is driven in the containment's transaction: no job, nothing to retry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from lachan import wiring

if TYPE_CHECKING:
    import sqlalchemy as sa

    from lachan.runtime import Runtime


class Level(StrEnum):
    """How hard a device is contained, mildest first."""

    OBSERVE = "observe"
    DEGRADE = "degrade"
    QUARANTINE = "quarantine"
    ISOLATE = "isolate"
    EVICT = "evict"

    @property
    def rank(self) -> int:
        """0 for the mildest, 4 for the hardest."""
        return list(Level).index(self)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The device that a point acts on."""

    device_id: str
    name: str
    vendor: str
    site: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a point saw. ``settled`` means: the wanted state was observed, not merely ordered."""

    settled: bool
    detail: dict[str, Any]
    observed_at: datetime


@dataclass(frozen=True)
class PointLook:
    """What one look at a part of a point saw.

    Attributes:
        levels: of the devices that were asked for and are contained, and of those of the slice.
        cursor: from where the next slice goes on; empty begins again.
    """

    levels: dict[str, Level]
    cursor: str


class EnforcementPoint(Protocol):
    """One thing outside (or a door of ours) that can keep a device from doing something."""

    name: str

    def plan(self, rt: "Runtime", target: Target, level: Level) -> list[str]:
        """Tell what `apply` would change, in words; changes nothing."""

    def apply(self, rt: "Runtime", target: Target, level: Level, *, intent: str) -> Evidence:
        """Bring the device to ``level``; calling again with the same ``intent`` changes nothing more."""

    def verify(self, rt: "Runtime", target: Target, level: Level) -> Evidence:
        """PointLook whether ``level`` really holds."""

    def release(self, rt: "Runtime", target: Target, *, intent: str) -> Evidence:
        """Take back what this point did to the device, and nothing else."""

    def observe(self, rt: "Runtime") -> dict[str, Level]:
        """All devices that this point contains now, with their level."""


@runtime_checkable
class PagedPoint(EnforcementPoint, Protocol):
    """A point that can be looked at a part at a time, so that a look costs the same whatever it contains."""

    def look(
        self, rt: "Runtime", wanted: Sequence[tuple[Target, Level | None]], *, cursor: str, most: int
    ) -> PointLook:
        """Tell which of some devices it contains, and which it contains among the next ``most`` of its own list."""


@runtime_checkable
class OwnPoint(EnforcementPoint, Protocol):
    """A point whose effect is rows of our own database."""

    def join(
        self, rt: "Runtime", connection: "sa.Connection", target: Target, level: Level | None, *, intent: str
    ) -> Evidence:
        """Bring the device to ``level`` (None: back to nothing) in the caller's unit; unsettled evidence is verified later."""

    def verify_all(self, rt: "Runtime", wanted: list[tuple[Target, Level | None]]) -> list[Evidence]:
        """PointLook whether the levels really hold, for many devices at once."""


def own(point: EnforcementPoint) -> OwnPoint | None:
    """Give a point as one of our own, if it is; told by `join` alone, for every containment asks each point."""
    return cast(OwnPoint, point) if hasattr(point, "join") else None


def points(rt: "Runtime") -> dict[str, EnforcementPoint]:
    """Give the points that are active under the present settings, by name.

    A room names a class or a factory ``(rt) -> point or None``; None means that the settings do not use it.
    """
    found = (wiring.resolve(name)(rt) for name in rt.wiring.enforcement)
    return {point.name: point for point in found if point is not None}
