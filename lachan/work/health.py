"""Whether due work is done: nothing was given up, and nothing waits for long in a lane."""

from collections.abc import Iterable

import sqlalchemy as sa

from lachan import clock, health
from lachan.health import Standstill
from lachan.runtime import Runtime
from lachan.wiring import Lane
from lachan.work import jobs
from lachan.work.jobs import OPEN

LATE = {Lane.URGENT: 10.0, Lane.ORDINARY: health.STANDS, Lane.SLOW: 10 * health.STANDS}  # seconds


def check(rt: Runtime) -> Iterable[Standstill]:
    """See what was given up, and how long the oldest due job of each lane has waited."""
    c, found = jobs.jobs.c, []
    with rt.db.read() as connection:
        given_up = jobs.poisoned(connection)
        for lane in Lane:
            free = sa.and_(OPEN, c.lane == str(lane), c.lease_until.is_(None))
            oldest = connection.execute(sa.select(c.due_at).where(free).order_by(c.due_at).limit(1)).scalar()
            if oldest is not None and (waited := (clock.now() - oldest).total_seconds()) > LATE[lane]:
                found.append(
                    Standstill(
                        what=f"Work of the {lane} lane has waited for {waited:.0f} s.",
                        next=f"See that the role work runs; `lachan jobs list --lane {lane}` shows what waits.",
                    )
                )
    if given_up:
        advice = "`lachan jobs list --state poisoned` tells why; `lachan jobs retry` makes it due again."
        found.append(Standstill(what=f"{given_up} jobs were given up.", next=advice))
    return found
