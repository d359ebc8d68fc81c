"""Event-time windows: which moments satisfy a correlation, whatever order the events arrive in.

A *moment* of a group is the time of one of its events at which the window before it (``[t - span, t]``, both ends in)
satisfies the condition; that is the Sigma correlation specification's meaning and what SQL over sorted data computes.
All conditions here are *monotone*: one more event never makes a satisfied moment unsatisfied. So moments found early are
never taken back, a late event can only add moments, and the set of moments after all events is that of sorted input.

An *episode* is a run of satisfied moments with gaps of at most one span. It is what becomes one alert.

Limits: at most `EVENTS` events per group are remembered (`SINGLES` where one event is enough); of the input that has most the
oldest goes first and is counted.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

EVENTS = 4096
SINGLES = 64
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
    """An episode that began, grew, or swallowed others.

    Attributes:
        episode: as it is now.
        moments: those that are newly satisfied.
        at: the moment that the event stands for: the first of them, or a known one that the event falls on again.
    """

    episode: Episode
    moments: list[float]
    at: float


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
        most: how many events are remembered.
        touched: when lines of it were last received, for expiry.
    """

    condition: Condition
    span: float
    entries: list[Entry[T]] = field(default_factory=list)
    times: list[list[float]] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    evicted: int = 0
    most: int = EVENTS
    touched: float = 0.0
    _number: int = 0
    _known: set[float] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.times = [[] for _ in range(self.condition.slots)]
        if isinstance(self.condition, EventCount) and self.condition.at_least == 1:
            self.most = SINGLES

    def add(self, at: float, slot: int, what: T) -> list[Change]:
        """Take an event in, wherever in time it belongs; return what changed in the episodes."""
        self._number += 1
        insort(self.entries, Entry(at, self._number, slot, what))
        insort(self.times[slot], at)
        changes = self._extend(at)  # before anything goes: the event may be the oldest, and counts all the same
        if len(self.entries) > self.most:
            self._drop_one()
        return changes

    def trim(self, keep: int) -> int:
        """Forget all but the newest events; tell how many went."""
        gone = self.entries[: max(0, len(self.entries) - keep)]
        del self.entries[: len(gone)]
        for slot, times in enumerate(self.times):
            del times[: sum(entry.slot == slot for entry in gone)]
        self.evicted += len(gone)
        return len(gone)

    def window(self, end: float) -> list[Entry[T]]:
        """Give the events of the window that ends at a moment."""
        low = bisect_left(self.entries, (end - self.span,))
        return self.entries[low : bisect_right(self.entries, (end, math.inf))]

    def _extend(self, at: float) -> list[Change]:
        start, end, known = at - self.span, at + self.span, at in self._known
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
        if len(self.moments) > self.most:
            self._known.difference_update(self.moments[: -self.most])
            del self.moments[: -self.most]
        changes = []
        for episode in self.episodes:
            moments = [moment for moment in found if episode.first <= moment <= episode.last]
            if moments:
                changes.append(Change(episode, moments, moments[0]))
            elif known and episode.first <= at <= episode.last:
                changes.append(Change(episode, [], at))
        del self.episodes[: max(0, len(self.episodes) - _EPISODES)]
        return changes

    def _drop_one(self) -> None:
        """Forget the oldest event of the input that has most: a flood of one input leaves the others their memory."""
        slot = max(range(len(self.times)), key=lambda number: len(self.times[number]))
        place = next(place for place, entry in enumerate(self.entries) if entry.slot == slot)
        del self.entries[place], self.times[slot][0]
        self.evicted += 1

    def _join(self, moment: float) -> None:
        near = [e for e in self.episodes if e.first - self.span <= moment <= e.last + self.span]
        rest = [e for e in self.episodes if e not in near]
        first, last = min([moment, *(e.first for e in near)]), max([moment, *(e.last for e in near)])
        self.episodes = [*rest, Episode(first, last)]
