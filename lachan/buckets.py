"""Token buckets: so many at once, so many a second after that, for each of many keys.

Limits: they live in one process's memory, so a restart begins with full ones and two processes each have their own; those
with a name are the door's, whatever the number of its processes, inside `sharing`. Beyond ``limit`` keys the one that was
used longest ago is forgotten, which makes it full again.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from lachan.shared import SharedMemory, SharedTokens

_named: dict[str, "Buckets"] = {}


class Buckets:
    """A bucket for each key, full at first.

    Args:
        limit: most keys that are remembered.
        name: of those that a door's processes share; there is one of a name.
    """

    def __init__(self, *, limit: int, name: str = "") -> None:
        self._limit = limit
        self._tokens: SharedTokens | None = None
        if name:
            _named[name] = self
        self._lock = threading.Lock()
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, *, rate: float, burst: float, patience: float = 0.0) -> float:
        """Take one token, also one that comes only within the caller's patience.

        Args:
            key: whose bucket.
            rate: tokens that come back a second.
            burst: tokens that a full bucket holds.
            patience: seconds that the caller is ready to wait for its token.

        Returns:
            Seconds until the token is there, 0.0 when it was. More than ``patience`` means that none was taken.
        """

        def change(left: float | None, since: float, now: float) -> tuple[float, float]:
            left = burst if left is None else min(burst, left + (now - since) * rate)
            lacking = max(0.0, 1.0 - left)
            wait = lacking / rate if rate else math.inf if lacking else 0.0
            return wait, left if wait > patience else left - 1.0

        if self._tokens is not None:
            return self._tokens.change(key, change)
        with self._lock:
            now = time.monotonic()
            left, since = self._left.pop(key, (None, now))
            wait, rest = change(left, since, now)
            self._left[key] = (rest, now)
            while len(self._left) > self._limit:
                self._left.popitem(last=False)
        return wait


@contextmanager
def sharing(memory: SharedMemory) -> Iterator[None]:
    """Have the buckets with a name counted in a door's memory, until the end of the block."""
    shared = dict(_named)
    for name, buckets in shared.items():
        buckets._tokens = SharedTokens(memory, f"buckets.{name}", most=buckets._limit)
    try:
        yield
    finally:
        for buckets in shared.values():
            buckets._tokens = None
