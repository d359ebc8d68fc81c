"""A look at a device is a process of its own: ended from outside, bounded, believed in nothing but observations."""

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lachan.net.sockets import Refusal, SocketRefused
from posture.catalogue import catalogue
from posture.probes import process
from posture.probes.observation import Observation, Outcome
from posture.probes.run import PROBES
from posture.probes.target import ProbeTarget
from tests.posture.test_probes import METHODS, target
from tests.support.wait import until

NAMES = {name for names in PROBES.values() for name in names}
SAW = """import json, sys
sys.stdin.readline()
def tell(said): sys.stdout.write((said if isinstance(said, str) else json.dumps(said)) + "\\n"); sys.stdout.flush()
tell({"saw": {"probe": "open_ports", "outcome": "silent", "code": "c", "detail": "d", "port": 1, "address": "a", "at": "t", "ports": [1]}})
"""


def look(made: ProbeTarget, program: str | None = None) -> tuple[Observation, ...]:
    command = process.COMMAND if program is None else (sys.executable, "-c", SAW + program)
    return process.look(made, paths=catalogue().paths, pairs=catalogue().pairs, command=command)


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A device that does something with each connection."""
    served, open_ones = socket.create_server(("127.0.0.1", 0)), list[socket.socket]()

    def accept() -> None:
        try:
            while True:
                open_ones.append(served.accept()[0])
                threading.Thread(target=one, args=(open_ones[-1],), daemon=True).start()
        except OSError:
            return

    def one(connection: socket.socket) -> None:
        try:
            answer(connection)
        except OSError:
            return

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield served.getsockname()[1]
    finally:
        served.shutdown(socket.SHUT_RDWR)
        served.close()
        for connection in open_ones:
            connection.close()
        thread.join(10)


def children() -> set[int]:
    found = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return {int(pid) for pid in found}


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import time; time.sleep(600)", "time_box"),
        ("import ctypes; ctypes.CDLL(None).sleep(600)", "time_box"),  # holds the GIL, hears no signal of Python's
        ("import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; time.sleep(600)", "time_box"),
        ("while True: sys.stdout.write('{\"ask\": \"standing\"}\\n')", "time_box"),  # and reads no answer
        ("sys.exit(0)", "probe_error"),
        ("import os; os.kill(os.getpid(), 11)", "probe_error"),
        ("tell('{' * 100000)", "probe_error"),
        ("tell('[1]')", "probe_error"),
        ("tell({'saw': {'probe': 'open_ports', 'outcome': 'confirms'}})", "probe_error"),
        ("tell({'saw': {'probe': 'x' * 9000, 'outcome': 'silent', 'code': '', 'detail': '', 'port': 0, 'address': '', 'at': ''}})",
         "probe_error"),
        ("tell({'ask': 'pace', 'address': 'no address', 'patience': 1})", "probe_error"),
        ("while True: sys.stdout.write('x' * 65536)", "byte_budget"),
        ("from posture.probes import process; process.confine(); x = bytearray(1 << 30)", "probe_error"),
    ],
)  # fmt: skip
def test_whatever_becomes_of_the_process_is_an_observation(program: str, code: str) -> None:
    before, began = children(), time.monotonic()
    made = target(1, deadline=time.monotonic() + (0.5 if code == "time_box" else 20))
    found = look(made, program)
    assert time.monotonic() - began < 15
    assert children() == before, "it is gone"
    assert found[0].code == "c", "what it had seen is kept"
    rest = found[1:]
    assert {one.code for one in rest} == {code}
    assert {one.outcome for one in rest} == {Outcome.ERROR}
    assert {one.probe for one in rest} == NAMES - {"open_ports"}


def test_many_questions_at_once_do_not_outlast_the_time_box() -> None:
    """Each of them waits for its turn, and all of them come in one piece."""
    program = """tell("\\n".join(['{"ask": "pace", "address": "127.0.0.1", "patience": 5}'] * 60))
