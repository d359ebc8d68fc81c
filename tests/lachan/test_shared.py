"""Limits that several processes share: exact, and what a killed process had is free again."""

import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from lachan import buckets, shared
from lachan.addresses import household
from lachan.buckets import Buckets
from lachan.shared import PROCESSES, SharedCounts, SharedMemory

CHILD = """
import sys, time
from lachan.shared import SharedCounts, SharedMemory
counts = SharedCounts(SharedMemory.inherited(), "c", most=64)
print(sum(counts.add(key % 5, of_one=100, of_all=300) for key in range(1000)), flush=True)
sys.stdin.read()
"""


def child(descriptor: int, place: int, program: str = CHILD) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program], pass_fds=[descriptor], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, shared.ENV: f"{descriptor},{place}"},
    )  # fmt: skip


@pytest.fixture
def descriptor():
    made = shared.create()
    yield made
    os.close(made)


def test_processes_count_together_and_a_killed_ones_count_is_free_for_its_successor(descriptor: int) -> None:
    children = [child(descriptor, place) for place in range(1, 4)]
    taken = [int(each.stdout.readline()) for each in children]  # type: ignore[union-attr]
    try:
        assert sum(taken) == 300, "as many as all may have, however they raced"
        here = SharedCounts(SharedMemory(descriptor, place=0), "c", most=64)
        assert here.total() == 300
        assert not here.add("x", of_one=100, of_all=300)
        assert all(here.of(key) <= 100 for key in range(5))
        killed = next(place for place in range(3) if taken[place])
        children[killed].send_signal(signal.SIGKILL)
        children[killed].wait()
        again = child(
            descriptor, killed + 1, "from lachan.shared import *\nSharedCounts(SharedMemory.inherited(), 'c', most=64)"
        )
        again.wait()
        again.stdout.close(), again.stdin.close()  # type: ignore[union-attr]
        assert here.total() == 300 - taken[killed]
        assert here.add("x", of_one=100, of_all=300)
    finally:
        for each in children:
            each.stdin.close()  # type: ignore[union-attr]
            each.wait()
            each.stdout.close()  # type: ignore[union-attr]


def test_a_process_that_dies_with_the_lock_lets_go(descriptor: int) -> None:
    program = "import sys\nfrom lachan.shared import *\nm = SharedMemory.inherited()\nwith m.locked():\n print(1, flush=True)\n sys.stdin.read()"
    holder = child(descriptor, 1, program)
    assert holder.stdout is not None
    holder.stdout.readline()
    got = threading.Event()

    def wait() -> None:
        SharedMemory(descriptor, place=0)
        got.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not got.wait(0.1)
    holder.kill()
    holder.wait()
    assert got.wait(10)
    waiting.join()
    holder.stdout.close(), holder.stdin.close()  # type: ignore[union-attr]


def test_counts_agree_with_a_plain_counter(descriptor: int) -> None:
    counts, plain, rolled = (
        SharedCounts(SharedMemory(descriptor, place=3), "c", most=400),
        dict[str, int](),
        random.Random(7),
    )
    for _ in range(4000):
        key = f"k{rolled.randint(0, 60)}"
        if rolled.random() < 0.6:
            if counts.add(key, of_one=7, of_all=400):
                plain[key] = plain.get(key, 0) + 1
        elif plain.get(key):
            counts.take_back(key)
            plain[key] -= 1
        assert plain.get(key, 0) == counts.of(key) <= 7
    assert counts.total() == sum(plain.values())


def test_places_beyond_the_last_and_other_sizes_are_refused(descriptor: int) -> None:
    with pytest.raises(ValueError, match="at most"):
        SharedMemory(descriptor, place=PROCESSES)
    memory = SharedMemory(descriptor, place=0)
    memory.region("a", 10)
    memory.region("a", 20)  # the same page
    with pytest.raises(ValueError, match="other settings"):
        memory.region("a", 1 << 20)


def test_named_buckets_are_the_doors(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "_named", {})
    here, there = Buckets(limit=10, name="test"), Buckets(limit=10)
    other = SharedMemory(descriptor, place=1)
    there._tokens = shared.SharedTokens(other, "buckets.test", most=10)
    with buckets.sharing(SharedMemory(descriptor, place=0)):
        waits = [each.take("a", rate=0.001, burst=3.0) for each in (here, there, here, there)]
        assert [wait > 0 for wait in waits] == [False, False, False, True]
        assert there.take("b", rate=0.001, burst=3.0) == 0.0
        for key in range(1000):  # more than it remembers
            here.take(key, rate=0.001, burst=3.0)
    assert here.take("a", rate=0.001, burst=3.0) == 0.0, "outside it is its own again"


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unix", "unix"),
    ],
)
def test_an_ipv6_64_is_one_household(address: str, counted: str) -> None:
    assert household(address) == counted
