"""What is kept and told of what a point has seen: its evidence without what differs at every look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lachan import clock
from lachan.enforcement import Evidence
from lachan.events import EnforcementSettled
from soar_playbooks.containment.records import Wish


def stored(row: Wish, evidence: Evidence) -> dict[str, Any]:
    """Give what is kept of evidence; it is redundant if it says what was known, or that there was nothing to do."""
    detail = detail_of(row, evidence)
    same = _essence(row.evidence) == _essence(detail)
    redundant = evidence.settled and (same or bool(evidence.detail.get("nothing")))
    return {
        **detail, "settled": evidence.settled, "observed_at": clock.iso(evidence.observed_at), "redundant": redundant,
    }  # fmt: skip


def detail_of(row: Wish, evidence: Evidence) -> dict[str, Any]:
    """Give what a point saw, with what it was asked for."""
    return {**evidence.detail, "level": str(row.wanted or "none"), "attempts": row.attempts}


def fact(row: Wish, evidence: Evidence) -> EnforcementSettled:
    """Make the fact that a point has settled."""
    return EnforcementSettled(
        device_id=row.device_id, containment_id=row.containment_id, point=row.point,
        evidence=detail_of(row, evidence),
    )  # fmt: skip


def _essence(detail: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Give evidence without what differs at every look; a point that did something again says so by its own fields."""
    noise = {"intent", "attempts", "nothing", "settled", "observed_at", "redundant"}
    return None if detail is None else {name: value for name, value in detail.items() if name not in noise}
