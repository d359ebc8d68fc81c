"""A run's row as it travels between functions that have not claimed it: frozen, with enums for closed sets.

`soar_playbooks.runs.journal.Run` is the same run as the worker knows it that has claimed it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from soar_playbooks.states import Awaited, RunState


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A row of ``runs``; the attributes are its columns, but for ``waiting_for``, which is two of them."""

    id: str
    playbook_id: str
    playbook_name: str
    playbook_version: str
    digest: str
    mode: str
    event_id: str
    alert_id: str
    device_id: str | None
    vendor: str | None
    facts: dict[str, Any]
    variables: dict[str, Any]
    state: RunState
    step: str
    fence: int
    occurrence: int
    follow_up: bool
    waiting_for: Awaited | None
    guard: str
    needed: int
    plan: list[dict[str, Any]] | None
    outcome: str
    error: str
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, row: Any) -> RunRecord:
        """Build it of a row as the database gives it."""
        values = {field.name: getattr(row, field.name) for field in fields(cls) if field.name != "waiting_for"}
        waiting = Awaited.of(row.waiting_for_kind, row.waiting_for_ref)
        return cls(**values | {"state": RunState(row.state), "waiting_for": waiting})
