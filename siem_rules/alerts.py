"""Alerts: how findings become rows and facts; what people do with them stands in `siem_rules.service`.

One alert is one *episode* of one rule and group, however its lines are dated and whatever the time between them. Only a
person's close or the end of the device's containment cuts it: what was *received* after the cut opens a new alert, and what
was received before it joins the old one, whenever it is looked at. So a sender cannot make more alerts by dating its lines, and
the same attack after a release is news. `record` is the only way in, inside the detector's transaction.

`AlertRaised` is said again of an alert that is known when its independent sources grow from one to two, because that changes what may
be done about it, and when it goes on after `QUIET` seconds without a line: then its sources count anew.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.events import AlertRaised, ContainmentEnded
from lachan.identity.principal import system
from lachan.ids import new_id
from lachan.work import outbox
from siem_rules.engine import EVIDENCE, Finding
from siem_rules.models import alerts
from siem_rules.schema.event import Place
from siem_rules.schema.times import iso

DETECTOR = system("detector")
_LINE = 2000  # characters of one line of evidence
_SENDERS = 50
#: Seconds of receipts without a line after which an episode that goes on is told again.
QUIET = 900.0
_TOGETHER = 10.0
Fetch = Callable[[Place], dict[str, Any] | None]


def record(connection: sa.Connection, finding: Finding, fetch: Fetch) -> str:
    """Make a finding an alert, or let the alert of its episode grow; return the alert's id.

    Args:
        connection: the detector's transaction.
        finding: what the engine found.
        fetch: reads a line of evidence from the log.
    """
    group = hashlib.sha256("\0".join((finding.rule.id, *finding.group)).encode()).hexdigest()
    kept, cut = _episode(connection, finding, group)
    if kept is None:
        return _open(connection, _since(finding, cut), fetch, group=group)
    _grow(connection, finding, fetch, kept)
    return str(kept["id"])


def deduplicated(findings: Iterable[Finding]) -> list[Finding]:
    """Give the same findings with those of one episode made one, in order of the first: a flood becomes few writes.

    Those that were received `_TOGETHER` seconds apart stay apart, since a cut may lie between them.
    """
    made: dict[tuple[object, ...], Finding] = {}
    for finding in findings:
        key = (finding.rule.id, *finding.group, finding.received // _TOGETHER)
        known = made.get(key)
        made[key] = finding if known is None else replace(
            known, first=min(known.first, finding.first), last=max(known.last, finding.last),
            moments=known.moments + finding.moments, heard=known.heard | finding.heard,
            received=max(known.received, finding.received),
        )  # fmt: skip
    return list(made.values())


def _since(finding: Finding, cut: datetime | None) -> Finding:
    """Leave out who was heard before a cut only: a new episode has no witnesses of the one before."""
    if cut is None:
        return finding
    if clock.lies_ahead(cut):  # who was heard before it cannot be told: the line that decides speaks alone
        return replace(finding, heard={label: at for label, at in finding.heard.items() if at == finding.received})
    return replace(finding, heard={label: at for label, at in finding.heard.items() if _moment(at) > cut})


def _episode(connection: sa.Connection, finding: Finding, group: str) -> tuple[Any, datetime | None]:
    """Find the alert that a finding belongs to by the time of its receipt; None if there is none, or after which cut."""
    c = alerts.c
    query = (
        sa.select(alerts)
        .where(c.rule_id == finding.rule.id, c.group_key == group, c.merged_into.is_(None))
        .where(c.received_first <= _latest(finding))  # none from before the clock was put back
        .order_by(c.received_first.desc(), c.id.desc())
        .limit(2)
    )
    rows, received = connection.execute(query).mappings().all(), _moment(finding.received)
    if not rows:
        return None, None
    newest, before = rows[0], rows[1] if len(rows) > 1 else None
    cut = _cut(connection, newest)
    if cut is not None and _after(received, cut):
        return None, cut
    if before is not None and received < newest["received_first"]:
        cut = _cut(connection, before)
        return newest if cut is not None and _after(received, cut) else before, None
    return newest, None


def _latest(finding: Finding) -> datetime:
    """Give the moment past which nothing was received yet, by this machine's clock or by that of who received the line."""
    return max(clock.now(), _moment(finding.received)) + clock.SLACK


