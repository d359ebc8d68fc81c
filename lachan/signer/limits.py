"""How many signatures of a kind per second: a thief of a worker process gets no faster signer than the worker had.

One token bucket per kind: it refills at the kind's rate and holds ten seconds of it. Limits: the buckets live in memory,
a restarted signer begins with full ones.
"""

import threading
import time
from collections.abc import Mapping

RATES: Mapping[str, float] = {
    "ping": 1000,
    "public": 1000,
    "log": 200,
}
"""Requests per second of the kinds that sign nothing; each room brings the rates of its own (`lachan.wiring.Signing`)."""

OTHER = 20.0
"""Rate of a kind that is in neither table, and of all unknown kinds together."""

BURST = 10.0
"""Seconds of a rate that a bucket holds."""


class Limiter:
    """The buckets of one signer."""

    def __init__(self, rates: Mapping[str, float] | None = None) -> None:
        self._rates = {**RATES, **(rates or {})}
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait_for(self, kind: str) -> float:
        """Take one from the kind's bucket: 0.0 when it was there, else the seconds until the next."""
        rate = self._rates.get(kind, OTHER)
        now = time.monotonic()
        with self._lock:
            full = max(1.0, rate * BURST)
            level, at = self._buckets.get(kind, (full, now))
            level = min(full, level + (now - at) * rate)
            if level < 1:
                self._buckets[kind] = (level, now)
                return (1 - level) / rate if rate else 3600.0
            self._buckets[kind] = (level - 1, now)
            return 0.0
