"""How many signatures of a kind per second: a thief of a worker process gets no faster signer than the worker had.

One token bucket per kind: it refills at the kind's rate and holds ten seconds of it. Limits: the buckets live in memory,
a restarted signer begins with full ones.
"""

from collections.abc import Mapping

from lachan.buckets import Buckets

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
        self._buckets = Buckets(limit=1024)  # far more than there are kinds

    def wait_for(self, kind: str) -> float:
        """Take one from the kind's bucket: 0.0 when it was there, else the seconds until the next."""
        rate = self._rates.get(kind, OTHER)
        return min(3600.0, self._buckets.take(kind, rate=rate, burst=max(1.0, rate * BURST)))
