"""Rows of containment as they travel between functions: frozen, with enums for closed sets.

A function that writes a row gives the row as it is then; nobody changes one in place. Limits: a record is what was read,
not what stands now: whoever decides by it holds its device's lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from lachan.enforcement import Level
from soar_playbooks.containment.guards import Guard
from soar_playbooks.states import ContainmentState


@dataclass(frozen=True, kw_only=True)
class Containment:
    """A row of ``containments``; the attributes are its columns.

    ``level`` and ``until`` are in effect; ``wanted``, and with ``longer`` the end ``longer_seconds`` from the approval (None:
    no end), wait for ``needed`` people because of ``guard``.
    """

    id: str
    device_id: str
    vendor: str
    site: str
    state: ContainmentState
    level: Level
    wanted: Level
    guard: Guard
    guard_reason: str
    needed: int
    round: int
    reason: str
    run_id: str
    alert_id: str
    requested_by: str
    requester_id: str
    until: datetime | None
    longer: bool
    longer_seconds: int | None
    counted: tuple[str, ...]
    created_at: datetime
    since: datetime | None
    ended_at: datetime | None
    ended_by: str

    @classmethod
    def of(cls, row: Any) -> Containment:
        """Build it of a row as the database gives it."""
        values = {name: getattr(row, name) for name in _CONTAINMENT}
        values |= {"state": ContainmentState(row.state), "level": Level(row.level), "wanted": Level(row.wanted)}
        return cls(**values | {"guard": Guard(row.guard), "counted": tuple(row.counted)})

    @property
    def columns(self) -> dict[str, Any]:
        """What the database keeps of it."""
        return {name: getattr(self, name) for name in _CONTAINMENT} | {"counted": list(self.counted)}


@dataclass(frozen=True, kw_only=True)
class ReleaseCount:
    """A containment, and how many persons have approved its release."""

    containment: Containment
    approvals: int
    needed: int


@dataclass(frozen=True, kw_only=True)
class KillSwitchState:
    """Whether automatic containment is stopped, and who said so when and why."""

    active: bool = False
    reason: str = ""
    by: str = ""
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class PersonDecision:
    """What one person decided about a run or a containment."""

    kind: str
    person: str
    decision: str
    note: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A row of ``enforcements``: what a point is to be driven to for a device, and what it has said of itself.

    Attributes:
        device_id, point: which device, at which enforcement point.
        containment_id: whose wish it is.
        wanted: the level; None is back to nothing.
        state: ``pending`` or ``settled``.
        intent: names this one wish; a later one has another.
        attempts: tries to settle it.
        evidence: the latest that the point gave.
        last_error: of the latest try that failed.
        updated_at: when the row was written last.
    """

    device_id: str
    point: str
    containment_id: str
    wanted: Level | None
    state: str
    intent: str
    attempts: int
    evidence: Mapping[str, Any] | None
    last_error: str
    updated_at: datetime

    @classmethod
    def of(cls, row: Any) -> Wish:
        """Build it of a row as the database gives it."""
        values = {name: getattr(row, name) for name in _WISH}
        return cls(**values | {"wanted": Level(row.wanted) if row.wanted else None})

    @property
    def columns(self) -> dict[str, Any]:
        """What the database keeps of it."""
        wanted = None if self.wanted is None else str(self.wanted)
        return {name: getattr(self, name) for name in _WISH} | {"wanted": wanted}

    @property
    def key(self) -> dict[str, str]:
        """What names it: also the payload of its jobs."""
        return {"device_id": self.device_id, "point": self.point, "intent": self.intent}


_CONTAINMENT = tuple(field.name for field in fields(Containment))
_WISH = tuple(field.name for field in fields(Wish))
