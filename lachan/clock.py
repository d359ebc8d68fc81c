"""The one clock of lachan: aware UTC, and movable by tests.

Every room asks `now`. A process started with ``LACHAN_CLOCK_OFFSET`` (seconds) lives that far from the real time, so a
test can start a server "two days later"; inside one process a test uses `travel`. Limits: durations are measured with
``time.monotonic`` where they are needed; this clock is for dates only.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

SLACK = timedelta(minutes=1)  # that the clocks of an installation's machines may be apart
_offset = timedelta(seconds=float(os.environ.get("LACHAN_CLOCK_OFFSET", "0")))


def now() -> datetime:
    """Give the present moment, aware, in UTC."""
    return datetime.now(UTC) + _offset


def lies_ahead(moment: datetime) -> bool:
    """Tell whether what was *now* to somebody lies in the future: his clock was ahead, or ours was put back since.

    Whatever is reckoned from such a moment is void: it would hold for as long as the clock was wrong.
    """
    return moment > now() + SLACK


def runs(until: datetime, *, term: timedelta) -> bool:
    """Tell whether a term that lasts so long at most is not over; one that would last longer began while a clock was ahead."""
    return now() < until <= now() + term + SLACK


def offset() -> timedelta:
    """Tell how far this clock is from the machine's: nothing, but in tests."""
    return _offset


@contextmanager
def travel(delta: timedelta) -> Iterator[None]:
    """Move this process's clock by ``delta`` (for tests); moves back when the block ends."""
    global _offset
    before = _offset
    _offset = before + delta
    try:
        yield
    finally:
        _offset = before


def iso(moment: datetime) -> str:
    """RFC 3339 text of an aware moment, in UTC with microseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse(text: str) -> datetime:
    """Give the moment of an RFC 3339 text.

    Raises:
        ValueError: the text is no date, or it names no zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone; add Z or an offset")
    return moment.astimezone(UTC)
