"""Counting wrong enrolment secrets, per device and per source address, in windows of a quarter of an hour.

Only failures count, so a thousand devices behind one address may enrol at once. Each failure is counted in a transaction
of its own, because the refused one is rolled back. Limits: whoever guesses wrongly ten times makes that device wait too;
parallel guesses may overshoot by their number, which 160 random bits do not mind.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

import sqlalchemy as sa

from lachan import clock
from lachan.database import UtcDateTime, for_update, insert_ignore
from lachan.scripts import Script
from lachan.statements import Statement
from pki.errors import TooManyAttempts
from pki.models import attempts

WINDOW = timedelta(minutes=15)
_FAILURES = Statement(
    sa.select(attempts).where(
        attempts.c.who == sa.bindparam("who"),
        attempts.c.window_start.between(
            sa.bindparam("since", type_=UtcDateTime), sa.bindparam("now", type_=UtcDateTime)
        ),
    )
)
FORGET = Statement(
    attempts.delete().where(attempts.c.who == sa.bindparam("who"))
)  # start again at none, after a success


def whose(name: str, source: str) -> list[str]:
    """Whose failures count; names are hashed, since unknown ones count too and tell nobody that they are unknown."""
    return [f"address:{source}"[:120], f"name:{hashlib.sha256(name.encode()).hexdigest()}"]


def check(limits: dict[str, int]) -> Script[None]:
    """Let pass who has failures left in the present window.

    Args:
        limits: who (``name:<hash>``, ``address:<ip>``) → failures allowed.

    Raises:
        TooManyAttempts: one of them has none left; ``fields['retry_after']`` in seconds.
    """
    now = clock.now()
    found = yield [(_FAILURES, {"who": who, "since": now - WINDOW, "now": now + clock.SLACK}) for who in limits]
    for row in (row for done in found for row in done.rows):
        if row.failures >= limits[row.who]:
            wait = row.window_start + WINDOW - now
            raise TooManyAttempts(retry_after=max(1, round(wait.total_seconds())))


def count(connection: sa.Connection, who: str) -> int:
    """Count one failure in the caller's transaction; tell how many there are in the window now."""
    now = clock.now()
    fresh = {"who": who, "window_start": now, "failures": 1}
    if insert_ignore(connection, attempts, fresh, index=("who",)):
        return 1
    mine = attempts.c.who == who
    row = connection.execute(for_update(sa.select(attempts).where(mine), connection)).one()
    if row.window_start < now - WINDOW or clock.lies_ahead(row.window_start):
        connection.execute(attempts.update().where(mine).values(window_start=now, failures=1))
        return 1
    connection.execute(attempts.update().where(mine).values(failures=row.failures + 1))
    return int(row.failures) + 1
