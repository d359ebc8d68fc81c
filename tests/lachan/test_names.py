"""A name whose servers say nothing costs who asks for it a deadline, and everybody else nothing."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lachan.net import names, sockets
from lachan.net.sockets import Refusal, SocketRefused
from tests.support.wait import until


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A resolver whose servers are silent about names under ``.silent``; gives what it was asked."""
    go, asked, real = threading.Event(), list[str](), socket.getaddrinfo

    def ask(name: str, *rest: object, **more: object) -> object:
        asked.append(name)
        if name.endswith(".silent"):
            go.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return real("localhost", *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    yield asked
    go.set()
    until(lambda: not names._under_way, timeout=20, what="all look-ups end")


def test_a_silent_name_server_costs_a_deadline_and_one_thread(silent: list[str]) -> None:
    with ThreadPoolExecutor(20) as pool:
        tried = [pool.submit(names.resolve, "hook.silent", within=0.2) for _ in range(20)]
        assert all(isinstance(one.exception(), TimeoutError) for one in tried)
    assert silent == ["hook.silent"], "who asks for the same name waits for the same answer"
    assert str(names.resolve("other.example", within=10)) in {"127.0.0.1", "::1"}


def test_so_many_names_are_waited_for_and_no_more(silent: list[str]) -> None:
    for number in range(names.MOST):
        with pytest.raises(TimeoutError):
            names.resolve(f"n{number}.silent", within=0.001)
    with pytest.raises(TimeoutError, match="other names"):
        names.resolve("one.more.silent", within=60)
    assert len(silent) == names.MOST


def test_a_connection_to_it_is_refused_in_time(silent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "WITHIN", 0.2)
    scope = sockets.operator_scope(("hook.silent:443",))
    began = time.monotonic()
    with pytest.raises(SocketRefused) as refused:
        sockets.connect(scope, "hook.silent", 443, timeout=1, method="webhook")
    assert refused.value.reason is Refusal.UNRESOLVABLE
    assert time.monotonic() - began < 10
    assert silent == ["hook.silent"]


def test_a_look_up_that_could_not_begin_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full_machine:
        full_machine.setattr(threading.Thread, "start", full)
        with pytest.raises(OSError, match="can't start new thread"):
            names.resolve("localhost", within=30)
    assert str(names.resolve("localhost", within=30)) in {"127.0.0.1", "::1"}


def test_an_unknown_name_and_one_that_is_none() -> None:
    for name in ("no-such-host.invalid", "a" * 64 + ".example"):
        with pytest.raises(OSError):
            names.resolve(name, within=30)
    assert not names._under_way
