"""Alerts: how findings become rows and facts, and what people do with them.

One alert is one episode of one rule and group. `record` is the only way in, inside the detector's transaction: it opens
an alert and says `AlertRaised`, or lets an open episode grow. A second `AlertRaised` of the same alert is said only when
the number of independent sources grows from one to two, because that changes what may be done about it.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.events import AlertAcknowledged, AlertAssigned, AlertClosed, AlertCommented, AlertRaised
from lachan.identity import Permission, Principal, require, scope
from lachan.identity.principal import system
from lachan.ids import new_id
from lachan.work import outbox
from siem_rules.engine import Finding
from siem_rules.errors import AlertClosedAlready, AlertUnknown
from siem_rules.models import alert_comments, alerts
from siem_rules.schema.event import Place

DETECTOR = system("detector")
VERDICTS = ("true_positive", "false_positive", "benign", "duplicate")
_LINE = 2000  # characters of one line of evidence
_SENDERS = 50
Fetch = Callable[[Place], dict[str, Any] | None]


def record(connection: sa.Connection, finding: Finding, fetch: Fetch) -> str:
    """Make a finding an alert, or let the alert of its episode grow; return the alert's id.

    Args:
        connection: the detector's transaction.
        finding: what the engine found.
        fetch: reads a line of evidence from the log.
    """
    group = hashlib.sha256("\0".join((finding.rule.id, *finding.group)).encode()).hexdigest()
    first, last = (datetime.fromtimestamp(at, UTC) for at in (finding.first, finding.last))
    known = _episodes(connection, finding, group)
    if not known:
        return _open(connection, finding, fetch, group=group, first=first, last=last)
    kept, *swallowed = known
    senders = sorted({*kept["senders"], *finding.senders})[:_SENDERS]
    sources = len(senders) if finding.binding.bound else kept["sources"]
    for other in swallowed:  # a late line joined two episodes
        connection.execute(
            alerts.update()
            .where(alerts.c.id == other["id"])
            .values(merged_into=kept["id"], state="closed", verdict="duplicate")
        )
    connection.execute(
        alerts.update()
        .where(alerts.c.id == kept["id"])
        .values(
            first_at=min(first, kept["first_at"], *(other["first_at"] for other in swallowed)),
            last_at=max(last, kept["last_at"], *(other["last_at"] for other in swallowed)),
            matches=kept["matches"] + finding.moments + sum(other["matches"] for other in swallowed),
            senders=senders, sources=sources,
        )
    )  # fmt: skip
    if finding.binding.bound and kept["sources"] < 2 <= sources:
        _raise(connection, finding, kept["id"], senders=senders, sources=sources)
    return str(kept["id"])


def folded(findings: Iterable[Finding]) -> list[Finding]:
    """The same findings with those of one episode made one, in order of the first: a flood becomes few writes."""
    made: dict[tuple[str, ...], list[Finding]] = {}
    order: list[list[Finding]] = []
    for finding in findings:
        key = (finding.rule.id, *finding.group)
        if key not in made:
            made[key] = []
            order.append(made[key])
        known, span = made[key], finding.rule.span
        if known and finding.first <= known[-1].last + span and known[-1].first <= finding.last + span:
            before = known[-1]
            known[-1] = replace(
                before, first=min(before.first, finding.first), last=max(before.last, finding.last),
                moments=before.moments + finding.moments, senders=before.senders | finding.senders,
            )  # fmt: skip
        else:
            known.append(finding)
    return [finding for group in order for finding in group]


def _episodes(connection: sa.Connection, finding: Finding, group: str) -> list[Any]:
    span = finding.rule.span
    low, high = datetime.fromtimestamp(finding.first - span, UTC), datetime.fromtimestamp(finding.last + span, UTC)
    query = (
        sa.select(alerts)
        .where(alerts.c.rule_id == finding.rule.id, alerts.c.group_key == group, alerts.c.merged_into.is_(None))
        .where(alerts.c.last_at >= low, alerts.c.first_at <= high)
        .order_by(alerts.c.created_at, alerts.c.id)
    )
    return list(connection.execute(query).mappings())


def _open(
    connection: sa.Connection, finding: Finding, fetch: Fetch, *, group: str, first: datetime, last: datetime
) -> str:
    rule, binding = finding.rule, finding.binding
    senders = sorted(finding.senders)[:_SENDERS]
    sources = max(1, len(senders)) if binding.bound else 1
    key = hashlib.sha256(f"{group}\0{finding.opener}".encode()).hexdigest()
    evidence = [line for line in map(fetch, finding.places) if line is not None]
    for line in evidence:
        line["line"] = line["line"][:_LINE]
    why = {
        "rule": {"id": rule.id, "name": rule.name, "title": rule.title, "file": rule.file, "author": rule.author},
        "description": rule.description, "false_positives": list(rule.false_positives),
        "fields": {name: _short(value) for name, value in finding.fields.items()},
        "group": finding.values, "count": finding.count, "window_seconds": rule.span,
        "condition": getattr(rule, "kind", "single"),
    }  # fmt: skip
    alert_id = new_id()
    connection.execute(
        alerts.insert().values(
            id=alert_id, key=key, rule_id=rule.id, rule_title=rule.title, severity=rule.level, outcome=str(rule.outcome),
            tags=list(rule.tags), group_key=group, group_values=finding.values,
            device_id=binding.device.id if binding.device else None, vendor=binding.device.vendor if binding.device else None,
            site=binding.site, subject=binding.subject, subject_bound=binding.bound, senders=senders, sources=sources,
            first_at=first, last_at=last, matches=finding.moments, why=why, evidence=evidence, state="open", verdict="",
            assignee="", merged_into=None, created_at=clock.now(),
        )
    )  # fmt: skip
    _raise(connection, finding, alert_id, senders=senders, sources=sources)
    return alert_id


def _raise(connection: sa.Connection, finding: Finding, alert_id: str, *, senders: list[str], sources: int) -> None:
    rule, binding = finding.rule, finding.binding
    fact = AlertRaised(
        device_id=binding.device.id if binding.device else None, alert_id=alert_id, rule_id=rule.id, rule_title=rule.title,
        severity=rule.level, site=binding.site, subject_bound=binding.bound, outcome=str(rule.outcome), sources=sources,
        senders=tuple(senders), tags=rule.tags,
    )  # fmt: skip
    outbox.append(connection, fact, actor=DETECTOR, happened_at=datetime.fromtimestamp(finding.last, UTC))


def _short(value: Any) -> Any:
    return value[:500] if isinstance(value, str) else value


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
    """Close it with one of `VERDICTS`.

    Raises:
        AlertUnknown: there is none that the principal may see.
        AlertClosedAlready: it is closed.
    """
    row = _for_work(connection, principal, alert_id)
    _set(connection, alert_id, state="closed", verdict=verdict)
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
