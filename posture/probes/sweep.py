"""Which ports are open: each is connected once and listened to, before any other probe speaks.

Listening first leaves a service that speaks first (telnet, SSH, FTP) alone after that, so that no hello meant for TLS ends
up on a printer.
"""

from __future__ import annotations

import socket
from dataclasses import replace

from lachan.net.sockets import ConnectFailed, SocketRefused
from posture.probes.observation import Observation, Outcome, observe
from posture.probes.probe import Inputs, Port, Probe
from posture.probes.target import CONNECT, ByteBudgetUsedUp, ProbeTarget, failure

LISTEN = 0.3  # seconds that a port may take to speak first
NAME = "net.port_sweep_vs_ixit"


def look(inputs: Inputs) -> list[Observation]:
    """Fill in what each port did; tell which are open, and of refusals and silence."""
    ports: list[Port] = []
    found: list[Observation] = []
    for number in inputs.target.ports:
        try:
            with inputs.target.connect(number, method=CONNECT) as sock:
                ports.append(Port(number, "open", _listen(inputs.target, sock)))
        except (SocketRefused, ConnectFailed, TimeoutError, ByteBudgetUsedUp) as error:
            closed = isinstance(error, ConnectFailed) and error.reason == "refused"
            ports.append(Port(number, "closed" if closed else "silent"))
            if not closed:
                found.append(failure(NAME, error, port=number))
    inputs.ports = tuple(ports)
    opened = tuple(port.number for port in inputs.opened)
    if not inputs.silent:
        text = f"open among {len(ports)} ports: {', '.join(map(str, opened)) or 'none'}"
        seen = observe(NAME, Outcome.SILENT, "ports_seen", text, address=inputs.target.host)
        found.append(replace(seen, ports=opened))
    elif opened:
        seen = observe(NAME, Outcome.UNREACHABLE, "unreachable", inputs.silent, address=inputs.target.host)
        found.append(replace(seen, ports=opened))
    return found


def _listen(target: ProbeTarget, sock: socket.socket) -> bytes:
    sock.settimeout(LISTEN)
    try:
        greeting = bytes(sock.recv(512))
    except OSError:
        return b""
    target.take(len(greeting))
    return greeting


PROBE = Probe(CONNECT, (NAME,), look)
