"""Unauthenticated syslog over UDP (RFC 5426): kept and looked at, never believed about anybody.

A small thread in the detector's process with a stream of its own. Each datagram is one line of principal nobody; the
sender's address stands beside it as the network told it, which anybody on the way can forge. Limits: no TLS, no TCP; a
datagram beyond 8 KiB is cut; lines that come faster than the disk syncs are batched, and the kernel drops what is beyond.
"""

import logging
import socket
import threading

import orjson

from lachan import clock
from lachan.addresses import written
from lachan.runtime import Runtime
from siem_rules import segments
from siem_rules.delivery import UNAUTHENTICATED, Delivery

_LINE = 8192
_BATCH = 500
_log = logging.getLogger(__name__)


def listen(rt: Runtime, stop: threading.Event, server: socket.socket) -> threading.Thread:
    """Take lines from a bound UDP socket, in a thread, until told to stop."""
    server.settimeout(0.2)
    thread = threading.Thread(target=_take, args=(rt, server, stop), name="syslog", daemon=True)
    thread.start()
    return thread


def _take(rt: Runtime, server: socket.socket, stop: threading.Event) -> None:
    writer = segments.opened(rt).writer("syslog-0")
    with server:
        while not stop.is_set():
            lines = _batch(server)
            if not lines:
                continue
            delivery = Delivery(UNAUTHENTICATED, clock.now(), "", (None,) * len(lines), lines)
            try:
                writer.sync(writer.append(delivery.pack()))
            except OSError:
                _log.exception("syslog lines lost")
                continue
            rt.wake("detect")
    writer.close()


def _batch(server: socket.socket) -> tuple[bytes, ...]:
    lines: list[bytes] = []
    try:
        while len(lines) < _BATCH:
            datagram, address = server.recvfrom(_LINE)
            text = datagram.decode("utf-8", "replace").rstrip("\r\n\0")
            lines.append(orjson.dumps({"message": text, "log": {"source": {"address": _source(*address[:2])}}}))
            server.setblocking(False)
    except (TimeoutError, BlockingIOError):
        pass
    finally:
        server.settimeout(0.2)
    return tuple(lines)


def _source(host: str, port: int) -> str:
    host = written(host.partition("%")[0])
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
