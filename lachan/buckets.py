"""Token buckets: so many at once, so many a second after that, for each of many keys.

Limits: they live in one process's memory, so a restart begins with full ones and two processes each have their own. Beyond
``limit`` keys the one that was used longest ago is forgotten, which makes it full again.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable


class Buckets:
    """A bucket for each key, full at first.

    Args:
        limit: most keys that are remembered.
    """

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
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
        with self._lock:
            now = time.monotonic()
            left, since = self._left.pop(key, (burst, now))
            left = min(burst, left + (now - since) * rate)
            lacking = max(0.0, 1.0 - left)
            wait = lacking / rate if rate else math.inf if lacking else 0.0
            self._left[key] = (left if wait > patience else left - 1.0, now)
            while len(self._left) > self._limit:
                self._left.popitem(last=False)
        return wait
