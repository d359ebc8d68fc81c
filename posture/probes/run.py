"""One run over one device: see which ports are open, then let each probe look that the engagement approved.

One connection at a time, paced by the socket factory. A port is first only listened to: a service that speaks first
(telnet, SSH, FTP) is left alone after that, so that no hello meant for TLS ends up on a printer. Everything that could
not be looked at becomes an observation that says why; nothing here raises for a device's sake.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lachan.errors import LachanError
from lachan.net.sockets import ConnectFailed, SocketRefused
from posture.probes import login, tls, web
from posture.probes.observation import Observation, Outcome, observe
from posture.probes.target import CONNECT, Target, failure

LISTEN = 0.3  # seconds that a port may take to speak first
_TELNET = re.compile(rb"^\xff[\xfb-\xfe]|login:|username:|password:", re.IGNORECASE)
PROBES: dict[str, tuple[str, ...]] = {
    tls.METHOD: ("tls.versions", "tls.ciphers", "tls.cert"),
    web.METHOD: web.PROBES,
    login.METHOD: (login.PROBE,),
    "banner": ("telnet.open", "net.telnet"),
    CONNECT: ("net.port_sweep_vs_ixit",),
}
"""Every probe there is, by the method that must be approved for it; what is not here is not implemented."""


@dataclass(frozen=True)
class Port:
    """What one port did when it was connected and listened to: ``open``, ``closed`` or ``silent``, and its greeting."""

    number: int
    state: str
    greeting: bytes = b""


def run(
    target: Target, *, paths: Iterable[Mapping[str, str]], pairs: Iterable[Mapping[str, str]]
) -> tuple[Observation, ...]:
    """Look at a device with every approved method.

    Args:
        target: the device, its scope and time box.
        paths: rows of ``criteria/paths.yaml``.
        pairs: rows of ``criteria/credentials.yaml``.

    Returns:
        Observations in the order they were made; at least one for every probe of every approved method.
    """
    ports, found = _survey(target)
    if not any(port.state == "open" for port in ports):
        return tuple(_complete(target, found, ports))
    quiet = [port.number for port in ports if port.state == "open" and not port.greeting]
    if target.allows("banner"):
        found += _banners(target, ports)
    encrypted = _encrypted(target, quiet, found)
    pages = _pages(target, quiet, encrypted, found) if target.allows(web.METHOD) else []
    for page in pages:
        found += web.probe(target, page, paths)
    if target.allows(login.METHOD):
        found += login.probe(target, pages, pairs)
    return tuple(_complete(target, found, ports))


def _survey(target: Target) -> tuple[list[Port], list[Observation]]:
    """Connect each port once and listen; the second value tells of refusals and silence."""
    ports: list[Port] = []
    found: list[Observation] = []
    for number in target.ports:
        try:
            with target.connect(number, method=CONNECT) as sock:
                ports.append(Port(number, "open", _listen(sock)))
        except (SocketRefused, ConnectFailed, TimeoutError) as error:
            closed = isinstance(error, ConnectFailed) and error.reason == "refused"
            ports.append(Port(number, "closed" if closed else "silent"))
            if not closed:
                found.append(failure("net.port_sweep_vs_ixit", error, port=number))
    return ports, found


def _listen(sock: socket.socket) -> bytes:
    sock.settimeout(LISTEN)
    try:
        return bytes(sock.recv(512))
    except OSError:
        return b""


def _banners(target: Target, ports: list[Port]) -> list[Observation]:
    found = []
    for port in ports:
        if port.state == "open" and (_TELNET.search(port.greeting) or (port.greeting and port.number in (23, 2323))):
            found += [
                observe(name, Outcome.CONTRADICTS, "telnet_open", "telnet answers", port=port.number,
                        address=target.host, raw=port.greeting)
                for name in PROBES["banner"]
            ]  # fmt: skip
    if not found and all(port.state != "silent" for port in ports):
        looked = ", ".join(str(port.number) for port in ports)
        found = [
            observe(name, Outcome.SILENT, "nothing_found", f"no telnet on ports {looked}", address=target.host)
            for name in PROBES["banner"]
        ]
    return found


def _encrypted(target: Target, quiet: list[int], found: list[Observation]) -> set[int]:
    """The ports that speak TLS; with the TLS method approved they are also judged."""
    encrypted: set[int] = set()
    if not target.allows(tls.METHOD):
        return {number for number in quiet if number in (443, 8443)}
    for number in quiet:
        try:
            if tls.speaks(target, number):
                encrypted.add(number)
                found += tls.probe(target, number)
        except (LachanError, OSError) as error:
            found.append(failure("tls.versions", error, port=number))
    return encrypted


def _pages(target: Target, quiet: list[int], encrypted: set[int], found: list[Observation]) -> list[web.Page]:
    pages = []
    for number in quiet:
        try:
            pages.append(web.front(target, number, scheme="https" if number in encrypted else "http"))
        except (LachanError, OSError) as error:
            if not isinstance(error, ConnectFailed) or error.reason not in ("protocol", "timeout", "unreachable"):
                found.append(failure("http.banner", error, port=number))
    return pages


def _complete(target: Target, found: list[Observation], ports: list[Port]) -> list[Observation]:
    """Add the sweep's result, and for every probe that said nothing the reason why."""
    answered = [port for port in ports if port.state != "silent"]
    opened = [port.number for port in ports if port.state == "open"]
    if len(answered) == len(ports):
        text = f"open among {len(ports)} ports: {', '.join(map(str, opened)) or 'none'}"
        sweep = observe("net.port_sweep_vs_ixit", Outcome.SILENT, "ports_seen", text, address=target.host)
        found.append(replace(sweep, ports=tuple(opened)))
    elif opened:
        sweep = observe(
            "net.port_sweep_vs_ixit", Outcome.UNREACHABLE, "unreachable", _silent(ports), address=target.host
        )
        found.append(replace(sweep, ports=tuple(opened)))
    said = {o.probe for o in found}
    for method, names in PROBES.items():
        found += [_why(target, name, method, found, ports) for name in names if name not in said]
    return found


def _why(target: Target, name: str, method: str, found: list[Observation], ports: list[Port]) -> Observation:
    """Why a probe has nothing to say; only "no such service" counts as having looked."""
    refused = next((o for o in found if o.outcome is Outcome.NOT_AUTHORISED and o.code != "method_not_allowed"), None)
    boxed = next((o for o in found if o.code == "time_box"), None)
    if not target.allows(method):
        text = f"the engagement does not approve {method}"
        return observe(name, Outcome.NOT_AUTHORISED, "method_not_allowed", text)
    if refused:
        return observe(name, Outcome.NOT_AUTHORISED, refused.code, refused.detail)
    if boxed:
        return observe(name, Outcome.ERROR, "time_box", boxed.detail)
    if any(port.state == "silent" for port in ports):
        return observe(name, Outcome.UNREACHABLE, "unreachable", _silent(ports), address=target.host)
    if not any(port.state == "open" for port in ports):
        return observe(
            name, Outcome.UNREACHABLE, "all_closed", "every port refused the connection", address=target.host
        )
    return observe(name, Outcome.SILENT, "no_service", "no such service on the ports looked at", address=target.host)


def _silent(ports: list[Port]) -> str:
    return f"ports that did not answer: {', '.join(str(port.number) for port in ports if port.state == 'silent')}"
