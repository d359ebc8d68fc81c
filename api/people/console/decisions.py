"""The trust decision as pages show it: with ``unknown`` for a device of which nothing is known yet, and its reasons' links.

A device that is registered and never enrolled has no signal against it, so `lachan.trust` says allow; but it has no
certificate either, and no door lets it in. Pages show that as unknown, never as allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lachan import clock, trust
from lachan.devices import Device, DeviceState
from lachan.identity import Permission, Principal
from lachan.trust import Answer, Signal, trust_signals

UNKNOWN = "unknown"


@dataclass(frozen=True)
class DecisionReason:
    """One reason of a decision and where its evidence stands; ``link`` is empty when the reader may not see it."""

    signal: Signal
    link: str


def shown(device: Device, answer: Answer) -> str:
    """Give the decision's code: one of the four answers, or unknown."""
    if answer is Answer.ALLOW and device.state is DeviceState.REGISTERED:
        return UNKNOWN
    return str(answer)


def of_many(connection: sa.Connection, devices: Sequence[Device]) -> dict[str, str]:
    """Give the decisions of the devices of one page, by id."""
    ids = [device.id for device in devices]
    query = sa.select(trust_signals).where(trust_signals.c.device_id.in_(ids))
    found: dict[str, list[Signal]] = {}
    for row in connection.execute(query).mappings():
        found.setdefault(row["device_id"], []).append(Signal(**{**row, "answer": Answer(row["answer"])}))
    at = clock.now()
    return {d.id: shown(d, trust.decide(d.id, found.get(d.id, ()), at=at).answer) for d in devices}


def worst(at: datetime) -> sa.Subquery:
    """Each device that a signal speaks against now, with the rank of the worst answer."""
    c = trust_signals.c
    rank = sa.case({str(answer): answer.rank for answer in Answer}, value=c.answer)
    live = sa.and_(c.since <= at, sa.or_(c.until.is_(None), c.until > at))
    return sa.select(c.device_id, sa.func.max(rank).label("rank")).where(live).group_by(c.device_id).subquery()


def reasons(signals: Iterable[Signal], reader: Principal) -> list[DecisionReason]:
    """Give the reasons with their links, worst first as the decision has them."""
    return [DecisionReason(signal, _link(signal, reader)) for signal in signals]


def _link(signal: Signal, reader: Principal) -> str:
    if signal.source == "containment" and reader.may(Permission.RUNS_READ):
        return f"/containments/{signal.ref}"
    if signal.source == "posture" and reader.may(Permission.POSTURE_READ):
        return f"/devices/{signal.device_id}/posture#{signal.ref}"
    return ""


def counts(rows: Iterable[Any]) -> dict[str, int]:
    """Rows of (code, number) as a mapping."""
    return {str(code): int(number) for code, number in rows}
