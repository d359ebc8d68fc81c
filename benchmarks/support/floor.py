"""The floor of the doors: the product's own TLS and plain protocols with an application that says nothing.

    python -m benchmarks.support.floor CHAIN.pem KEY.pem

It prints one JSON line, ``{"device": URL, "status": URL, "pid": N}``, and serves until SIGTERM. What a door's answer costs
more than this one is the door's own: routes, who speaks, what is known, metrics.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from api.limits import Limits
from api.plain import PlainDoor
from api.tls import TlsDoor, server_context

NOTHING = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}


async def empty(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer 200 with an empty body."""
    await send(NOTHING)
    await send({"type": "http.response.body", "body": b""})


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        """Leave signals to `_serve`."""
        import contextlib

        return contextlib.nullcontext()


async def _serve(chain: Path, key: Path) -> None:
    limits = Limits(per_address=4000)
    doors = {
        "device": TlsDoor(server_context(chain=chain, key=key, ask_client=True), limits),
        "status": PlainDoor(limits),
    }
    urls: dict[str, Any] = {"pid": os.getpid()}
    servers, running = [], []
    for name, door in doors.items():
        made = socket.create_server(("127.0.0.1", 0), backlog=512)
        listening = socket.socket(fileno=made.detach())  # so that its protocol is known: asyncio sets TCP_NODELAY by it
        scheme = "https" if name == "device" else "http"
        urls[name] = f"{scheme}://localhost:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            empty, interface="asgi3", http=door.protocol(), ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, proxy_headers=False, timeout_keep_alive=75,
        )  # fmt: skip
        servers.append(_Server(config))
        running.append(asyncio.create_task(servers[-1].serve([listening])))
    print(json.dumps(urls), flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*running)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), Path(sys.argv[2])))
