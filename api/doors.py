"""The role ``doors``: the three apps on one event loop, on sockets that ``lachan serve`` has bound.

Steps: server certificates → apps → three uvicorn servers → say ready → until told to stop, look every hour whether a
certificate must be renewed. Both TLS doors end TLS in ``api.tls``; the people door asks for no client certificate.

Several processes may answer on the same sockets (``lachan serve --doors N``): each accepts one connection at a time, so
that they share, and what limits the door is counted in memory that they share (`lachan.shared`).

Limits: sessions of TLS are resumed by the process that began them; another one begins anew. The thread limit is the database pool less four (the threads of the device door, and a reserve),
so that a request never waits for a connection while holding a thread that another one needs (docs/adr/0006).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
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
from lachan import buckets
from lachan.runtime import Runtime
from lachan.shared import SharedCounts, SharedMemory

_RENEW = 3600.0
_log = logging.getLogger("lachan.api")


def main(
    rt: Runtime,
    sockets: Mapping[str, socket.socket],
    stop: threading.Event,
    ready: Callable[[], None] = lambda: None,
    memory: SharedMemory | None = None,
) -> None:
    """Run the three doors until told to stop.

    Args:
        rt: The open installation.
        sockets: Listening sockets: people, device, status; they are taken over.
        stop: Set to end cleanly.
        ready: Called once all three answer.
        memory: What the processes of this door share; this one is alone by default.
    """
    memory = memory or SharedMemory.alone()
    with buckets.sharing(memory):
        asyncio.run(_serve(rt, sockets, stop, ready, memory))


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers (signals belong to ``lachan serve``), at rest ten times less awake."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._ended = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        """Whether the end has begun; uvicorn's own flag, which wakes the loop here."""
        return self._ended.is_set()

    @should_exit.setter
    def should_exit(self, wanted: bool) -> None:
        if wanted:
            self._ended.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Renew the Date header each second, until the end."""
        while not self.should_exit:
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), 1.0)


class _Listening(socket.socket):
    """A socket that listens already, in the hands of asyncio.

    asyncio's backlog is also how many connections it takes at once: a process that takes all that wait would leave
    nothing to the others on the same socket. Made of a descriptor, it knows its protocol, which
    ``socket.create_server`` leaves 0, and without which asyncio turns TCP_NODELAY on for no connection.
    """

    def listen(self, backlog: int = 0) -> None:
        """Listen as before."""


async def _serve(
    rt: Runtime,
    sockets: Mapping[str, socket.socket],
    stop: threading.Event,
    ready: Callable[[], None],
    memory: SharedMemory,
) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = max(1, rt.settings.database_pool - 4)
    limits = _limits(rt)
    counts = {name: SharedCounts(memory, f"connections.{name}", most=limits.total) for name in sockets}
    tls, shown = dict[str, TlsDoor](), dict[str, bytes]()
    for name in ("device", "people"):
        context, shown[name] = await asyncio.to_thread(_context, rt, name)
        tls[name] = TlsDoor(context, limits, counts[name])
    device_app = build_device(rt)
    door = Door(rt, device_app, tls["device"])
    apps = {"device": device_app, "people": build_people(rt), "status": build_status(rt)}
    servers = {name: _server(app, tls.get(name) or PlainDoor(limits, counts[name])) for name, app in apps.items()}
    listening = {name: _Listening(fileno=sockets[name].detach()) for name in servers}
    await door.start()
    running = [asyncio.create_task(server.serve([listening[name]])) for name, server in servers.items()]
    renewing = asyncio.create_task(_renew(rt, tls, shown))
    try:
        while not all(server.started for server in servers.values()):
            _refuse_end(running)
            await asyncio.sleep(0.02)
        ready()
        await asyncio.wait([*running, asyncio.create_task(_told(stop))], return_when=asyncio.FIRST_COMPLETED)
        _refuse_end(running)
    finally:
        renewing.cancel()
        for server in servers.values():
            server.should_exit = True
        await asyncio.gather(*running, renewing, return_exceptions=True)
        await door.close()
        await asyncio.gather(*(app.close() for app in apps.values() if isinstance(app, DoorApp)))
        await asyncio.to_thread(door.stop)


async def _told(stop: threading.Event) -> None:
    """Wait for another thread's word, without asking for it again and again."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()

    def wait() -> None:
        stop.wait()
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(told.set)

    threading.Thread(target=wait, name="doors-stop", daemon=True).start()
    await told.wait()


def _refuse_end(running: list[asyncio.Task[None]]) -> None:
    for task in running:
        if task.done():
            task.result()
            raise RuntimeError("a door ended by itself")


def _limits(rt: Runtime) -> Limits:
    s = rt.settings
    return Limits(
        per_address=s.door_connections_per_address, total=s.door_connections,
        body_rate=s.door_body_rate, body_grace=s.door_body_grace, body_seconds=s.door_body_seconds,
    )  # fmt: skip


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
            backlog=1,  # taken at once; see _Listening
        )
    )


def _context(rt: Runtime, door: str) -> tuple[SSL.Context, bytes]:
    """Give a door's TLS context, and by what its certificate is known again."""
    files, _ = server_certificates.ensure(rt, door)
    shown = hashlib.sha256(files.chain.read_bytes()).digest()
    return server_context(chain=files.chain, key=files.key, ask_client=door == "device"), shown


async def _renew(rt: Runtime, tls: Mapping[str, TlsDoor], shown: dict[str, bytes]) -> None:
    """Take what another process has renewed, too: one of them does, and all show it."""
    while True:
        await asyncio.sleep(_RENEW)
        for name, door in tls.items():
            try:
                context, now = await asyncio.to_thread(_context, rt, name)
                if now != shown[name]:
                    door.context, shown[name] = context, now
            except Exception:  # noqa: BLE001 - the present certificate serves on
                _log.exception("the certificate of the %s door could not be renewed", name)
