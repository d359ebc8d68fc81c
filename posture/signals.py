"""Blocking fails become trust signals: ``limited``, one for each criterion, with the verdict's reason.

A signal falls only when the same thing was looked at again and no longer fails. A device that cannot be reached, an
engagement that ran out, evidence that expired: none of these makes it better, so the signal stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from lachan import trust
from lachan.trust import Answer, Signal
from posture.catalogue import catalogue
from posture.evaluate import Result, Verdict

SOURCE = "posture"
_NOT_LOOKED = frozenset(
    {"unreachable", "not_authorised", "no_engagement", "probe_error", "timeout", "time_box", "byte_budget", "lockout_declared", "stale",
     "not_implemented"}
)  # fmt: skip


def update(connection: sa.Connection, device_id: str, judged: Iterable[Verdict], *, at: datetime) -> None:
    """Set and clear the signals of one device, in the transaction of its assessment."""
    present = {s.ref: s for s in trust.signals(connection, device_id) if s.source == SOURCE}
    for verdict in judged:
        row = catalogue().criteria[verdict.criterion]
        old = present.get(verdict.criterion)
        if verdict.result is Result.FAIL and row.blocking:
            if old is None or (old.reason, old.detail) != (verdict.reason, _sentence(verdict)):
                trust.set_signal(connection, _signal(device_id, verdict, since=old.since if old else at))
        elif old is not None and not (verdict.result is Result.UNKNOWN and verdict.reason in _NOT_LOOKED):
            trust.clear_signal(connection, device_id=device_id, source=SOURCE, ref=verdict.criterion)


def _signal(device_id: str, verdict: Verdict, *, since: datetime) -> Signal:
    return Signal(
        device_id=device_id, source=SOURCE, answer=Answer.LIMITED, reason=verdict.reason, detail=_sentence(verdict),
        ref=verdict.criterion, since=since,
    )  # fmt: skip


def _sentence(verdict: Verdict) -> str:
    return f"{verdict.criterion}: {catalogue().criteria[verdict.criterion].title['en']}: {verdict.detail}"[:500]
