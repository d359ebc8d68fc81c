"""Wake-ups reach whoever waits on this machine; over several machines: tests/interop/postgresql/test_wake.py."""

import threading
from pathlib import Path

import pytest

from lachan.work.wake import PostgresWaker, UnixWaker, Waiter, Waker


def hears(waiter: Waiter, waker: Waker, name: str = "*") -> bool:
    """Whether a thread that already waits is woken."""
    heard: list[bool] = []
    thread = threading.Thread(target=lambda: heard.append(waiter.wait(10)))
    thread.start()
    waker.wake(name)
    thread.join(12)
    return heard == [True]


@pytest.mark.parametrize("deep", [False, True], ids=["short path", "path longer than a socket's name may be"])
def test_a_wake_up_is_heard(tmp_path: Path, deep: bool) -> None:
    data = tmp_path / ("d" * 120 if deep else "d")
    data.mkdir()
    waker = UnixWaker(data)
    waiter = waker.waiter("work")
    try:
        assert not waiter.wait(0.001)
        assert hears(waiter, waker)
        assert hears(waiter, waker, "work")
        waker.wake("door")
        assert not waiter.wait(0.001)
        waker.wake()
        waker.wake()
        assert waiter.wait(0.001)
        assert not waiter.wait(0.001)  # several are one
    finally:
        waiter.close()
    assert list((data / "run").iterdir()) == []
    waker.wake()  # nobody there is no error


def test_a_dead_waiter_is_cleared_away(tmp_path: Path) -> None:
    waiter = UnixWaker(tmp_path).waiter("work")
    waiter.socket.close()
    UnixWaker(tmp_path).wake()
    assert not waiter.path.exists()


def test_a_database_that_is_away_stops_nobody(tmp_path: Path) -> None:
    waker = PostgresWaker(tmp_path, "host=/nowhere dbname=x connect_timeout=1")
    waiter = waker.waiter("work")
    try:
        assert hears(waiter, waker)  # this machine's wake-ups go on
    finally:
        waiter.close()
        waker.close()
