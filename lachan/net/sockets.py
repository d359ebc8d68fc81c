"""The one place where lachan opens a connection to somebody else (design decision 14).

Every probe, webhook and playbook HTTP step calls :func:`connect` with a :class:`Scope`: who allowed it, which
addresses, ports and methods, when, how fast. The steps, in this order, so that a refusal costs no packet at all:

1. the scope still stands (not stopped) and the clock is inside its window;
2. method and port are allowed;
3. the name is resolved once, within a deadline (`lachan.net.names`; a literal address asks nobody);
4. the address found is in scope, and is not loopback, link-local, multicast, metadata, reserved or this machine's own,
   unless an entry of the scope names exactly that;
5. the target's token bucket has a token;
6. that very address is connected: nothing resolves the name again.

Limits. Buckets count in one process: two worker processes probing one target at once may reach twice the rate.
"Own" means what the kernel lets us bind; where ``net.ipv4.ip_nonlocal_bind`` is 1 every address looks own and must
be named. HTTP on top of this is ``lachan.web``; it never follows a redirect.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from lachan import clock, patterns
from lachan.buckets import Buckets
from lachan.errors import LachanError
from lachan.net import names

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Refusal(StrEnum):
    """Why no socket was opened; stable codes, shown to people and stored in verdicts."""

    STOPPED = "stopped"
    OUTSIDE_WINDOW = "outside_window"
    METHOD = "method_not_allowed"
    PORT = "port_not_allowed"
    UNRESOLVABLE = "unresolvable"
    OUTSIDE_SCOPE = "outside_scope"
    SPECIAL_ADDRESS = "special_address"
    OWN_ADDRESS = "own_address"
    RATE = "rate_limited"


class SocketRefused(LachanError):
    """No packet was sent: the scope does not allow this connection (``fields["reason"]`` is a :class:`Refusal`)."""

    status = 403
    title = "The connection is outside what was approved"
    hint = "Ask for an engagement, or have the operator's allow-list name this address and port."

    @property
    def reason(self) -> Refusal:
        """The machine-readable cause."""
        return Refusal(self.fields["reason"])


class ConnectFailed(LachanError):
    """The connection was allowed and tried, and the peer did not answer (``fields["reason"]``: timeout, refused, …)."""

    status = 502
    title = "The other side could not be reached"
    hint = "Check that the address is right and that the device is powered and connected."

    @property
    def reason(self) -> str:
        """``timeout``, ``refused``, ``unreachable`` or ``tls``."""
        return str(self.fields["reason"])


@dataclass(frozen=True)
class ScopeEntry:
    """One line of a scope: a network or a name, and the ports open to it.

    Attributes:
        network: addresses allowed; a single address is a /32 or /128. None when ``name`` is given.
        name: exact host name allowed (lower case); the address it resolves to is still checked against the
            special ranges, which only a ``network`` can name.
        ports: TCP ports allowed; empty means the scope's own ports.
    """

    network: Network | None = None
    name: str | None = None
    ports: frozenset[int] = frozenset()


def _stands() -> None:
    """Let a scope stand that cannot be stopped."""


@dataclass(frozen=True)
class Scope:
    """What may be connected to, for how long and how fast; the only key that opens a socket.

    Attributes:
        name: id of the engagement, or ``operator``; shown in errors and logs.
        entries: what is in scope.
        methods: names of what may be done (``tls``, ``http``, ``webhook`` …).
        ports: ports of entries that name none.
        not_before: start of the window (aware), None for no start.
        not_after: end of the window, exclusive, None for no end.
        rate: connections a second and target.
        burst: connections at once before the rate bites.
        standing: called before each connection; raises :class:`SocketRefused` with ``stopped`` when the scope was
            withdrawn in the meantime.
        pace: called before each connection with the target's address and the seconds that it may wait for its turn;
            raises :class:`SocketRefused` with ``rate_limited``. None: by this process's own buckets.
    """

    name: str
    entries: tuple[ScopeEntry, ...]
    methods: frozenset[str]
    ports: frozenset[int] = frozenset()
    not_before: datetime | None = None
    not_after: datetime | None = None
    rate: float = 5.0
    burst: int = 5
    standing: Callable[[], None] = field(default=_stands, compare=False, repr=False)
    pace: Callable[[str, float], None] | None = field(default=None, compare=False, repr=False)

    def wait_turn(self, address: str, patience: float) -> None:
        """Take a target's next turn, waiting at most ``patience`` seconds for it.

        Raises:
            SocketRefused: ``rate_limited``: it comes later than that.
        """
        if self.pace is None:
            _METER.take(self, address, patience=patience)
        else:
            self.pace(address, patience)

    def check_standing(self) -> None:
        """Check window and standing alone; asks nobody on the network.

        Raises:
            SocketRefused: ``outside_window`` or ``stopped``.
        """
        now = clock.now()
        if (self.not_before and now < self.not_before) or (self.not_after and now >= self.not_after):
            raise SocketRefused(f"{self.name}: outside its window", reason=Refusal.OUTSIDE_WINDOW, scope=self.name)
        self.standing()


_SPECIAL: tuple[tuple[str, Network], ...] = tuple(
    (label, ipaddress.ip_network(text))
    for label, text in (
        ("unspecified", "0.0.0.0/8"), ("unspecified", "::/128"),
        ("loopback", "127.0.0.0/8"), ("loopback", "::1/128"),
        ("link-local", "169.254.0.0/16"), ("link-local", "fe80::/10"),
        ("multicast", "224.0.0.0/4"), ("multicast", "ff00::/8"),
        ("reserved", "240.0.0.0/4"), ("reserved", "192.0.0.0/24"),
        ("reserved", "100::/64"), ("reserved", "fec0::/10"), ("reserved", "5f00::/16"),
        # RFC 8215: only whoever runs the translator knows where in it the IPv4 address stands.
        ("translated", "64:ff9b:1::/48"), ("v4-compatible", "::/96"), ("v4-translated", "::ffff:0:0:0/96"),
        ("metadata", "169.254.169.254/32"), ("metadata", "fd00:ec2::/32"), ("metadata", "fd20:ce::/32"),
        ("metadata", "fd00:42::/32"), ("metadata", "100.100.100.200/32"), ("metadata", "168.63.129.16/32"),
    )
)  # fmt: skip
_NAME = patterns.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
# NAT64 (RFC 6052), IPv4-compatible (RFC 4291 2.5.5.1), IPv4-translated (RFC 2765): the IPv4 address stands at the end.
_CARRYING = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96"))


def parse_entry(text: str) -> ScopeEntry:
    """Read one line of an allow-list: ``host:port``, ``10.0.0.0/8:443``, ``[fd00::/8]:443`` or without a port.

    Raises:
        ValueError: the port is not 1..65535, or the rest is neither a network nor a host name.
    """
    host, _, port = text.strip().rpartition(":")
    if (text.count(":") > 1 and not text.strip().startswith("[")) or ":" not in text:
        host, port = text.strip(), ""
    host = host.strip("[]").lower().rstrip(".")
    problem = f"not an allow-list entry: {text!r} (write host:port, network/bits:port or [IPv6]:port)"
    if not host or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise ValueError(problem)
    ports = frozenset({int(port)}) if port else frozenset()
    try:
        return ScopeEntry(network=ipaddress.ip_network(host, strict=False), ports=ports)
    except ValueError:
        if not _NAME.fullmatch(host):
            raise ValueError(problem) from None
        return ScopeEntry(name=host, ports=ports)


def operator_scope(allow: tuple[str, ...], *, methods: frozenset[str] = frozenset({"webhook", "http"})) -> Scope:
    """Give the scope of the operator's allow-list (settings): where webhooks and playbook HTTP steps may go.

    Args:
        allow: lines for :func:`parse_entry`; a line without a port allows 80 and 443.
        methods: what may be done there.

    Raises:
        ValueError: a line cannot be read.
    """
    entries = tuple(parse_entry(line) for line in allow)
    return Scope(
        name="operator",
        entries=entries,
        methods=methods,
        ports=frozenset({80, 443}),
        rate=50.0,
        burst=50,
    )


def connect(scope: Scope, host: str, port: int, *, timeout: float, method: str) -> socket.socket:
    """Open a TCP connection that the scope allows.

    Args:
        scope: what is allowed.
        host: literal address or name; a name is resolved once, here.
        port: TCP port.
        timeout: seconds for waiting for the bucket and for connecting; also left as the socket's timeout.
        method: what the caller is about to do, one of ``scope.methods``.

    Raises:
        SocketRefused: nothing was sent; ``reason`` says why.
        ConnectFailed: allowed, but the peer did not accept.
    """
    address = permit(scope, host, port, method=method)
    deadline = time.monotonic() + timeout
    scope.wait_turn(str(address), timeout)
    scope.check_standing()  # waiting for a token may have outlived the window, or somebody pressed stop
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(0.05, deadline - time.monotonic()))
        sock.connect((str(address), port))
        sock.settimeout(timeout)
    except OSError as error:
        sock.close()
        raise ConnectFailed(f"{host}:{port}: {error}", reason=_cause(error), host=host, port=port) from error
    return sock


def permit(scope: Scope, host: str, port: int, *, method: str) -> Address:
    """Check everything but the rate, and say which address would be connected; opens nothing.

    Raises:
        SocketRefused: as for :func:`connect`. Asks the resolver only when window, method and port allow.
    """
    scope.check_standing()
    if method not in scope.methods:
        raise _refused(Refusal.METHOD, scope, host, port, method=method)
    name = host.strip("[]").lower().rstrip(".")
    if not any(port in (entry.ports or scope.ports) for entry in scope.entries):
        raise _refused(Refusal.PORT, scope, host, port)
    address = _resolve(scope, name, port)
    matching = [entry for entry in scope.entries if _covers(entry, name, address)]
    if not matching:
        raise _refused(Refusal.OUTSIDE_SCOPE, scope, host, port, address=str(address))
    if not any(port in (entry.ports or scope.ports) for entry in matching):
        raise _refused(Refusal.PORT, scope, host, port, address=str(address))
    _refuse_special(scope, host, port, address)
    return address


def _resolve(scope: Scope, name: str, port: int) -> Address:
    try:
        return _plain(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        pass
    try:
        return _plain(names.resolve(name))
    except OSError as error:
        raise _refused(Refusal.UNRESOLVABLE, scope, name, port) from error


def _plain(address: Address) -> Address:
    """Take an IPv4 address out of its IPv6 wrapping, so that ``::ffff:127.0.0.1`` cannot hide loopback."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _carried(address: Address) -> Address:
    """Give the IPv4 address that a translator would reach for this one (`_CARRYING`, 6to4, Teredo), else the address itself."""
    if isinstance(address, ipaddress.IPv6Address) and int(address) > 1:  # "::" and "::1" are themselves
        if any(address in network for network in _CARRYING):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.sixtofour is not None:
            return address.sixtofour
        if address.teredo is not None:
            return address.teredo[1]
    return address


