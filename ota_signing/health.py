"""Whether the firmware metadata moves: what devices are told now must not end, nor lag behind what was decided."""

from collections.abc import Iterable

from lachan import clock, health
from lachan.health import Standstill
from lachan.runtime import Runtime
from ota_signing import bins, tuf_metadata
from ota_signing.repository import Repository


def check(rt: Runtime) -> Iterable[Standstill]:
    """See whether there is metadata, whether it is renewed, and whether releases that changed are in it."""
    advice = "See that the roles work and sign run and that there is room on the disk; work tries again each minute."
    repository = Repository(rt.settings)
    standing = repository.standing()
    if standing is None:
        return [Standstill(what="The firmware metadata is missing or damaged.", next=advice)]
    ends, now = standing[0].expires, clock.now()
    with rt.db.read() as connection:
        waiting = bins.waiting(connection)
    if now >= ends:
        return [Standstill(what=f"The firmware metadata ended at {clock.iso(ends)}: no device updates.", next=advice)]
    if now > ends - tuf_metadata.TIMESTAMP_LIFE / 4:
        return [
            Standstill(
                what=f"The firmware metadata should have been renewed; it ends at {clock.iso(ends)}.", next=advice
            )
        ]
    if health.still(rt, "tuf", repr(waiting) if waiting else None):
        return [Standstill(what="Releases that were published or halted are not in the metadata yet.", next=advice)]
    return []
