"""Whether containment reaches the points that must be driven."""

from collections.abc import Iterable
from datetime import timedelta

import sqlalchemy as sa

from lachan import clock, health
from lachan.health import Standstill
from lachan.runtime import Runtime
from soar_playbooks.models import enforcements

TRIES = 10  # after which a wish is late although it is tried again and again
MOST = 1000  # rows that are counted


def check(rt: Runtime) -> Iterable[Standstill]:
    """See whether some point has not been brought to what is wanted for a minute."""
    c = enforcements.c
    untouched = c.updated_at < clock.now() - timedelta(seconds=health.STANDS)
    late = sa.and_(c.state == "pending", sa.or_(untouched, c.attempts >= TRIES))
    pages = sa.select(c.point).where(late).limit(MOST).subquery()
    with rt.db.read() as connection:
        found = connection.execute(sa.select(pages.c.point, sa.func.count()).group_by(pages.c.point)).all()
    for point, count in found:
        yield Standstill(
            what=f"{count} devices wait to be contained or released at {point}.",
            next="See that the point answers (`lachan contain show` tells its last error) and that the role work runs.",
        )
