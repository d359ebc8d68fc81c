"""The overview: is the city well, and what needs me now? Three numbers, the queue of what needs a person, two charts."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from api.people.access import may, runtime
from api.people.console import pages
from lachan.devices import devices
from lachan.identity import Permission, Principal, scope
from lachan.runtime import Runtime
from ota_signing.models import releases
from posture.models import engagements
from siem_rules.models import alerts
from soar_playbooks.containment import approvals as containment
from soar_playbooks.models import approvals, containments, runs
from soar_playbooks.states import WaitingFor

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
QUEUE = 40
_RECENT = 20


@dataclass(frozen=True)
class Task:
    """Something that waits for a person; ``mine`` tells that the reader's decision is still wanted."""

    since: datetime
    kind: str
    what: str
    device: tuple[str | None, str | None]
    link: str
    why: str
    mine: bool


@router.get("/")
def overview_page(
    request: Request,
    caller: Annotated[Principal, Depends(may(Permission.DEVICES_READ))],
    rt: Annotated[Runtime, Depends(runtime)],
) -> Response:
    """The first page."""
    with rt.db.read() as connection:
        queue = tasks(connection, caller)
        contained = _count(connection, caller, containments, Permission.RUNS_READ, containments.c.state == "active")
        alive = sa.and_(alerts.c.state == "open", alerts.c.merged_into.is_(None))
        opened = _count(connection, caller, alerts, Permission.ALERTS_READ, alive)
        times = _times_to_contain(connection, caller)
        enrolment = _enrolment(connection, caller)
        known = caller.may(Permission.RUNS_READ)
        switch = containment.kill_switch_state(connection) if known else {"active": False}
    return pages.render(
        request, "overview.html", queue=queue[:QUEUE], more=max(0, len(queue) - QUEUE), contained=contained,
        waiting=sum(task.mine for task in queue), alerts=opened, times=times, enrolment=enrolment, switch=switch,
    )  # fmt: skip


def _count(
    connection: sa.Connection, reader: Principal, table: sa.Table, permission: Permission, where: sa.ColumnElement[bool]
) -> int | None:
    """Tell how many rows the reader may see; None if that is not theirs to know."""
    if not reader.may(permission):
        return None
    query = sa.select(sa.func.count()).select_from(table).where(where)
    return int(connection.execute(scope(reader, query, table.c.vendor)).scalar_one())


def tasks(connection: sa.Connection, reader: Principal) -> list[Task]:
    """Tell what needs a person, oldest first."""
    found: list[Task] = []
    if reader.may(Permission.RUNS_READ):
        found += _containments(connection, reader) + _runs(connection, reader)
    if reader.may(Permission.ALERTS_READ):
        found += _alerts(connection, reader)
    if reader.may(Permission.OTA_READ):
        found += _releases(connection, reader)
    if reader.may(Permission.POSTURE_READ) and reader.vendor is None:
        found += _engagements(connection, reader)
    return sorted(found, key=lambda task: task.since)


def _decided(connection: sa.Connection, reader: Principal) -> set[tuple[str, str]]:
    query = sa.select(approvals.c.subject_id, approvals.c.kind).where(approvals.c.person_id == reader.id)
    return {(row.subject_id, row.kind) for row in connection.execute(query)}


def _containments(connection: sa.Connection, reader: Principal) -> list[Task]:
    """Containments that wait for approval, and those whose release one person has approved."""
    c = containments.c
    begun = sa.select(approvals.c.subject_id).where(approvals.c.kind == "release")
    open_ones = sa.and_(c.state.in_(("waiting", "active")), sa.or_(c.guard != "", c.id.in_(begun)))
    query = sa.select(containments, devices.c.name).join(devices, devices.c.id == c.device_id).where(open_ones)
    mine = _decided(connection, reader)
    found: list[Task] = []
    for row in connection.execute(scope(reader, query.limit(500), c.vendor)).mappings():
        release = not row["guard"]
        kind = "release" if release else f"contain-{row['round']}"
        may_decide = reader.may(Permission.CONTAIN_RELEASE if release else Permission.RUNS_APPROVE)
        wanted = may_decide and (row["id"], kind) not in mine and row["requester_id"] != reader.id
        found.append(
            Task(
                row["created_at"], "release" if release else "containment", row["wanted"], (row["device_id"], row["name"]),
                f"/containments/{row['id']}", row["guard"], wanted,
            )
        )  # fmt: skip
    return found


