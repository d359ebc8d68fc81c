"""One timeline of a device: facts and log lines, newest first, each with when it happened and when we knew.

Facts come from the ledger's table as the reader may see them; log lines are the newest that the device delivered under
its own certificate. Limits: when a line happened is what the device says, so lines stand where we received them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from api.people.console import labels
from api.people.console.events import SENTENCES
from api.people.v1.events import shown_to
from lachan import clock
from lachan.errors import LachanError
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from lachan.work import outbox
from siem_rules import logs

KINDS = ("certificate", "firmware", "log", "alert", "verdict", "containment", "people")
FACTS = 120
LINES = 12
_CREDIBLE = timedelta(days=3650)  # a line that claims to be further away says nothing
_OF_KIND = {kind: tuple(n for n, (k, _) in SENTENCES.items() if k == kind) for kind in (*KINDS, "other")}


@dataclass(frozen=True)
class TimelineEntry:
    """One line of the timeline; ``happened`` is None where a log line does not say."""

    kind: str
    happened: datetime | None
    recorded: datetime
    name: str
    data: dict[str, Any] | None
    actor: str
    link: str
    event_id: str


def read(
    rt: Runtime, reader: Principal, device_id: str, *, kind: str = "", before: int = 0
) -> tuple[list[TimelineEntry], int]:
    """Give a stretch of the timeline and the place where the next one begins (0: that was all).

    Args:
        rt: the installation.
        reader: who reads; decides what may be seen.
        device_id: a device that the reader may see.
        kind: only this kind.
        before: the place that the stretch before named.
    """
    entries: list[TimelineEntry] = []
    following = 0
    if kind != "log" and reader.may(Permission.EVENTS_READ):
        entries, following = _facts(rt, reader, device_id, kind, before)
    if kind in ("", "log") and not before and reader.may(Permission.LOGS_READ):
        entries += _lines(rt, device_id)
    entries.sort(key=_place, reverse=True)
    return entries, following


def _facts(rt: Runtime, reader: Principal, device_id: str, kind: str, before: int) -> tuple[list[TimelineEntry], int]:
    names = _OF_KIND.get(kind, ()) if kind else ()
    with rt.db.read() as connection:
        rows = outbox.read(
            connection, after=before, limit=FACTS + 1, device_id=device_id, vendor=reader.vendor, names=names,
            newest_first=True,
        )  # fmt: skip
        found = shown_to(connection, reader, rows[:FACTS])
    entries = [
        TimelineEntry(
            labels.kind(fact.name), fact.happened_at, fact.recorded_at, fact.name, fact.data, fact.actor,
            link(reader, fact.name, fact.data or {}, device_id), fact.id,
        )
        for fact in found
    ]  # fmt: skip
    return entries, rows[FACTS - 1].seq if len(rows) > FACTS else 0


def _lines(rt: Runtime, device_id: str) -> list[TimelineEntry]:
    try:
        found = logs.newest(rt, limit=LINES, sender=f"device:{device_id}")
    except (LachanError, OSError):
        return []  # the log's folder is not there before the first line
    return [_line(line) for line in found]


def _line(line: logs.Line) -> TimelineEntry:
    """Give a line as people read it: the message and the time that it claims, where it is JSON that has them."""
    happened, text = None, line.line
    try:
        document = json.loads(text)
        claimed = clock.parse(document["@timestamp"])
        happened = claimed if abs(claimed - line.received) < _CREDIBLE else None
        text = document["message"] if isinstance(document["message"], str) else text
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        pass  # a plain line, or an attacker's idea of JSON: shown as it is
    return TimelineEntry("log", happened, line.received, "", {"line": text}, line.sender, "", "")


def _place(entry: TimelineEntry) -> datetime:
    return entry.recorded if entry.kind == "log" else entry.happened or entry.recorded


def link(reader: Principal, name: str, data: dict[str, Any], device_id: str) -> str:
    """Give the page that tells more about a fact, if the reader may see it."""
    places = (
        ("containment_id", "/containments/{}", Permission.RUNS_READ),
        ("run_id", "/runs/{}", Permission.RUNS_READ),
        ("alert_id", "/alerts/{}", Permission.ALERTS_READ),
        ("release_id", "/firmware/{}", Permission.OTA_READ),
    )
    if name in ("PostureAssessed", "VerdictChanged"):
        return f"/devices/{device_id}/posture" if reader.may(Permission.POSTURE_READ) else ""
    for field, path, permission in places:
        if data.get(field) and reader.may(permission):
            return path.format(data[field])
    return ""