def _covers(entry: ScopeEntry, name: str, address: Address) -> bool:
    if entry.network is not None:
        return address.version == entry.network.version and address in entry.network
    return entry.name == name


def _refuse_special(scope: Scope, host: str, port: int, address: Address) -> None:
    """Refuse special and own addresses that no entry names.

    An entry names a special address when its network lies wholly inside that special range: ``127.0.0.0/8`` names
    loopback, ``0.0.0.0/0`` does not; ``169.254.0.0/16`` names link-local, but not the metadata address inside it.
    """
    for label, special in _SPECIAL:
        if not _lies_in(address, special):
            continue
        if not any(_inside(entry, special, address) for entry in scope.entries):
            raise _refused(
                Refusal.SPECIAL_ADDRESS,
                scope,
                host,
                port,
                address=str(address),
                kind=label,
            )
    exact = any(e.network is not None and e.network.num_addresses == 1 and address in e.network for e in scope.entries)
    if not address.is_loopback and not exact and is_own(address):
        raise _refused(Refusal.OWN_ADDRESS, scope, host, port, address=str(address))


def _inside(entry: ScopeEntry, special: Network, address: Address) -> bool:
    network = entry.network
    if network is None or network.version != address.version or address not in network:
        return False
    if network.version != special.version:  # a translated address is named only by itself
        return network.num_addresses == 1
    return network.prefixlen >= special.prefixlen


