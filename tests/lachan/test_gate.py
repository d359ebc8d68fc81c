"""The gate between processes that write to one SQLite database: urgent first, nobody for ever last, open after kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lachan import gate as gates
from lachan.gate import Gate
from tests.support.wait import until

CHILD = """
import sys, time
from pathlib import Path
from lachan.gate import Gate
gate, urgent, log = Gate(Path(sys.argv[1])), sys.argv[2] == "urgent", open(sys.argv[3], "a", buffering=1)
print("asks", flush=True)
with gate.passed(urgent=urgent):
    log.write(sys.argv[2] + "\\n")
    print("in", flush=True)
    if sys.argv[4:]:
        sys.stdin.read()
"""


@contextmanager
def process(*words: object) -> Iterator[subprocess.Popen[str]]:
    """A process that asks for the gate, says so, and says when it is through; with a fourth word it stays there."""
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, words)], stdin=pipe, stdout=pipe, text=True, bufsize=1
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "asks\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def reads(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def waiters(name: Path) -> int:
    """How many wait for a lock on a file, as the kernel tells."""
    inode = f":{name.stat().st_ino} "
    return sum(" -> FLOCK" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


def test_an_urgent_process_passes_before_an_ordinary_one_that_waited_longer(database: Path, tmp_path: Path) -> None:
    log, holder = tmp_path / "log", Gate(database)
    with holder.passed(urgent=False):
        with process(database, "ordinary", log) as ordinary, process(database, "urgent", log) as urgent:
            until(lambda: waiters(Path(f"{database}-gate")) == 2, what="both at the gate")
            assert holder.urgent_waits()
            fcntl_release(holder)
            assert reads(urgent) == "in\n"
            assert reads(ordinary) == "in\n"
    assert log.read_text().split() == ["urgent", "ordinary"]
    assert not holder.urgent_waits()
    holder.close()


def fcntl_release(gate: Gate) -> None:
    """Let go in the middle of the block (once more at its end does nothing)."""
    import fcntl

    fcntl.flock(gate._gate, fcntl.LOCK_UN)


def test_a_killed_holder_opens_the_gate_and_a_killed_waiter_leaves_nothing(database: Path, tmp_path: Path) -> None:
    mine = Gate(database)
    with process(database, "ordinary", tmp_path / "log", "stay") as holder:
        assert reads(holder) == "in\n"
        with process(database, "urgent", tmp_path / "log") as waiter:
            until(lambda: waiters(Path(f"{database}-gate")) == 1, what="the urgent one at the gate")
            assert mine.urgent_waits()
            waiter.send_signal(signal.SIGKILL)
            waiter.wait()
            assert not mine.urgent_waits()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with mine.passed(urgent=False):
            pass
    mine.close()


def test_one_at_a_time(database: Path) -> None:
    inside, most = [0], [0]

    def work(urgent: bool) -> None:
        gate = Gate(database)
        for _ in range(40):
            with gate.passed(urgent=urgent):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1
        gate.close()

    threads = [threading.Thread(target=work, args=(n == 0,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_who_comes_later_stands_behind_who_waits(database: Path, tmp_path: Path) -> None:
    """At most one ordinary one is at the gate; who asks again as soon as he let go does not get in before it."""
    log, mine = tmp_path / "log", Gate(database)
    with mine.passed(urgent=False):
        with process(database, "first", log) as first:
            until(lambda: waiters(Path(f"{database}-gate")) == 1, what="the first at the gate")
            with process(database, "second", log) as second:
                until(lambda: waiters(Path(f"{database}-turn")) == 1, what="the second in the queue")
                assert waiters(Path(f"{database}-gate")) == 1
                fcntl_release(mine)
                assert reads(first) == reads(second) == "in\n"
    assert log.read_text().split() == ["first", "second"]
    mine.close()


def test_an_ordinary_one_steps_aside_for_so_long_and_no_longer(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody announced who never comes (or ever more of them) does not keep the others out."""
    import fcntl

    announced, mine = Gate(database), Gate(database)
    fcntl.flock(announced._urgent, fcntl.LOCK_SH)
    began = time.monotonic()
    with mine.passed(urgent=False):
        assert time.monotonic() - began >= gates.PATIENCE
    monkeypatch.setattr(gates, "PATIENCE", 0)
    with mine.passed(urgent=False):
        pass
    announced.close()
    assert not mine.urgent_waits()
    mine.close()


def test_its_files_belong_to_the_owner_alone(database: Path) -> None:
    Gate(database).close()
    assert {path.stat().st_mode & 0o777 for path in database.parent.glob("x.db-*")} == {0o600}
    assert len(list(database.parent.glob("x.db-*"))) == 3
