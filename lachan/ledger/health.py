"""Whether the ledger moves: facts are sealed, and what is sealed is under a signed checkpoint."""

from collections.abc import Iterable

import sqlalchemy as sa

from lachan import clock, health
from lachan.health import Standstill
from lachan.ledger import sealer, tree
from lachan.ledger.models import checkpoints, state
from lachan.runtime import Runtime


def check(rt: Runtime) -> Iterable[Standstill]:
    """See whether the sealer was stopped, and whether what waits to be sealed or signed moves on."""
    if why := sealer.stopped(rt.settings.data):
        return [
            Standstill(what=f"Sealing is stopped: {why}", next="Find out why, then run `lachan ledger checkpoint`.")
        ]
    with rt.db.read() as connection:
        first = tree.waiting(connection)
        size = connection.execute(sa.select(state.c.size)).scalar() or 0
        signed = connection.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar() or 0
    advice = "See that the roles work and sign run, and on PostgreSQL that no transaction stays open; `lachan ledger status`."
    if first is not None:
        late = (clock.now() - first[1]).total_seconds() > health.STANDS
        if health.still(rt, "sealing", first[0]) or late:
            return [Standstill(what=f"Facts since {clock.iso(first[1])} are not sealed.", next=advice)]
    elif health.still(rt, "sealing", size if size > signed else None):
        return [Standstill(what=f"{size - signed} sealed facts are under no checkpoint.", next=advice)]
    return []