def _after(received: datetime, cut: datetime) -> bool:
    """Tell whether something came in after a cut; one that lies ahead was made before the clock was put back."""
    return received > cut or clock.lies_ahead(cut)


def _cut(connection: sa.Connection, alert: Any) -> datetime | None:
    """Tell when an alert's episode was cut: by a person who closed it, or by the end of its device's containment."""
    cut: datetime | None = alert["cut_at"]
    if alert["device_id"] is None:
        return cut
    c = outbox.events.c
    ended = sa.and_(
        c.device_id == alert["device_id"], c.name == ContainmentEnded.__name__, c.happened_at >= alert["received_first"]
    )
    released: datetime | None = connection.execute(sa.select(sa.func.min(c.happened_at)).where(ended)).scalar_one()
    return min((at for at in (cut, released) if at is not None), default=None)


def _grow(connection: sa.Connection, finding: Finding, fetch: Fetch, kept: Any) -> None:
    received = _moment(finding.received)
    ahead = kept["received_last"] > _latest(finding)  # nobody knows how long ago that was
    again = ahead or (received - kept["received_last"]).total_seconds() > max(QUIET, finding.rule.span)
    heard = _since(finding, kept["received_last"]).heard if again else {*kept["senders"], *finding.heard}
    senders = sorted(heard)[:_SENDERS]
    sources = max(1, len(senders)) if finding.binding.bound else kept["sources"]
    values: dict[str, Any] = {
        "first_at": min(_moment(finding.first), kept["first_at"]), "last_at": max(_moment(finding.last), kept["last_at"]),
        "received_last": received if ahead else max(received, kept["received_last"]), "matches": kept["matches"] + finding.moments,
        "senders": senders, "sources": sources,
    }  # fmt: skip
    if again:
        values["evidence"] = [*kept["evidence"], *_evidence(finding, fetch)][-2 * EVIDENCE :]
        values["state"] = "open" if kept["state"] == "acknowledged" else kept["state"]
    connection.execute(alerts.update().where(alerts.c.id == kept["id"]).values(**values))
    if kept["state"] != "closed" and (again or (finding.binding.bound and kept["sources"] < 2 <= sources)):
        _raise(connection, finding, kept["id"], senders=senders, sources=sources)


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _open(connection: sa.Connection, finding: Finding, fetch: Fetch, *, group: str) -> str:
    rule, binding = finding.rule, finding.binding
    senders = sorted(finding.heard)[:_SENDERS]
    sources = max(1, len(senders)) if binding.bound else 1
    key = hashlib.sha256(f"{group}\0{finding.opener}".encode()).hexdigest()
    received = _moment(finding.received)
    why = {
        "rule": {"id": rule.id, "name": rule.name, "title": rule.title, "file": rule.file, "author": rule.author},
        "description": rule.description, "false_positives": list(rule.false_positives),
        "fields": {name: _short(value) for name, value in finding.fields.items()},
        "group": finding.values, "count": finding.count, "window_seconds": rule.span,
        "condition": getattr(rule, "kind", "single"),
        "time": {"trusted": finding.claimed is None, "claimed": None if finding.claimed is None else iso(finding.claimed)},
    }  # fmt: skip
    alert_id = new_id()
    connection.execute(
        alerts.insert().values(
            id=alert_id, key=key, rule_id=rule.id, rule_title=rule.title, severity=rule.level, outcome=str(rule.outcome),
            tags=list(rule.tags), group_key=group, group_values=finding.values,
            device_id=binding.device.id if binding.device else None, vendor=binding.device.vendor if binding.device else None,
            site=binding.site, subject=binding.subject, subject_bound=binding.bound, senders=senders, sources=sources,
            first_at=_moment(finding.first), last_at=_moment(finding.last), received_first=received, received_last=received,
            cut_at=None, matches=finding.moments, why=why, evidence=_evidence(finding, fetch), state="open", verdict="",
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
    decided = max(
        finding.heard, key=lambda label: finding.heard[label], default=None
    )  # who delivered the line that decided
    outbox.append(connection, fact, actor=DETECTOR, happened_at=_moment(finding.last), sender=decided)


def _evidence(finding: Finding, fetch: Fetch) -> list[dict[str, Any]]:
    lines = [line for line in map(fetch, finding.places) if line is not None]
    return [line | {"line": line["line"][:_LINE]} for line in lines]


def _short(value: Any) -> Any:
    return value[:500] if isinstance(value, str) else value
