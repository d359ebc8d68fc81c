"""Waiting for something to become true, with a deadline instead of a lucky sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(question: Callable[[], T], *, timeout: float = 10.0, every: float = 0.01, what: str = "") -> T:
    """Ask until the answer is truthy; give it back.

    Raises:
        AssertionError: it was still falsy after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or question}"
        time.sleep(every)
