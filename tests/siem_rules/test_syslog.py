"""Unauthenticated syslog: kept, looked at, never believed; and how long an alert takes."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lachan.runtime import Runtime
from lachan.work import outbox
from siem_rules import logs
from siem_rules.detector import main
from tests.siem_rules.support import collector, device, documents, raised, send
from tests.support.wait import until

PROBE = "<86>Nov 22 16:19:02 {} sh: XMHDIPC: applet not found"


@contextmanager
def detecting(rt: Runtime) -> Iterator[tuple[str, int]]:
    """A detector in a thread with a syslog port of its own; gives the port's address."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    address = server.getsockname()
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=main, args=(rt, stop), kwargs={"ready": ready.set, "syslog": server})
    thread.start()
    try:
        assert ready.wait(30)
        yield address
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def test_udp_lines_alert_and_bind_nobody(open_rt: Runtime) -> None:
    camera = device(open_rt, "cam-b", address="127.0.0.1")
    with detecting(open_rt) as address, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for host in ("cam-b", camera.id, "127.0.0.1"):
            sender.sendto(PROBE.format(host).encode() + b"\n", address)
        sender.sendto(b"\xff\x00 no text at all", address)
        until(lambda: sum(raised(open_rt).values()) == 3, timeout=30)
        until(lambda: len(logs.newest(open_rt)) == 4, timeout=30)
    with open_rt.db.read() as connection:
        facts = [stored.event for stored in outbox.read(connection, names=("AlertRaised",))]
    assert {(fact.device_id, fact.subject_bound, fact.senders) for fact in facts} == {(None, False, ("nobody:nobody",))}
    assert {line.sender for line in logs.newest(open_rt)} == {"nobody:nobody"}


def test_alert_comes_soon_after_the_answer(open_rt: Runtime) -> None:
    """The wake-up works: far below what polling every few seconds would take."""
    with detecting(open_rt):
        times = []
        for number in range(5):
            before = sum(raised(open_rt).values())
            began = time.monotonic()
            line = {"host": {"name": f"cam-{number}"}, "message": PROBE.format("x")}
            send(open_rt, collector("gw"), documents(line))
            until(lambda before=before: sum(raised(open_rt).values()) > before, timeout=30, every=0.002)
            times.append(time.monotonic() - began)
    assert sorted(times)[2] < 5, times


def test_newest_lines_come_first_and_only_of_whom_was_asked(open_rt: Runtime) -> None:
    one, two = collector("one"), collector("two")
    for number in range(5):
        send(open_rt, one, documents({"message": f"one {number}"}))
        send(open_rt, two, documents({"message": f"two {number}"}))
    assert [line.line for line in logs.newest(open_rt, limit=2)] == ['{"message": "two 4"}', '{"message": "one 4"}']
    assert [line.line for line in logs.newest(open_rt, limit=3, sender="collector:one")] == [
        f'{{"message": "one {number}"}}' for number in (4, 3, 2)
    ]
