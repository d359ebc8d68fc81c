"""Event-time windows: which moments satisfy a correlation, whatever order the events arrive in.

A *moment* of a group is the time of one of its events at which the window before it (``[t - span, t]``, both ends in)
satisfies the condition; that is the Sigma correlation specification's meaning and what SQL over sorted data computes.
All conditions here are *monotone*: one more event never makes a satisfied moment unsatisfied. So moments found early are
never taken back, a late event can only add moments, and the set of moments after all events is that of sorted input.

An *episode* is a run of satisfied moments with gaps of at most one span. It is what becomes one alert.

Limits: at most `EVENTS` events per group are remembered; the oldest go first and are counted.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

EVENTS = 4096
_EPISODES = 64
T = TypeVar("T")


class Entry(NamedTuple, Generic[T]):
    """One event in a group's memory; ``number`` keeps equal times apart."""

    at: float
    number: int
    slot: int
    what: T


class Condition(Protocol):
    """What a correlation asks of a window."""

    @property
    def slots(self) -> int:
        """How many inputs it tells apart."""

    def satisfied(self, times: Sequence[list[float]], start: float, end: float) -> bool:
        """Tell whether the events from ``start`` to ``end`` satisfy it; ``times`` are sorted, one list per slot."""


@dataclass(frozen=True)
class EventCount:
    """At least so many events, of whatever slot (``event_count`` with gt or gte)."""

    at_least: int
    slots: int = 1

    def satisfied(self, times: Sequence[list[float]], start: float, end: float) -> bool:
        """See `Condition`."""
        return sum(bisect_right(slot, end) - bisect_left(slot, start) for slot in times) >= self.at_least


@dataclass(frozen=True)
class Temporal:
    """Each slot at least once, in any order (``temporal``)."""

    slots: int

    def satisfied(self, times: Sequence[list[float]], start: float, end: float) -> bool:
        """See `Condition`."""
        return all(bisect_right(slot, end) > bisect_left(slot, start) for slot in times)


@dataclass(frozen=True)
class TemporalOrdered:
    """Each slot at least once, each strictly later than the one before (``temporal_ordered``)."""

    slots: int

    def satisfied(self, times: Sequence[list[float]], start: float, end: float) -> bool:
        """See `Condition`. The earliest choice in each slot leaves the most room for the next."""
        chosen = -math.inf
        for slot in times:
            place = bisect_left(slot, start) if chosen == -math.inf else bisect_right(slot, chosen)
            if place >= len(slot) or slot[place] > end:
                return False
            chosen = slot[place]
        return True


@dataclass(slots=True)
class Episode:
    """A run of satisfied moments: its first and last (seconds since the epoch)."""

    first: float
    last: float


@dataclass(slots=True)
class Change:
    """An episode that began, grew, or swallowed others; ``moments`` are the newly satisfied ones."""

    episode: Episode
    moments: list[float]


@dataclass(slots=True)
class Group(Generic[T]):
    """One group's memory.

    Attributes:
        condition: what is asked.
        span: the window in seconds.
        entries: events in order of their time.
        times: the same times per slot.
        moments: satisfied moments, sorted.
        evicted: events forgotten because the group was full.
        touched: when lines of it were last received, for expiry.
    """

    condition: Condition
    span: float
    entries: list[Entry[T]] = field(default_factory=list)
    times: list[list[float]] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    evicted: int = 0
    touched: float = 0.0
    _number: int = 0
    _known: set[float] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.times = [[] for _ in range(self.condition.slots)]

    def add(self, at: float, slot: int, what: T) -> list[Change]:
        """Take an event in, wherever in time it belongs; return what changed in the episodes."""
        self._number += 1
        insort(self.entries, Entry(at, self._number, slot, what))
        insort(self.times[slot], at)
        if len(self.entries) > EVENTS:
            oldest = self.entries.pop(0)
            self.times[oldest.slot].pop(0)
            self.evicted += 1
        return self._extend(at)

    def window(self, end: float) -> list[Entry[T]]:
        """Give the events of the window that ends at a moment."""
        low = bisect_left(self.entries, (end - self.span,))
        return self.entries[low : bisect_right(self.entries, (end, math.inf))]

    def _extend(self, at: float) -> list[Change]:
        start, end = at - self.span, at + self.span
        # Each window that the event may complete lies in this one, and conditions are monotone.
        if not self.condition.satisfied(self.times, start, end):
            return []
        near = (slot[bisect_left(slot, at) : bisect_right(slot, end)] for slot in self.times)
        found: list[float] = []
        for moment in sorted(set().union(*near) - self._known):
            if self.condition.satisfied(self.times, moment - self.span, moment):
                insort(self.moments, moment)
                self._known.add(moment)
                found.append(moment)
                self._join(moment)
        for moment in self.moments[: max(0, len(self.moments) - EVENTS)]:
            self._known.discard(moment)
        del self.moments[: max(0, len(self.moments) - EVENTS)]
        del self.episodes[: max(0, len(self.episodes) - _EPISODES)]
        changes = ((episode, [m for m in found if episode.first <= m <= episode.last]) for episode in self.episodes)
        return [Change(episode, moments) for episode, moments in changes if moments]

    def _join(self, moment: float) -> None:
        near = [e for e in self.episodes if e.first - self.span <= moment <= e.last + self.span]
        rest = [e for e in self.episodes if e not in near]
        first, last = min([moment, *(e.first for e in near)]), max([moment, *(e.last for e in near)])
        self.episodes = [*rest, Episode(first, last)]
