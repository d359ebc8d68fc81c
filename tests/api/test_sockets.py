"""How the doors have their sockets: no answer waits for another (TCP_NODELAY), and each process takes one at a time."""

import socket
import threading

import httpx
import pytest

from api import doors
from api.plain import PlainProtocol
from api.tls import TlsProtocol
from tests.api.support import Town

DOORS = ("people", "device", "status")


@pytest.mark.parametrize("handed_over", [False, True])
def test_tcp_nodelay_is_on_at_every_door_however_it_got_its_socket(
    town: Town, monkeypatch: pytest.MonkeyPatch, handed_over: bool
) -> None:
    """``socket.create_server`` leaves a socket's protocol 0, and asyncio then leaves Nagle's algorithm on: 44 ms an answer."""
    seen: dict[int, int] = {}
    for kind in (TlsProtocol, PlainProtocol):
        made = kind.connection_made

        def noted(self, transport, made=made) -> None:
            link = transport.get_extra_info("socket")
            seen[link.getsockname()[1]] = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            made(self, transport)

        monkeypatch.setattr(kind, "connection_made", noted)
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in DOORS}
    if handed_over:
        sockets = {name: socket.socket(fileno=made.detach()) for name, made in sockets.items()}
    else:
        assert {made.proto for made in sockets.values()} == {0}, "else this test tries nothing"
    town.ports = {name: made.getsockname()[1] for name, made in sockets.items()}
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=doors.main, args=(town.rt, sockets, stop, ready.set))
    thread.start()
    try:
        assert ready.wait(30)
        for name in DOORS:
            with town.client(name) as client:
                assert isinstance(client.get("/nowhere"), httpx.Response)
    finally:
        stop.set()
        thread.join(30)
    assert len(seen) == len(DOORS)
    assert all(seen.values()), seen


def test_a_process_takes_one_connection_at_a_time_and_keeps_the_queue(town: Town) -> None:
    """asyncio would take all that wait, and give the socket a queue of that length."""
    made = socket.create_server(("127.0.0.1", 0), backlog=64)
    listening = doors._Listening(fileno=made.detach())
    with listening:
        listening.listen(1)
        waiting = [socket.create_connection(listening.getsockname(), timeout=5) for _ in range(20)]
        for each in waiting:
            each.close()
    assert listening.proto == socket.IPPROTO_TCP
