"""One HTTP request to somebody else, through :mod:`lachan.net.sockets`: for webhooks, playbook steps and probes.

The connection is opened by the socket factory under a scope, one request is written, one answer is read, the
connection is closed. The answer is capped in bytes and boxed in time as a whole, whatever the peer drips. A redirect
is an answer like any other: it is returned, never followed. No proxy, no cookies, no environment variables.

Limits: HTTP/1.1 only, ``Connection: close``, no request streaming.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from urllib.parse import SplitResult, urlsplit

from lachan import patterns
from lachan.errors import Invalid
from lachan.net.answer import Framing, HttpAnswer, NotHttp, parse
from lachan.net.sockets import ConnectFailed, Scope, connect

_TOKEN = patterns.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = patterns.compile(r"[\x21-\x7e]+")
_VALUE = patterns.compile(r"[\t\x20-\x7e\x80-\xff]*")


def http_get(scope: Scope, url: str, *, timeout: float, method: str = "http", **more: object) -> HttpAnswer:
    """GET one URL under a scope; never follows a redirect.

    Args:
        scope: what may be connected to.
        url: ``http`` or ``https``, without user name.
        timeout: seconds for everything.
        method: the scope's method name under which this happens (not the HTTP verb).
        more: keyword arguments of :func:`http_request`.

    Raises:
        As :func:`http_request`.
    """
    return http_request(scope, "GET", url, timeout=timeout, method=method, **more)  # type: ignore[arg-type]


def http_request(
    scope: Scope,
    verb: str,
    url: str,
    *,
    timeout: float,
    method: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    context: ssl.SSLContext | None = None,
    max_bytes: int = 65_536,
) -> HttpAnswer:
    """Send one request and read one answer.

    Args:
        scope: what may be connected to.
        verb, url: HTTP method; ``http`` or ``https`` URL without user names.
        timeout: seconds for the whole exchange, waiting for the rate limit included.
        method: the scope's method name under which this happens.
        headers: besides ours (``Host``, ``Connection``, ``Content-Length``).
        context: TLS context; by default the system's anchors and the name are verified.
        max_bytes: cap of head and body together.

    Raises:
        Invalid: the URL or a header cannot be sent.
        SocketRefused, ConnectFailed: not allowed, nothing was sent; no connection, TLS or HTTP answer in time.
    """
    parts = _parts(url)
    request = _request(verb, parts, headers or {}, body)
    begin = time.monotonic()
    host, port = str(parts.hostname), parts.port or {"http": 80, "https": 443}[parts.scheme]
    sock = connect(scope, host, port, timeout=timeout, method=method)
    with _failures(f"{host}:{port}"):
        if parts.scheme == "https":
            sock = _encrypt(sock, context or ssl.create_default_context(), host, deadline=begin + timeout)
        with sock:
            address = str(sock.getpeername()[0])
            sock.sendall(request)
            raw, complete = _read(sock, verb, deadline=begin + timeout, max_bytes=max_bytes)
        return parse(raw, verb, complete=complete, address=address, elapsed=time.monotonic() - begin)


@contextlib.contextmanager
def _failures(peer: str) -> Iterator[None]:
    """Tell what became of an allowed exchange that failed."""
    try:
        yield
    except ssl.SSLError as error:
        raise ConnectFailed(f"{peer}: TLS failed: {error.reason or error}", reason="tls") from error
    except NotHttp as error:
        raise ConnectFailed(f"{peer}: no HTTP answer: {error}", reason="protocol") from error
    except OSError as error:
        reason = "timeout" if isinstance(error, TimeoutError) else "unreachable"
        raise ConnectFailed(f"{peer}: {error}", reason=reason) from error


def _encrypt(sock: socket.socket, context: ssl.SSLContext, host: str, *, deadline: float) -> ssl.SSLSocket:
    sock.settimeout(max(0.05, deadline - time.monotonic()))  # bounds the whole handshake, not each read
    try:
        return context.wrap_socket(sock, server_hostname=host)
    except OSError:
        sock.close()
        raise


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises on a port that is no number
    except ValueError as error:
        raise Invalid(f"not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise Invalid(f"only http and https URLs without user names are fetched, not {url!r}")
    return parts


def _request(verb: str, parts: SplitResult, headers: Mapping[str, str], body: bytes) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TOKEN.fullmatch(verb) or not _TARGET.fullmatch(target) or not parts.netloc.isascii():
        raise Invalid(f"not a request line: {verb!r} {target!r}")
    lines = [f"{verb} {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
    names = {name.lower() for name in headers}
    if body or verb in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    if "user-agent" not in names:
        lines.append("User-Agent: lachan")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Invalid(f"not a header: {name!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _read(sock: socket.socket, verb: str, *, deadline: float, max_bytes: int) -> tuple[bytes, bool]:
    """Read until the answer is whole, the peer closes, the cap or the deadline; second value: it was whole."""
    raw = bytearray()
    framing = Framing(verb)
    while len(raw) < max_bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        sock.settimeout(left)
        try:
            piece = sock.recv(min(16_384, max_bytes - len(raw)))
        except TimeoutError:
            break
        except ConnectionError:
            if raw:
                break
            raise
        if not piece:
            return bytes(raw), framing.whole(raw, closed=True)
        raw += piece
        if framing.whole(raw, closed=False):
            return bytes(raw), True
    if not raw:
        raise TimeoutError("no answer in time")
    return bytes(raw), False
