"""Token buckets: a burst, a rate, patience, and keys that share nothing."""

import math

import pytest

from lachan import buckets
from lachan.buckets import Buckets


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, moved by the test."""
    moment = [0.0]
    monkeypatch.setattr(buckets.time, "monotonic", lambda: moment[0])
    return moment


def test_a_burst_then_the_rate(now: list[float]) -> None:
    made = Buckets(limit=10)
    assert [made.take("a", rate=2.0, burst=3.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert made.take("b", rate=2.0, burst=3.0) == 0.0
    now[0] = 0.5
    assert [made.take("a", rate=2.0, burst=3.0) for _ in range(2)] == [0.0, 0.5]
    now[0] = 100.0
    assert [made.take("a", rate=2.0, burst=3.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_who_waits_has_taken_and_who_will_not_has_not(now: list[float]) -> None:
    made = Buckets(limit=10)
    waits = [made.take("a", rate=1.0, burst=1.0, patience=patience) for patience in (0.0, 1.0, 2.0, 2.0, 2.0)]
    assert waits == [0.0, 1.0, 2.0, 3.0, 3.0]
    now[0] = 3.0
    assert made.take("a", rate=1.0, burst=1.0) == 0.0


def test_without_a_rate_nothing_comes_back(now: list[float]) -> None:
    made = Buckets(limit=10)
    assert made.take("a", rate=0.0, burst=1.0) == 0.0
    now[0] = 1e9
    assert made.take("a", rate=0.0, burst=1.0) == math.inf


def test_the_key_that_was_used_longest_ago_is_forgotten(now: list[float]) -> None:
    made = Buckets(limit=2)
    for key in ("a", "b", "a", "c"):
        made.take(key, rate=1.0, burst=2.0)
    assert made.take("a", rate=1.0, burst=2.0) == 1.0
    assert made.take("b", rate=1.0, burst=2.0) == 0.0
