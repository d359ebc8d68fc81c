"""Whether containment reaches the points that must be driven."""

from collections.abc import Iterable
from datetime import timedelta

import sqlalchemy as sa

from lachan import clock, health
from lachan.health import Standstill
from lachan.runtime import Runtime
from soar_playbooks import receivers
from soar_playbooks.models import enforcements
from soar_playbooks.settings import SoarSettings

TRIES = 10  # after which a wish is late although it is tried again and again
MOST = 1000  # rows that are counted


def check(rt: Runtime) -> Iterable[Standstill]:
    """See whether some point has not been brought to what is wanted for a minute, and whether the webhook's receiver is gone."""
    yield from _receiver(rt)
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


def _receiver(rt: Runtime) -> Iterable[Standstill]:
    url = SoarSettings.of(rt.settings).webhook_url
    if not url:
        return
    with rt.db.read() as connection:
        known = receivers.state(connection, url)
    if known["gone_at"] is not None:
        yield Standstill(
            what=f"The webhook's receiver said on {known['gone_at']:%Y-%m-%d} that it is gone (410); nothing is sent to it.",
            next="Set webhook_url to its new address, or have `lachan playbooks webhook --resume` send what it missed.",
        )
