"""Whether due work is done: nothing was given up, and nothing waits for long in a lane."""

from collections.abc import Iterable

from lachan import clock, health
from lachan.health import Standstill
from lachan.runtime import Runtime
from lachan.wiring import Lane
from lachan.work import jobs

LATE = {Lane.URGENT: 10.0, Lane.ORDINARY: health.STANDS, Lane.SLOW: 10 * health.STANDS}  # seconds


def check(rt: Runtime) -> Iterable[Standstill]:
    """See what was given up, and how long the oldest due job of each lane has waited."""
    now, found = clock.now(), []
    with rt.db.read() as connection:
        given_up = jobs.poisoned(connection)
        oldest = {lane: jobs.oldest(connection, lane) or now for lane in Lane}
    for lane, due in oldest.items():
        if (waited := (now - due).total_seconds()) > LATE[lane]:
            advice = f"See that the role work runs; `lachan jobs list --lane {lane}` shows what waits."
            found.append(Standstill(what=f"Work of the {lane} lane has waited for {waited:.0f} s.", next=advice))
    if given_up:
        advice = "`lachan jobs list --state poisoned` tells why; `lachan jobs retry` makes it due again."
        found.append(Standstill(what=f"{given_up} jobs were given up.", next=advice))
    return found
