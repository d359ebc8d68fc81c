"""HTTP/1.1 as the doors speak it: uvicorn's parser with the limits it lacks and the manners old clients need.

What it adds to uvicorn's ``HttpToolsProtocol``: a limit on the size of a request's head and a deadline for it,
a deadline for a body that stops arriving, or comes slower than the least rate, trailers thrown away (uvicorn would append them to the request's
headers after the application has looked at them), marks for ``restore_head``, and `Exchange`: the way by which an
answer that is finished bytes already leaves without uvicorn formatting it again. An application that has a ``ready``
is asked first, where the head stands: what it can say without waiting needs no task of the loop (ADR 0032).

``restore_head`` repairs an answer's head: uvicorn writes every header name in lower case, but strongSwan up to
5.9.8 looks for ``Content-Length`` and libest for ``WWW-Authenticate`` and ``Content-Type`` exactly so; and libest,
which speaks HTTP/1.0, insists on an ``HTTP/1.0`` status line. Only the head is touched, never the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.limits import Peer, patience

Ready = Callable[[dict[str, Any]], tuple[bytes, bytes, bytes] | None]
TOGETHER = 16 * 1024
MAX_HEAD = 64 * 1024
_IRREGULAR = {b"www-authenticate": b"WWW-Authenticate", b"etag": b"ETag", b"te": b"TE", b"dnt": b"DNT"}


class HttpInner(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol inside one connection, TLS (``api.tls``) or plain (``api.plain``).

    Attributes:
        facts: What the TLS layer knows of the peer; each request's scope gets it as ``lachan.tls``.
        head_due: Whether the next thing written is the head of an answer.
    """

    def __init__(self, outer: Peer, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self.outer = outer
        self.facts: dict[str, Any] = {}
        self.head_due = True
        self._in_head = False
        self._head_size = 0
        self._ready: Ready | None = getattr(self.app, "ready", None)
        self._at_once = False
        self._body_size, self._body_since = 0, 0.0
        self._rested = 0.0
        self._resting: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Plaintext from the peer; a head that grows past ``MAX_HEAD`` ends the connection."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self.outer.deadlines.watched:
            self.outer.deadlines.watch(self.outer.deadlines.limits.header)
        super().data_received(data)
        if self._in_head:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self.send_400_response("Request head too large.")

    def on_message_begin(self) -> None:
        """Note a request's first byte."""
        super().on_message_begin()
        self._in_head, self._head_size = True, 0
        if not self.outer.deadlines.watched:
            self.outer.deadlines.watch(self.outer.deadlines.limits.header)
        extensions = cast("dict[str, Any]", self.scope.setdefault("extensions", {}))
        extensions |= {"lachan.tls": self.facts, "lachan.connection": self.outer}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field; trailers (after the head) are dropped."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note that the head is complete; the body must keep coming.

        Raises:
            ValueError: HTTP/1.1 without ``Host``, or several of them (RFC 9112 3.2); the parser's caller answers 400.
        """
        self._in_head = False
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise ValueError("exactly one Host header")
        if self._ready is not None and self._answered_at_once(self._ready):
            return
        self._body_size, self._body_since = 0, self.loop.time()
        self._await_body()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body_size += len(body)
        self._await_body()
        super().on_body(body)

    def _await_body(self) -> None:
        """Give the peer as long for the next piece as what has come buys it; what is overdue ends with the loop's next turn."""
        limits = self.outer.deadlines.limits
        left = patience(limits, since=self._body_since, size=self._body_size, now=self.loop.time())
        self.outer.deadlines.watch(max(0.0, left))

    def on_message_complete(self) -> None:
        """Note that the request is complete; the peer owes nothing."""
        self.outer.deadlines.unwatch()
        if self._at_once:
            self._at_once = False
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that an answer is complete; what is written next is another answer's head."""
        self.head_due = True
        if self.cycle.response_complete:  # or the two would hold each other until the collector comes
            cast("dict[str, Any]", self.cycle.scope).pop("lachan.exchange", None)
        super().on_response_complete()

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        cast("dict[str, Any]", cycle.scope)["lachan.exchange"] = Exchange(self, cycle)
        super()._start_asgi_task(cycle, app)

    def _answered_at_once(self, ready: Ready) -> bool:
        """Answer what the application can say without waiting; tells whether it could.

        Only for an ordinary request (HTTP/1.1, kept alive, no upgrade) with nobody before it and a caller who reads.
        """
        parser, cycle = self.parser, self.cycle
        if (
            (cycle is not None and not cycle.response_complete) or self.flow.write_paused or self.expect_100_continue
            or parser.should_upgrade() or not parser.should_keep_alive() or parser.get_http_version() != "1.1"
        ):  # fmt: skip
            return False
        scope, url = cast("dict[str, Any]", self.scope), httptools.parse_url(self.url)
        raw = url.path
        path = raw.decode("ascii")
        scope["method"], scope["raw_path"] = parser.get_method().decode("ascii"), raw
        scope["path"] = unquote(path) if "%" in path else path
        found = ready(scope)
        if found is None:
            return False
        head, request_id, body = found
        self.head_due, self._at_once = False, True
        _write(self.transport, _head(self.server_state.default_headers, head, request_id), body)
        self.head_due = True
        self.server_state.total_requests += 1
        self._rested = self.loop.time()
        if self._resting is None:
            self._resting = self.loop.call_later(self.timeout_keep_alive, self._rest_is_over)
        return True

    def _rest_is_over(self) -> None:
        """End a connection that says nothing after answers at once: one timer for many of them."""
        self._resting = None
        cycle = self.cycle
        if (
            self.timeout_keep_alive_task is not None
            or self._in_head
            or (cycle is not None and not cycle.response_complete)
        ):
            return  # something else watches over it
        left = self._rested + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._resting = self.loop.call_later(left, self._rest_is_over)
        elif not self.transport.is_closing():
            self.transport.close()


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of a connection and the answer that it waits for.

    Attributes:
        inner: the connection's protocol.
        cycle: uvicorn's record of the request.
    """

    inner: HttpInner
    cycle: RequestResponseCycle

    @property
    def quick(self) -> bool:
        """Whether `answer` may be used: an ordinary request of HTTP/1.1 that has come completely and has no answer yet."""
        cycle = self.cycle
        return (
            cycle.keep_alive
            and not cycle.more_body
            and not cycle.response_started
            and cycle.scope["http_version"] == "1.1"
        )

    async def answer(self, head: bytes, request_id: bytes, body: bytes) -> None:
        """Send a whole answer; waits for a caller who does not read.

        Args:
            head: status line and fields, each with its line end, without date and request id.
            request_id: value of X-Request-Id.
            body: of the length that the head tells.
        """
        cycle = self.cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = self.inner.head_due = False
        _write(cycle.transport, _head(cycle.default_headers, head, request_id), body)
        cycle.message_event.set()
        cycle.on_response()


def _head(default: list[tuple[bytes, bytes]], head: bytes, request_id: bytes) -> bytes:
    return b"%b%bX-Request-Id: %b\r\n\r\n" % (head, _default(default), request_id)


def _write(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    """Write both in one piece, unless copying the body would cost more than a second one."""
    if len(body) > TOGETHER:
        transport.write(head)
        transport.write(body)
    else:
        transport.write(head + body)


_rendered: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")


def _default(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Write uvicorn's own fields (the date); the list is another one each second."""
    global _rendered
    known, text = _rendered
    if known is not headers:
        text = b"".join(written(name) + b": " + value + b"\r\n" for name, value in headers)
        _rendered = (headers, text)
    return text


def restore_head(data: bytes, inner: HttpInner) -> bytes:
    """Give an answer's head the header names and the status line that old clients expect.

    Args:
        data: What uvicorn writes: a whole head, possibly with a body behind it, or a piece of a body.
        inner: The protocol that writes it; its ``head_due`` says which of the two, and is cleared by a final head.

    Returns:
        The same bytes, except for the head.
    """
    if not inner.head_due or data.startswith(b"HTTP/1.1 1"):  # 100 Continue announces another head
        return data
    inner.head_due = False
    head, separator, body = data.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    if inner.scope is not None and inner.scope.get("http_version") == "1.0":
        status = status.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    named = [written(name) + colon + value for name, colon, value in (field.partition(b":") for field in fields)]
    return b"\r\n".join([status, *named]) + separator + body


@lru_cache(maxsize=256)
def written(name: bytes) -> bytes:
    """Write a field's name as old clients look for it."""
    return _IRREGULAR.get(name) or b"-".join(part.capitalize() for part in name.split(b"-"))
