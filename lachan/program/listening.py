"""Listening sockets of ``lachan serve``: for IPv4, for IPv6, or for both, as the setting ``host`` says.

``host`` may be an address or a name; ``::`` means every address of either kind, ``0.0.0.0`` every one of IPv4. Limits: a name
that stands for several addresses is listened on at the first.
"""

import os
import socket
from ipaddress import ip_address

from lachan.errors import Unavailable
from lachan.settings import Settings

BACKLOG = 1024  # connections that the kernel keeps until a door takes them


def listen(settings: Settings, door: str) -> socket.socket:
    """Give a listening TCP socket for a door.

    Raises:
        Unavailable: the port is taken or may not be used, or the host is none of this machine's.
    """
    port = getattr(settings, f"{door}_port")
    try:
        family, address = _place(settings.host, port, socket.SOCK_STREAM)
        return socket.create_server(
            address, family=family, backlog=BACKLOG, dualstack_ipv6=_every(settings.host, family)
        )  # fmt: skip
    except OSError as error:
        where = f"{bracketed(settings.host)}:{port}"
        raise Unavailable(f"The {door} door cannot listen on {where}: {error.strerror}.") from error


def listen_syslog(settings: Settings) -> socket.socket:
    """Give the UDP socket of unauthenticated syslog.

    Raises:
        Unavailable: as of `listen`.
    """
    host, port = settings.host, settings.syslog_port
    try:
        family, address = _place(host, port, socket.SOCK_DGRAM)
        made = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not _every(host, family))
        made.bind(address)
    except OSError as error:
        raise Unavailable(f"Syslog cannot listen on {bracketed(host)}:{port}: {error.strerror}.") from error
    return made


def inherited() -> dict[str, socket.socket]:
    """Give the sockets that the supervisor handed down, by what they are for."""
    words = os.environ.get("LACHAN_SOCKETS", "")
    pairs = (word.split("=") for word in words.split(",") if word)
    return {name: socket.socket(fileno=int(number)) for name, number in pairs}


def reachable_host(settings: Settings) -> str:
    """Give the host of a URL that reaches a socket of this installation from this machine."""
    try:
        address = ip_address(settings.host.partition("%")[0])
    except ValueError:
        return settings.host
    if address.is_unspecified or str(address) == "127.0.0.1":
        return "localhost"
    return bracketed(settings.host)


def bracketed(host: str) -> str:
    """Write a host as a URL has it (RFC 3986 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def _place(host: str, port: int, kind: socket.SocketKind) -> tuple[socket.AddressFamily, tuple[str, int]]:
    family, _, _, _, address = socket.getaddrinfo(host or None, port, type=kind, flags=socket.AI_PASSIVE)[0]
    return family, (str(address[0]), port)


def _every(host: str, family: int) -> bool:
    return family == socket.AF_INET6 and host == "::"
