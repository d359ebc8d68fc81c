"""Whose turn it is: fair shares of time among those who have work waiting, by virtual time.

Everybody has a clock of its own that moves by what work for it cost; who has work and the slowest clock is next. So the time
is shared equally among those who want it, however much each of them wants. Who was away comes back at the others' time less
`CREDIT`: a quiet sender's few lines go before everybody's backlog, and are paid for by nobody who waits for less.

Limits: who has no work and no debt is forgotten, so memory is that of those who wait and those who just did.
"""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

#: Seconds of work by which one who was away may be ahead of those who were not.
CREDIT = 0.05
_FORGET = 10_000  # how many clocks are kept before those that say nothing are dropped
K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Those who wait, in the order of their virtual clocks; each step costs the logarithm of their number."""

    def __init__(self) -> None:
        self._clocks: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._waiting: set[K] = set()
        self._now, self._number = 0.0, 0

    def __bool__(self) -> bool:
        """Tell whether anybody waits."""
        return bool(self._waiting)

    def wait(self, who: K) -> None:
        """Somebody has work; no change for one who waits already."""
        if who in self._waiting:
            return
        self._waiting.add(who)
        self._clocks[who] = max(self._clocks.get(who, float("-inf")), self._now - CREDIT)
        self._push(who)

    def next(self) -> K:
        """Tell whose turn it is; they wait on until `leave`.

        Raises:
            IndexError: nobody waits.
        """
        while True:
            at, _, who = self._heap[0]
            if who in self._waiting and self._clocks[who] == at:
                self._now = max(self._now, at)
                return who
            heapq.heappop(self._heap)

    def charge(self, who: K, seconds: float) -> None:
        """Move somebody's clock by what its turn has cost."""
        self._clocks[who] = self._clocks.get(who, self._now) + seconds
        if who in self._waiting:
            self._push(who)

    def leave(self, who: K) -> None:
        """Somebody has no more work."""
        self._waiting.discard(who)
        if len(self._clocks) > _FORGET:
            behind = self._now - CREDIT
            kept = {one: at for one, at in self._clocks.items() if one in self._waiting or at > behind}
            self._clocks = kept

    def _push(self, who: K) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self._clocks[who], self._number, who))
