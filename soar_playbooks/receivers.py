"""What is known of the webhook's receiver, by URL: whether it is gone, and before when nothing is sent to it.

Standard Webhooks and RFC 9110: 410 (15.5.11) ends deliveries to that URL until a person resumes them or the URL changes; 429
and 503 with ``Retry-After`` (10.2.3, seconds or a date) put off everything for it, at most `LONGEST`; whoever cannot be reached
or answers otherwise is left alone for doubling pauses, so that a dead receiver costs one try a pause, whatever waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import insert_ignore
from lachan.work import jobs
from soar_playbooks.models import webhook_deliveries, webhook_receivers

LONGEST = timedelta(hours=1)  # that a receiver may put us off by one answer
PAUSE = timedelta(minutes=5)  # the longest between two tries at one that does not answer
GONE = "the receiver said that it is gone (410)"
OLD = "not taken in all the time that a delivery is tried"
_C = webhook_receivers.c


@dataclass(frozen=True)
class Answered:
    """What a try was answered.

    Attributes:
        status: of the answer; None when there was none.
        error: why it was not taken; empty when it was.
        retry_after: the header of that name.
    """

    status: int | None
    error: str = ""
    retry_after: str = ""

    @property
    def taken(self) -> bool:
        """Whether the receiver has it."""
        return self.status is not None and 200 <= self.status < 300


def state(connection: sa.Connection, url: str, *, hold: bool = False) -> dict[str, Any]:
    """Give what is known of a receiver: ``gone_at``, ``not_before``, ``failures``; ``hold`` locks it for a change."""
    query = sa.select(webhook_receivers).where(_C.url == url)
    row = connection.execute(query.with_for_update() if hold else query).mappings().first()
    return dict(row) if row else {"url": url, "gone_at": None, "not_before": None, "failures": 0}


def note(connection: sa.Connection, url: str, answered: Answered) -> datetime | None:
    """Write down what a receiver answered; gives the moment before which nothing is sent to it, None for no such.

    A pause that it asked for is not cut short by what another try, under way meanwhile, was answered.
    """
    now = clock.now()
    insert_ignore(connection, webhook_receivers, {"url": url, "failures": 0, "updated_at": now}, index=("url",))
    known = state(connection, url, hold=True)
    failures = 0 if answered.taken else known["failures"] + 1
    values: dict[str, Any] = {"failures": failures, "updated_at": now}
    not_before: datetime | None = known["not_before"]
    if not_before is not None and not clock.runs(not_before, term=LONGEST):
        not_before = None
    if answered.status == 410:
        values["gone_at"] = now
    elif not answered.taken:
        pause = _asked(answered.retry_after, now) or min(timedelta(seconds=2.0 ** min(failures, 12)), PAUSE)
        not_before = max(not_before or now, now + pause)
    connection.execute(webhook_receivers.update().where(_C.url == url).values(**values, not_before=not_before))
    return not_before


def resume(connection: sa.Connection, url: str) -> Sequence[str]:
    """Send to a receiver again that was gone, and first what it missed; gives the ids of those deliveries."""
    c = webhook_deliveries.c
    connection.execute(
        webhook_receivers.update().where(_C.url == url).values(gone_at=None, not_before=None, failures=0)
    )
    missed = (
        connection.execute(sa.select(c.id).where(c.state == "failed", c.last_error == GONE).order_by(c.id))
        .scalars()
        .all()
    )
    for delivery in missed:
        connection.execute(webhook_deliveries.update().where(c.id == delivery).values(state="pending", attempts=0))
        jobs.enqueue(connection, "soar.webhook", {"id": delivery}, sender=sender(url))
    return missed


def sender(url: str) -> str:
    """Name in whose turn the deliveries to a receiver wait: its own, so that they hold up nobody else's."""
    return f"webhook:{url}"[:200]


def _asked(header: str, now: datetime) -> timedelta | None:
    """Read a Retry-After; None for none, or one that cannot be read."""
    header = header.strip()
    try:
        wanted = (
            timedelta(seconds=int(header))
            if header.isascii() and header.isdigit()
            else parsedate_to_datetime(header) - now
        )
    except (ValueError, TypeError, OverflowError):
        return None
    return max(timedelta(seconds=1), min(wanted, LONGEST))
