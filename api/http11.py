"""HTTP/1.1 as the doors speak it: uvicorn's parser with the limits it lacks and the manners old clients need.

What it adds to uvicorn's ``HttpToolsProtocol``: a limit on the size of a request's head and a deadline for it,
a deadline for a body that stops arriving, trailers thrown away (uvicorn would append them to the request's
headers after the application has looked at them), marks for ``restore_head``, and `Exchange`: the way by which an
answer that is finished bytes already leaves without uvicorn formatting it again. An application that has a ``ready``
is asked first, where the head stands: what it can say without waiting needs no task of the loop (ADR 0032).

``restore_head`` repairs an answer's head: uvicorn writes every header name in lower case, but strongSwan up to
5.9.8 looks for ``Content-Length`` and libest for ``WWW-Authenticate`` and ``Content-Type`` exactly so; and libest,
which speaks HTTP/1.0, insists on an ``HTTP/1.0`` status line. Only the head is touched, never the body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.limits import Peer

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
        """Note that the head is complete; the body must keep coming."""
        self._in_head = False
        self.outer.deadlines.watch(self.outer.deadlines.limits.stall)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self.outer.deadlines.watch(self.outer.deadlines.limits.stall)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete; the peer owes nothing."""
        self.outer.deadlines.unwatch()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that an answer is complete; what is written next is another answer's head."""
        self.head_due = True
        super().on_response_complete()

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Answer at once what the application can say without waiting; for all else a task is begun."""
        scope = cast("dict[str, Any]", cycle.scope)
        exchange = scope["lachan.exchange"] = Exchange(self, cycle)
        ready: Callable[[dict[str, Any]], tuple[bytes, bytes, bytes] | None] | None = getattr(app, "ready", None)
        if ready is not None and exchange.plain and (found := ready(scope)) is not None:
            exchange.write(*found)
        else:
            super()._start_asgi_task(cycle, app)


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
    def plain(self) -> bool:
        """Whether the head asks for nothing that `write` lacks, and the caller reads what we write."""
        cycle = self.cycle
        return cycle.keep_alive and not cycle.flow.write_paused and cycle.scope["http_version"] == "1.1"

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
        """Send a whole answer.

        Args:
            head: status line and fields, each with its line end, without date and request id.
            request_id: value of X-Request-Id.
            body: of the length that the head tells.
        """
        cycle = self.cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if not cycle.disconnected:
            self.write(head, request_id, body)

    def write(self, head: bytes, request_id: bytes, body: bytes) -> None:
        """Do what `answer` does, without waiting for a caller who does not read."""
        cycle = self.cycle
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = self.inner.head_due = False
        cycle.transport.write(
            b"%b%bX-Request-Id: %b\r\n\r\n%b" % (head, _default(cycle.default_headers), request_id, body)
        )
        cycle.message_event.set()
        cycle.on_response()


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
