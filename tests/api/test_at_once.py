"""Answers that need no task of the loop: they leave at once, whole, and their connections end when they rest for long."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from api.doors import _Server
from api.limits import Limits
from api.plain import PlainDoor


class Origin:
    """An application that knows one path at once, and counts what it is asked on the long way."""

    def __init__(self) -> None:
        self.tasks = 0

    def ready(self, scope):
        if scope["path"] != "/known":
            return None
        return b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", b"request-1", b"known"

    async def __call__(self, scope, receive, send) -> None:
        self.tasks += 1
        assert "lachan.exchange" in scope
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"long"})
        assert "lachan.exchange" not in scope  # or scope and exchange would hold each other


@pytest.fixture
def place() -> Iterator[tuple[int, Origin]]:
    origin, stop, ready = Origin(), threading.Event(), threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    async def serve() -> None:
        config = uvicorn.Config(
            origin, interface="asgi3", http=PlainDoor(Limits(header=2, stall=5)).protocol(), ws="none", lifespan="off",
            log_config=None, proxy_headers=False, timeout_keep_alive=1, timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = _Server(config)
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn sets a plain flag
            await asyncio.sleep(0.01)
        ready.set()
        await asyncio.to_thread(stop.wait)
        server.should_exit = True
        getattr(server, "ended", asyncio.Event()).set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield listener.getsockname()[1], origin
    stop.set()
    thread.join(10)
    listener.close()


def ask(connection: socket.socket, path: str, extra: str = "") -> bytes:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode())
    got = connection.recv(65536)
    while not got.endswith((b"known", b"long")):
        got += connection.recv(65536)
    return got


def test_what_is_known_takes_no_task_and_stands_between_what_is_not(place: tuple[int, Origin]) -> None:
    port, origin = place
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for _ in range(3):
            got = ask(connection, "/known")
            assert got.startswith(b"HTTP/1.1 200 OK\r\n") and got.endswith(b"X-Request-Id: request-1\r\n\r\nknown")
            assert b"\r\nDate: " in got
            assert origin.tasks == 0
        assert ask(connection, "/else").endswith(b"long") and origin.tasks == 1
        assert ask(connection, "/known").endswith(b"known") and origin.tasks == 1
        assert ask(connection, "/known", "Connection: close\r\n").endswith(b"long")  # the long way closes in order
        assert connection.recv(1) == b"" and origin.tasks == 2


def test_a_connection_that_rests_after_such_answers_ends(place: tuple[int, Origin]) -> None:
    port, _ = place
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        assert ask(connection, "/known").endswith(b"known")
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.5 < time.monotonic() - began < 5
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /known HTTP/1.1\r\nHost: x\r\n\r\nGET /known HT")  # a head that does not end
        assert connection.recv(65536).endswith(b"known")
        assert connection.recv(1) == b""  # the deadline of heads watches over it
