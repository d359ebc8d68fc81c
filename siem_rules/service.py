"""The verbs of detection, for the doors and commands: alerts listed, read, worked on; lines taken in and looked at.

Taking lines in is `siem_rules.ingest`; findings become alerts in `siem_rules.alerts`, inside the detector alone.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.events import AlertAcknowledged, AlertAssigned, AlertClosed, AlertCommented
from lachan.identity import Permission, Principal, require, scope
from lachan.ids import new_id
from lachan.work import outbox
from siem_rules.errors import AlertClosedAlready, AlertUnknown
from siem_rules.logs import Line, newest
from siem_rules.models import alert_comments, alerts

__all__ = ["VERDICTS", "Line", "acknowledge", "assign", "close", "comment", "get", "listed", "newest"]

VERDICTS = ("true_positive", "false_positive", "benign", "duplicate")


def listed(
    connection: sa.Connection,
    principal: Principal,
    *,
    limit: int = 50,
    before: tuple[datetime, str] | None = None,
    state: str = "",
    device_id: str = "",
    severity: str = "",
) -> list[dict[str, Any]]:
    """Alerts that the principal may see, newest first; merged ones are left out.

    Args:
        connection: for reading.
        principal: who asks.
        limit: most rows.
        before: ``created_at`` and id of the last one shown.
        state: only this state.
        device_id: only this device.
        severity: only this severity.

    Raises:
        Forbidden: the principal may not read alerts.
    """
    require(principal, Permission.ALERTS_READ)
    columns = [column for column in alerts.c if column.name not in ("why", "evidence", "key", "group_key")]
    query = sa.select(*columns).where(alerts.c.merged_into.is_(None))
    query = (
        scope(principal, query, alerts.c.vendor).order_by(alerts.c.created_at.desc(), alerts.c.id.desc()).limit(limit)
    )
    for column, wanted in ((alerts.c.state, state), (alerts.c.device_id, device_id), (alerts.c.severity, severity)):
        query = query.where(column == wanted) if wanted else query
    if before is not None:
        moment = before[0]
        query = query.where(
            sa.or_(alerts.c.created_at < moment, sa.and_(alerts.c.created_at == moment, alerts.c.id < before[1]))
        )
    return [dict(row) for row in connection.execute(query).mappings()]


def get(connection: sa.Connection, principal: Principal, alert_id: str) -> dict[str, Any]:
    """One alert with its why, evidence and comments.

    Raises:
        AlertUnknown: there is none that the principal may see.
        Forbidden: the principal may not read alerts.
    """
    require(principal, Permission.ALERTS_READ)
    query = scope(principal, sa.select(alerts).where(alerts.c.id == alert_id), alerts.c.vendor)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise AlertUnknown(f"No alert {alert_id}.")
    comments = sa.select(alert_comments).where(alert_comments.c.alert_id == alert_id).order_by(alert_comments.c.id)
    found = {name: value for name, value in row.items() if name not in ("key", "group_key")}
    return found | {"comments": [dict(comment) for comment in connection.execute(comments).mappings()]}


def acknowledge(connection: sa.Connection, principal: Principal, alert_id: str) -> None:
    """Say that somebody looks at it.

    Raises:
        AlertUnknown: there is none that the principal may see.
        AlertClosedAlready: it is closed.
    """
    row = _for_work(connection, principal, alert_id)
    if row["state"] != "open":
        return
    _set(connection, alert_id, state="acknowledged")
    outbox.append(connection, AlertAcknowledged(device_id=row["device_id"], alert_id=alert_id), actor=principal)


def assign(connection: sa.Connection, principal: Principal, alert_id: str, *, assignee: str) -> None:
    """Give it to somebody, by name; empty takes it back.

    Raises:
        AlertUnknown: there is none that the principal may see.
        AlertClosedAlready: it is closed.
    """
    row = _for_work(connection, principal, alert_id)
    _set(connection, alert_id, assignee=assignee[:200])
    fact = AlertAssigned(device_id=row["device_id"], alert_id=alert_id, assignee=assignee[:200])
    outbox.append(connection, fact, actor=principal)


def comment(connection: sa.Connection, principal: Principal, alert_id: str, *, text: str) -> str:
    """Add a comment (at most 4 000 characters) and return its id; also on closed alerts.

    Raises:
        AlertUnknown: there is none that the principal may see.
    """
    row = _for_work(connection, principal, alert_id, closed=True)
    comment_id = new_id()
    connection.execute(
        alert_comments.insert().values(
            id=comment_id, alert_id=alert_id, author=principal.label, text=text[:4000], created_at=clock.now()
        )
    )
    outbox.append(
        connection, AlertCommented(device_id=row["device_id"], alert_id=alert_id, comment=text[:4000]), actor=principal
    )
    return comment_id


def close(connection: sa.Connection, principal: Principal, alert_id: str, *, verdict: str) -> None:
    """Close it with one of `VERDICTS`; what is received from now on opens another one.

    Raises:
        AlertUnknown: there is none that the principal may see.
        AlertClosedAlready: it is closed.
    """
    row = _for_work(connection, principal, alert_id)
    _set(connection, alert_id, state="closed", verdict=verdict, cut_at=clock.now())
    outbox.append(
        connection, AlertClosed(device_id=row["device_id"], alert_id=alert_id, verdict=verdict), actor=principal
    )


def _for_work(connection: sa.Connection, principal: Principal, alert_id: str, *, closed: bool = False) -> Any:
    require(principal, Permission.ALERTS_WRITE)
    query = scope(principal, sa.select(alerts).where(alerts.c.id == alert_id), alerts.c.vendor)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise AlertUnknown(f"No alert {alert_id}.")
    if row["state"] == "closed" and not closed:
        raise AlertClosedAlready(f"Alert {alert_id} is closed.")
    return row


def _set(connection: sa.Connection, alert_id: str, **values: Any) -> None:
    connection.execute(alerts.update().where(alerts.c.id == alert_id).values(**values))
