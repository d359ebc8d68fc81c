"""Whether the detector moves on in every stream of the log."""

from collections.abc import Iterable

import sqlalchemy as sa

from lachan import health
from lachan.health import Standstill
from lachan.runtime import Runtime
from siem_rules import segments
from siem_rules.models import checkpoints


def check(rt: Runtime) -> Iterable[Standstill]:
    """See whether lines that were acknowledged are looked at; a stream in which nothing waits is never late."""
    log = segments.opened(rt)
    c = checkpoints.c
    with rt.db.read() as connection:
        places = {row.stream: row for row in connection.execute(sa.select(c.stream, c.position, c.round, c.behind))}
    for name in log.names():
        place = places.get(name)
        waits = log.position(name) > (place.position if place else 0) or bool(place and place.behind)
        if health.still(rt, f"detector {name}", (place.round if place else -1) if waits else None):
            yield Standstill(
                what=f"The detector has not moved in the stream {name}, where lines wait.",
                next="See that the role detect runs; its log says what it is at.",
            )
