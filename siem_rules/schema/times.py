"""What a line says of its time, and how far that is believed: a claim is classed, never moved (design decision 8).

A claim is *trusted* when it lies within its source's lateness of the moment of receipt: up to `COLLECTOR_LATE` before it from a
collector, which may have been offline for days, up to `DEVICE_LATE` from a device, which speaks as things happen, and at
most `AHEAD` after it. Trusted times order events. What is not trusted keeps its claim and counts as of its receipt.

A clock that is wrong is wrong by the same amount each time: a source whose claims are off by a steady amount, over `STEADY_FOR`
seconds of receipts, is corrected by that amount and trusted again. A batch that was held back cannot look so.

A syslog head names no year and no zone. It is read in the nearest year, in UTC and in the zone of the site, and that
reading is taken which the source's lateness allows, or which its lines before it had; two readings that are both possible are no
trusted time.

Limits: one zone for all sites; per sender the clocks of its newest `HOSTS` hosts; after a restart they are learnt again.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

from lachan.identity.principal import PrincipalKind
from siem_rules.delivery import Sender

#: Seconds by which a claim may lie before its receipt, and after it.
COLLECTOR_LATE = 7 * 86_400.0
DEVICE_LATE = 600.0
AHEAD = 300.0
#: A steady clock: claims off by the same amount within `STEADY` seconds, at least `STEADY_LINES` of them.
STEADY, STEADY_FOR, STEADY_LINES = 60.0, 300.0, 5
HOSTS = 256
ZONE = timezone(timedelta(hours=7))


class Moment(NamedTuple):
    """Where an event stands in time, in seconds since the epoch.

    Attributes:
        at: what orders it: the claim, corrected, or the receipt.
        claimed: what the line says; None when it says nothing.
        trusted: whether ``at`` may be compared with other events' times.
    """

    at: float
    claimed: float | None
    trusted: bool


@dataclass(slots=True)
class _Clock:
    """What is known of one host's clock: ``off`` is a guess until it was steady for long enough."""

    off: float = 0.0
    since: float = 0.0
    lines: int = 0
    known: float | None = None
    local: bool | None = None


class Clocks:
    """The histories of the senders' clocks.

    Args:
        zone: what heads without a zone are read in besides UTC.
    """

    def __init__(self, zone: timezone = ZONE) -> None:
        self._zone = zone
        self._clocks: dict[str, dict[str, _Clock]] = {}

    def judge(self, sender: Sender, host: str, received: float, claim: "float | datetime | None") -> Moment:
        """Class the claim of a line.

        Args:
            sender: who delivered it.
            host: whose clock it is, as the line names it.
            received: when it was delivered.
            claim: seconds since the epoch; a datetime for a head without year and zone (those in it mean nothing); None for no claim.
        """
        if claim is None:
            return Moment(received, None, True)
        late = lateness(sender)
        if isinstance(claim, datetime):
            told, sure = self._read(sender, host, received, claim, late)
            if not sure:
                return Moment(received, told, False)
        else:
            told = claim
        off = told - received
        if believed(sender, received, told):
            return Moment(told, told, True)
        known = self._steady(sender, host, received, off)
        if known is not None and -late <= off - known <= AHEAD:
            return Moment(told - known, told, True)
        return Moment(received, told, False)

    def _steady(self, sender: Sender, host: str, received: float, off: float) -> float | None:
        """Take a claim that is off into the history; give the amount by which this clock is known to be off."""
        clock = self._clock(sender, host)
        if clock is None or abs(off) > 1e11:
            return None
        if clock.lines and abs(off - clock.off) <= STEADY:
            clock.lines += 1
        elif clock.known is None or abs(off - clock.known) > STEADY:
            clock.off, clock.since, clock.lines = off, received, 1
        if clock.lines >= STEADY_LINES and received - clock.since >= STEADY_FOR:
            clock.known = clock.off
        return clock.known

    def _read(self, sender: Sender, host: str, received: float, head: datetime, late: float) -> tuple[float, bool]:
        """Give a head's reading and whether it is the only one."""
        readings = (_nearest(head, UTC, received), _nearest(head, self._zone, received))
        possible = [-late <= reading - received <= AHEAD for reading in readings]
        live = [-DEVICE_LATE <= reading - received <= AHEAD for reading in readings]
        clock = self._clock(sender, host)
        chosen = max(readings)
        if readings[0] == readings[1]:
            return chosen, True
        if clock is not None and clock.local is not None and possible[clock.local]:
            return readings[clock.local], True
        for seen in (possible, live):
            if sum(seen) == 1:
                local = seen[1]
                if clock is not None:
                    clock.local = local
                return readings[local], True
        return chosen, not any(possible)

    def _clock(self, sender: Sender, host: str) -> _Clock | None:
        """Give a host's history; those whom nobody knows have none."""
        if sender.kind is PrincipalKind.NOBODY:
            return None
        clocks = self._clocks.setdefault(sender.label, {})
        clock = clocks.get(host)
        if clock is None:
            clock = clocks[host] = _Clock()
            if len(clocks) > HOSTS:
                del clocks[next(iter(clocks))]
        return clock


def lateness(sender: Sender) -> float:
    """Tell how many seconds before its delivery a sender may date a line."""
    return COLLECTOR_LATE if sender.site is not None or sender.kind is PrincipalKind.COLLECTOR else DEVICE_LATE


def believed(sender: Sender, received: float, claim: float) -> bool:
    """Tell whether a claim lies within its source's lateness of the moment of receipt."""
    return -lateness(sender) <= claim - received <= AHEAD


def claim_of(told: object) -> float | None:
    """Read an ``@timestamp``: RFC 3339 text (UTC where no zone stands) or, as Elasticsearch does, milliseconds; None for neither."""
    if isinstance(told, str):
        try:
            moment = datetime.fromisoformat(told)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    if isinstance(told, int | float) and not isinstance(told, bool):
        return told / 1000
    return None


def iso(at: float) -> str | None:
    """Give a claim as people read it; None for one that no calendar has."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None


def _nearest(head: datetime, zone: "timezone", received: float) -> float:
    """Read a head in a zone and in the year that brings it last before its receipt, `AHEAD` allowed."""
    year = datetime.fromtimestamp(received, UTC).year
    found = []
    for candidate in (year - 1, year, year + 1):
        try:
            at = head.replace(year=candidate, tzinfo=zone).timestamp()
        except ValueError:  # the 29th of February
            continue
        if at <= received + AHEAD:
            found.append(at)
    return max(found, default=received - 366 * 86_400.0)
