"""The role ``doors``: the three apps on one event loop, on sockets that ``lachan serve`` has bound.

Steps: server certificates → apps → three uvicorn servers → say ready → until told to stop, look every hour whether a
certificate must be renewed. Both TLS doors end TLS in ``api.tls``; the people door asks for no client certificate.

Limits: one process. The thread limit is the database pool less four (the threads of the device door, and a reserve),
so that a request never waits for a connection while holding a thread that another one needs (docs/adr/0006).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

import anyio.to_thread
import uvicorn
from fastapi import FastAPI
from OpenSSL import SSL

from api import server_certificates
from api.device.app import Door
from api.device.app import build as build_device
from api.limits import Limits
from api.machine import DoorApp
from api.people.app import build as build_people
from api.plain import PlainDoor
from api.status.app import build as build_status
from api.tls import TlsDoor, server_context
from lachan.runtime import Runtime

_RENEW = 3600.0
_log = logging.getLogger("lachan.api")


def main(
    rt: Runtime,
    sockets: Mapping[str, socket.socket],
    stop: threading.Event,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Run the three doors until told to stop.

    Args:
        rt: The open installation.
        sockets: Listening sockets: people, device, status.
        stop: Set to end cleanly.
        ready: Called once all three answer.
    """
    asyncio.run(_serve(rt, sockets, stop, ready))


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: signals belong to ``lachan serve``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(
    rt: Runtime, sockets: Mapping[str, socket.socket], stop: threading.Event, ready: Callable[[], None]
) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = max(1, rt.settings.database_pool - 4)
    tls = {door: TlsDoor(await asyncio.to_thread(_context, rt, door), _limits(rt)) for door in ("device", "people")}
    device_app = build_device(rt)
    door = Door(rt, device_app, tls["device"])
    apps = {"device": device_app, "people": build_people(rt), "status": build_status(rt)}
    servers = {name: _server(app, tls.get(name) or PlainDoor(_limits(rt))) for name, app in apps.items()}
    await door.start()
    running = [asyncio.create_task(server.serve([sockets[name]])) for name, server in servers.items()]
    renewing = asyncio.create_task(_renew(rt, tls))
    try:
        await _until(lambda: all(server.started for server in servers.values()), running)
        ready()
        await _until(stop.is_set, running)
    finally:
        renewing.cancel()
        for server in servers.values():
            server.should_exit = True
        await asyncio.gather(*running, renewing, return_exceptions=True)
        await door.close()
        await asyncio.gather(*(app.close() for app in apps.values() if isinstance(app, DoorApp)))
        await asyncio.to_thread(door.stop)


async def _until(condition: Callable[[], bool], running: list[asyncio.Task[None]]) -> None:
    while not condition():
        for task in running:
            if task.done():
                task.result()
                raise RuntimeError("a door ended by itself")
        await asyncio.sleep(0.02)


def _limits(rt: Runtime) -> Limits:
    return Limits(per_address=rt.settings.door_connections_per_address, total=rt.settings.door_connections)


def _server(app: FastAPI, door: TlsDoor | PlainDoor) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=door.protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=3,
        )
    )


def _context(rt: Runtime, door: str) -> SSL.Context:
    files, _ = server_certificates.ensure(rt, door)
    return server_context(chain=files.chain, key=files.key, ask_client=door == "device")


async def _renew(rt: Runtime, tls: Mapping[str, TlsDoor]) -> None:
    while True:
        await asyncio.sleep(_RENEW)
        for name, door in tls.items():
            try:
                files, new = await asyncio.to_thread(server_certificates.ensure, rt, name)
                if new:
                    door.context = server_context(chain=files.chain, key=files.key, ask_client=name == "device")
            except Exception:  # noqa: BLE001 - the present certificate serves on
                _log.exception("the certificate of the %s door could not be renewed", name)