while True: sys.stdin.readline()"""
    made = target(1, deadline=time.monotonic() + 0.5)
    began = time.monotonic()
    found = look(replace(made, scope=replace(made.scope, name="turns", rate=2.0, burst=1)), program)
    assert time.monotonic() - began < 15
    assert {one.code for one in found[1:]} == {"time_box"}


def test_a_process_that_does_not_begin_is_an_observation() -> None:
    made = target(1, methods=frozenset({"connect"}), deadline=time.monotonic() + 20)
    found = process.look(made, paths=(), pairs=(), command=("/bin/false",))
    assert {one.code for one in found} == {"probe_error", "method_not_allowed"}
    assert {one.probe for one in found} == NAMES


def test_a_device_that_never_ends_its_answer_is_looked_at_within_the_time_box() -> None:
    def endless(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"x" * 65_536)

    with listening(endless) as port:
        began = time.monotonic()
        found = look(target(port, deadline=time.monotonic() + 3))
        assert time.monotonic() - began < 3 + process.GRACE + 2
    assert {one.probe for one in found} == NAMES
    assert not any(one.outcome in (Outcome.CONFIRMS, Outcome.CONTRADICTS) and "tls" in one.probe for one in found)


def test_it_asks_before_each_connection_whether_the_engagement_stands_and_whose_turn_it_is() -> None:
    asked: list[str] = []

    def standing() -> None:
        asked.append("standing")
        if len(asked) > 4:
            raise SocketRefused("somebody pressed stop", reason=Refusal.STOPPED)

    with listening(lambda connection: connection.close()) as port:
        made = target(port, port + 1, port + 2)
        scope = replace(made.scope, standing=standing, pace=lambda address, _patience: asked.append(address))
        found = look(replace(made, scope=scope))
    assert "127.0.0.1" in asked
    assert {one.code for one in found if one.outcome is Outcome.NOT_AUTHORISED} >= {"stopped"}
    refused = SocketRefused("no turn", reason=Refusal.RATE)

    def never(_address: str, _patience: float) -> None:
        raise refused

    found = look(replace(made, scope=replace(made.scope, standing=lambda: None, pace=never)))
    assert {one.code for one in found} == {"rate_limited"}


def test_the_process_knows_of_nothing_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting, no secret of ours reaches it; memory, cores and priority are what `confine` says."""
    monkeypatch.setenv("LACHAN_DATABASE_URL", "postgresql://lachan:secret@db/lachan")
    seen: dict[str, Any] = {}
    arrived, go = threading.Event(), threading.Event()

    def silent(_connection: socket.socket) -> None:
        arrived.set()
        go.wait(20)

    def watch() -> None:
        arrived.wait(20)
        (pid,) = found[0]
        seen["env"] = Path(f"/proc/{pid}/environ").read_bytes()
        seen["memory"] = resource.prlimit(pid, resource.RLIMIT_AS)
        seen["nice"] = os.getpriority(os.PRIO_PROCESS, pid)
        os.kill(pid, 9)
        go.set()

    found: list[set[int]] = []

    def running() -> None:
        looking, before = threading.get_native_id(), children()
        threading.Thread(target=lambda: found.append(_child_of(looking, before)), daemon=True).start()

    with listening(silent) as port:
        running()
        watcher = threading.Thread(target=watch)
        watcher.start()
        told = look(target(port))
        watcher.join(20)
    assert b"LACHAN_DATABASE_URL" not in seen["env"]
    assert seen["memory"] == (process.MEMORY, process.MEMORY)
    assert seen["nice"] == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    assert {one.code for one in told} == {"probe_error"}, "killed by somebody else: unknown"


def _child_of(thread: int, before: set[int]) -> set[int]:
    """The process that it started since; fixtures of the whole run may have others."""
    place = Path(f"/proc/self/task/{thread}/children")

    def begun() -> set[int]:
        return {int(pid) for pid in place.read_text().split()} - before

    until(begun, timeout=20, what="the probe process begins")
    return begun()


def test_who_starts_it_by_hand_is_told() -> None:
    done = subprocess.run(process.COMMAND, input="\n", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "started by the role work" in done.stderr


def test_methods_are_those_of_the_table() -> None:
    assert set(PROBES) <= METHODS
