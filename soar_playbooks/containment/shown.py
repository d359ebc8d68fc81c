"""What an approval covers: the alerts, and what is asked, as they stood when the person looked.

Whoever reads a run or a containment is given a digest over them; an approval that brings it is refused if it is another one
by now, and keeps it. Limits: an approval that brings none covers what there is when it comes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from soar_playbooks.containment.records import Containment
from soar_playbooks.errors import ShownChanged
from soar_playbooks.models import runs

MOST = 100  # alerts of a run that are shown; what comes on top only counts


def alerts_of(facts: Mapping[str, Any]) -> list[str]:
    """Give the alerts of a run in the order in which they came, from its facts."""
    return list(facts.get("alerts") or [facts["alert_id"]] if facts.get("alert_id") else [])


def at_run(run_id: str, facts: Mapping[str, Any], plan: list[dict[str, Any]] | None) -> str:
    """Give the digest of what a person sees of a run that waits: its alerts and its plan."""
    return _digest([run_id, alerts_of(facts), plan or []])


def at_containment(connection: sa.Connection, row: Containment) -> str:
    """Give the digest of what a person sees of a containment that waits: its alerts, level, end, and reason."""
    alerts = of_containment(connection, row)
    return _digest([row.id, row.round, str(row.wanted), row.longer, row.longer_seconds, row.reason, alerts])


def of_containment(connection: sa.Connection, row: Containment) -> list[str]:
    """Give the alerts behind a containment, in the order in which they came."""
    facts = connection.execute(sa.select(runs.c.facts).where(runs.c.id == row.run_id)).scalar() if row.run_id else None
    return alerts_of(facts or {"alert_id": row.alert_id})


def check(shown: str, now: str) -> str:
    """Compare what a person saw with what there is now, and give it.

    Raises:
        ShownChanged: it is something else by now.
    """
    if shown and shown != now:
        raise ShownChanged("Alerts came, or something else changed, since you looked.")
    return now


def _digest(seen: list[Any]) -> str:
    return hashlib.sha256(json.dumps(seen, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