def special(address: Address) -> bool:
    """Tell whether an address lies in a range that only an entry of its own may open, also behind a translator."""
    return any(_lies_in(_plain(address), network) for _, network in _SPECIAL)


def _lies_in(address: Address, special: Network) -> bool:
    """Tell whether an address lies in a special range, or the one that it leads to does."""
    return any(one.version == special.version and one in special for one in (address, _carried(address)))


def is_own(address: Address) -> bool:
    """Tell whether the kernel would bind the address; sends nothing."""
    address = _plain(address)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((str(address), 0))
        return True
    return False


def _refused(reason: Refusal, scope: Scope, host: str, port: int, **fields: str) -> SocketRefused:
    detail = f"{host}:{port} under {scope.name}: {reason.value.replace('_', ' ')}"
    return SocketRefused(detail, reason=reason, scope=scope.name, host=host, port=port, **fields)


def _cause(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    return "refused" if isinstance(error, ConnectionRefusedError) else "unreachable"


class Meter:
    """Token buckets, one for each scope and target; forgets the idle ones beyond ``limit`` targets."""

    def __init__(self, *, limit: int = 100_000) -> None:
        self._buckets = Buckets(limit=limit)

    def take(self, scope: Scope, target: str, *, patience: float) -> None:
        """Take one token, waiting at most ``patience`` seconds for it.

        Raises:
            SocketRefused: the next token comes later than that (``retry_after`` in seconds).
        """
        wait = self._buckets.take((scope.name, target), rate=scope.rate, burst=float(scope.burst), patience=patience)
        if wait > patience:
            raise SocketRefused(
                f"{target} under {scope.name}: more than {scope.rate:g} connections a second",
                reason=Refusal.RATE, scope=scope.name, host=target, retry_after=round(wait, 3),
            )  # fmt: skip
        if wait:
            time.sleep(wait)


_METER = Meter()