def _runs(connection: sa.Connection, reader: Principal) -> list[Task]:
    """Runs that wait for their plan or an unknown outcome; those that wait for a containment stand there."""
    c = runs.c
    waiting = sa.and_(c.state == "waiting", c.waiting_for_kind.in_((WaitingFor.APPROVAL, WaitingFor.OUTCOME)))
    query = sa.select(runs, devices.c.name).outerjoin(devices, devices.c.id == c.device_id).where(waiting)
    mine = _decided(connection, reader)
    return [
        Task(
            row["created_at"], "run", row["playbook_name"], (row["device_id"], row["name"]), f"/runs/{row['id']}",
            row["guard"], reader.may(Permission.RUNS_APPROVE) and (row["id"], "run") not in mine,
        )
        for row in connection.execute(scope(reader, query.limit(500), c.vendor)).mappings()
    ]  # fmt: skip


def _alerts(connection: sa.Connection, reader: Principal) -> list[Task]:
    """Open alerts that are high or critical, or that bind no device and so start nothing by themselves."""
    c = alerts.c
    columns = (c.id, c.rule_title, c.severity, c.device_id, c.created_at, c.assignee, devices.c.name)
    query = sa.select(*columns).select_from(alerts.outerjoin(devices, devices.c.id == c.device_id))
    query = query.where(c.state == "open", c.merged_into.is_(None), c.severity.in_(("high", "critical")))
    query = query.order_by(c.created_at).limit(500)
    return [
        Task(
            row["created_at"], "alert", row["rule_title"], (row["device_id"], row["name"]), f"/alerts/{row['id']}",
            row["severity"], reader.may(Permission.ALERTS_WRITE) and row["assignee"] in ("", reader.name),
        )
        for row in connection.execute(scope(reader, query, c.vendor)).mappings()
    ]  # fmt: skip


def _releases(connection: sa.Connection, reader: Principal) -> list[Task]:
    c = releases.c
    query = sa.select(c.id, c.vendor, c.model, c.version, c.proposed_at, c.proposer_id).where(c.state == "proposed")
    from ota_signing.models import approvals as given

    mine = set(connection.execute(sa.select(given.c.release_id).where(given.c.person_id == reader.id)).scalars())
    return [
        Task(
            row["proposed_at"], "firmware", f"{row['model']} {row['version']}", (None, None), f"/firmware/{row['id']}",
            row["vendor"],
            reader.may(Permission.OTA_APPROVE) and row["id"] not in mine and row["proposer_id"] != reader.id,
        )
        for row in connection.execute(scope(reader, query.limit(500), c.vendor)).mappings()
    ]  # fmt: skip


def _engagements(connection: sa.Connection, reader: Principal) -> list[Task]:
    c = engagements.c
    query = sa.select(c.id, c.reason, c.requested_at, c.requested_by).where(c.state == "requested").limit(500)
    return [
        Task(
            row["requested_at"], "engagement", row["reason"], (None, None), "/posture", row["requested_by"],
            reader.may(Permission.ENGAGEMENT_APPROVE) and row["requested_by"] != reader.label,
        )
        for row in connection.execute(query).mappings()
    ]  # fmt: skip


def _times_to_contain(connection: sa.Connection, reader: Principal) -> list[tuple[Any, str, float]]:
    """The last containments that an alert led to: when, device, and seconds from the alert's last line to the effect."""
    if not reader.may(Permission.RUNS_READ):
        return []
    c = containments.c
    query = (
        sa.select(c.id, c.since, alerts.c.last_at, devices.c.name)
        .join(alerts, alerts.c.id == c.alert_id)
        .join(devices, devices.c.id == c.device_id)
        .where(c.since.is_not(None))
        .order_by(c.since.desc())
        .limit(_RECENT)
    )
    rows = connection.execute(scope(reader, query, c.vendor)).all()
    return [(row.since, row.name, max(0.0, (row.since - row.last_at).total_seconds())) for row in reversed(rows)]


def _enrolment(connection: sa.Connection, reader: Principal) -> dict[str, int]:
    query = sa.select(devices.c.state, sa.func.count()).group_by(devices.c.state)
    return {str(state): number for state, number in connection.execute(scope(reader, query, devices.c.vendor))}
