"""What leaves this room: runs with their journal, containments with who decided, for API, console and CLI.

Plain dictionaries of JSON-able values; `api` gives them their models. All queries are narrowed to the caller's vendor.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lachan import devices
from lachan.enforcement import Level, Target, points
from lachan.identity import Principal, scope
from lachan.runtime import Runtime
from soar_playbooks.containment import approvals, reconciler, service, shown
from soar_playbooks.containment.records import Containment
from soar_playbooks.models import containments, run_alerts, run_journal, runs
from soar_playbooks.runs import decisions as run_decisions
from soar_playbooks.runs.records import RunRecord
from soar_playbooks.states import OPEN

RUN_FIELDS = (
    "id", "playbook_id", "playbook_name", "playbook_version", "digest", "mode", "alert_id", "device_id", "vendor", "state",
    "step", "guard", "needed", "outcome", "error", "created_at", "updated_at", "ended_at",
)  # fmt: skip
CONTAINMENT_FIELDS = (
    "id", "device_id", "vendor", "site", "state", "level", "wanted", "guard", "guard_reason", "needed", "reason", "run_id",
    "alert_id", "requested_by", "until", "longer", "longer_seconds", "created_at", "since", "ended_at", "ended_by",
)  # fmt: skip
_DEVICE_NAME = devices.devices.c.name.label("device_name")


def list_runs(
    connection: sa.Connection,
    principal: Principal,
    *,
    limit: int,
    before: str = "",
    state: str = "",
    device_id: str = "",
    alert_id: str = "",
) -> list[dict[str, Any]]:
    """Give runs that the principal may see, newest first."""
    query = _newest(sa.select(runs, _DEVICE_NAME), runs, limit=limit, before=before, state=state)
    query = query.where(runs.c.device_id == device_id) if device_id else query
    if alert_id:
        joined = sa.select(run_alerts.c.run_id).where(run_alerts.c.alert_id == alert_id)
        query = query.where(sa.or_(runs.c.alert_id == alert_id, runs.c.id.in_(joined)))
    found = connection.execute(scope(principal, _joined(query, runs), runs.c.vendor))
    return [{**_run(RunRecord.of(row)), "device_name": row.device_name} for row in found]


def show_run(connection: sa.Connection, principal: Principal, run_id: str) -> dict[str, Any]:
    """Give one run with its variables, plan, journal and decisions.

    Raises:
        UnknownRun: there is none, or it is another vendor's.
    """
    row = run_decisions.find(connection, principal, run_id)
    query = sa.select(run_journal).where(run_journal.c.run_id == run_id)
    order = query.order_by(run_journal.c.position, run_journal.c.phase.desc())
    return {
        **_run(row), "device_name": _name(connection, row.device_id), "variables": row.variables,
        "facts": row.facts, "plan": row.plan or [],
        "journal": [
            {name: entry[name] for name in ("step_id", "occurrence", "phase", "at", "body")}
            for entry in connection.execute(order).mappings()
        ],
        "decisions": decided(connection, run_id), "alerts": shown.alerts_of(row.facts),
        "shown": run_decisions.shown_of(connection, row),
    }  # fmt: skip


def list_containments(
    connection: sa.Connection,
    principal: Principal,
    *,
    limit: int,
    before: str = "",
    state: str = "",
    device_id: str = "",
) -> list[dict[str, Any]]:
    """Give containments that the principal may see, newest first; ``state`` may be ``open``."""
    query = sa.select(containments, _DEVICE_NAME)
    query = _newest(query, containments, limit=limit, before=before, state="" if state == "open" else state)
    query = query.where(containments.c.state.in_(OPEN)) if state == "open" else query
    query = query.where(containments.c.device_id == device_id) if device_id else query
    found = connection.execute(scope(principal, _joined(query, containments), containments.c.vendor))
    return [{**_pick(Containment.of(row), CONTAINMENT_FIELDS), "device_name": row.device_name} for row in found]


def show_containment(
    rt: Runtime, connection: sa.Connection, principal: Principal, containment_id: str
) -> dict[str, Any]:
    """Give one containment with its decisions, how many more are needed, and what the enforcement points did.

    Raises:
        UnknownContainment: there is none, or it is another vendor's.
    """
    row = service.find(connection, containment_id, principal)
    states = reconciler.state_of(connection, row.device_id)
    releases = approvals.count(connection, row.id, "release")
    return {
        **_pick(row, CONTAINMENT_FIELDS), "device_name": _name(connection, row.device_id),
        "decisions": decided(connection, row.id), "releases": releases, "releases_needed": approvals.RELEASES_NEEDED,
        "alerts": shown.of_containment(connection, row), "shown": shown.at_containment(connection, row),
        "points": [
            {name: getattr(state, name) for name in ("point", "wanted", "state", "attempts", "evidence", "last_error", "updated_at")}
            for state in states
            if state.containment_id == row.id
        ],
    }  # fmt: skip


def plan(rt: Runtime, connection: sa.Connection, principal: Principal, device_id: str, level: Level) -> dict[str, Any]:
    """Tell what a containment at a level would change at each point; changes nothing.

    Raises:
        NotFound: there is no such device, or it is another vendor's.
    """
    device = devices.get(connection, device_id, principal=principal)
    target = Target(device_id=device.id, name=device.name, vendor=device.vendor, site=device.site)
    return {name: point.plan(rt, target, level) for name, point in points(rt).items()}


def decided(connection: sa.Connection, subject_id: str) -> list[dict[str, Any]]:
    """Tell who decided what on a run or containment."""
    return [
        {name: getattr(row, name) for name in ("kind", "person", "decision", "note", "at")}
        for row in approvals.given(connection, subject_id)
    ]


def _newest(query: sa.Select[Any], table: sa.Table, *, limit: int, before: str, state: str) -> sa.Select[Any]:
    query = query.where(table.c.id < before) if before else query
    query = query.where(table.c.state == state) if state else query
    return query.order_by(table.c.id.desc()).limit(limit)


def _joined(query: sa.Select[Any], table: sa.Table) -> sa.Select[Any]:
    return query.select_from(table.outerjoin(devices.devices, devices.devices.c.id == table.c.device_id))


def _name(connection: sa.Connection, device_id: str | None) -> str | None:
    query = sa.select(devices.devices.c.name).where(devices.devices.c.id == device_id)
    return connection.execute(query).scalar() if device_id else None


def _run(row: RunRecord) -> dict[str, Any]:
    """Give what is told of every run; ``waiting_for`` is kind and reference in one word."""
    waiting = row.waiting_for
    told = {"waiting_for": "", "waiting_for_kind": "", "waiting_for_ref": ""}
    if waiting is not None:
        told = {"waiting_for": waiting.text, "waiting_for_kind": str(waiting.kind), "waiting_for_ref": waiting.ref}
    return _pick(row, RUN_FIELDS) | told


def _pick(row: RunRecord | Containment, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}
