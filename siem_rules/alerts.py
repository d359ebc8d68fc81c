"""Alerts: how findings become rows and facts; what people do with them stands in `siem_rules.service`.

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
from lachan.events import AlertRaised
from lachan.identity.principal import system
from lachan.ids import new_id
from lachan.work import outbox
from siem_rules.engine import Finding
from siem_rules.models import alerts
from siem_rules.schema.event import Place

DETECTOR = system("detector")
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


def deduplicated(findings: Iterable[Finding]) -> list[Finding]:
    """Give the same findings with those of one episode made one, in order of the first: a flood becomes few writes."""
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
