"""200 connections × 20 requests: nobody is turned away, and a request right after is answered at once (Must show 15).

The tutorial pattern (a generator dependency that gives the connection) is planted in the same test and fails it: each
request then holds a connection while it waits for a thread to give it back, and those threads wait for connections.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import anyio.to_thread
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import Depends, FastAPI

from api import routing
from api.doors import _Server
from api.people.app import build
from lachan.identity import Role
from lachan.runtime import Runtime
from tests.api.support import Town

CONNECTIONS, REQUESTS = 200, 20


class Outcome:
    """What the clients met."""

    def __init__(self, statuses: Sequence[int] = (), broken: Sequence[str] = (), after: float = 0.0) -> None:
        self.statuses = list(statuses)
        self.broken = list(broken)
        self.after = after


async def client(port: int, head: bytes, count: int, outcome: Outcome, patience: float) -> None:
    """One connection that asks so many times, one after the other."""
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                for number in range(count):
                    writer.write(head.replace(b"NUMBER", str(number).encode()))
                    answer = await reader.readuntil(b"\r\n\r\n")
                    length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    await reader.readexactly(length)
                    outcome.statuses.append(int(answer[9:12]))
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        outcome.broken.append(type(error).__name__)


async def storm(port: int, head: bytes, *, connections: int, count: int, patience: float) -> Outcome:
    """All connections at once, then one request more; how long that one took is ``after``."""
    outcome, last = Outcome(), Outcome()
    await asyncio.gather(*(client(port, head, count, outcome, patience) for _ in range(connections)))
    began = time.monotonic()
    await client(port, head, 1, last, patience)
    outcome.after = time.monotonic() - began if last.statuses == [200] else float("inf")
    return outcome


def check(outcome: Outcome, *, expected: int) -> None:
    """The claim; the planted pattern must break it."""
    assert not outcome.broken, f"{len(outcome.broken)} connections broke: {set(outcome.broken)}"
    assert len(outcome.statuses) == expected
    assert set(outcome.statuses) == {200}, f"statuses {set(outcome.statuses)}"
    assert outcome.after < 1.0


@contextlib.contextmanager
def serving(app: FastAPI, threads: int) -> Iterator[int]:
    """The app on a plain socket (TLS has no part in this), with the thread limit that `api.doors` sets."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = _Server(uvicorn.Config(app, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1))

    async def run() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = threads
        await server.serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()


def head(path: str, token: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def test_two_hundred_connections(town: Town, rt: Runtime) -> None:
    for number in range(5):
        town.add_device(f"cam-{number}")
    token = town.token(Role.PLATFORM)
    with serving(build(rt), rt.settings.database_pool - 4) as port:
        outcome = asyncio.run(
            storm(port, head("/api/v1/devices?limit=5", token), connections=CONNECTIONS, count=REQUESTS, patience=110)
        )
    check(outcome, expected=CONNECTIONS * REQUESTS)


def planted(engine: sa.Engine) -> FastAPI:
    """The same query in FastAPI's tutorial's way and in ours."""
    app = FastAPI()

    def session() -> Iterator[Any]:
        with engine.connect() as connection:
            yield connection

    def answer(connection: sa.Connection) -> dict[str, int]:
        return {"ok": int(connection.execute(sa.text("SELECT 1")).scalar_one())}

    @app.get("/planted")
    def planted(connection: Annotated[sa.Connection, Depends(session)]) -> dict[str, int]:
        return answer(connection)

    @app.get("/ours")
    def ours() -> dict[str, int]:
        with engine.connect() as connection:
            return answer(connection)

    return app


def test_the_tutorial_pattern_fails_the_same_test(rt: Runtime) -> None:
    """In a process of its own, because the pattern leaves stuck threads and connections behind."""
    url = rt.db.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.api.test_load", url]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=150, check=True)
    found = {path: Outcome(**met) for path, met in json.loads(run.stdout).items()}
    check(found["/ours"], expected=CONNECTIONS * 2)
    with pytest.raises(AssertionError):
        check(found["/planted"], expected=CONNECTIONS * 2)


def main(url: str) -> None:
    """Both ways, each under its storm; small pool and short patience only bound the time."""
    app = planted(sa.create_engine(url, pool_size=4, max_overflow=0, pool_timeout=0.5))
    found: dict[str, Any] = {}
    with serving(app, 4) as port:
        for path, patience in (("/ours", 60), ("/planted", 4)):
            outcome = asyncio.run(storm(port, head(path, "-"), connections=CONNECTIONS, count=2, patience=patience))
            found[path] = vars(outcome)
    print(json.dumps(found), flush=True)
    os._exit(0)  # threads of the pattern hang


def test_no_route_of_ours_uses_the_pattern(rt: Runtime) -> None:
    from api.device.app import build as build_device
    from api.status.app import build as build_status

    for door in (build, build_device, build_status):
        app = door(rt)
        assert routing.operations(app) or door is build_status
        assert routing.generator_dependencies(app) == []

    engine = sa.create_engine("sqlite://")
    name = "planted.<locals>.session"
    assert routing.generator_dependencies(planted(engine)) == [f"/planted: {name}"]
    engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1])
