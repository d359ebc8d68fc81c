"""What surrounds every route of a door, as plain ASGI: request ids, opaque failures, headers, body sizes, ETags.

From outside in: `Envelope` (request id, security headers, metrics, the opaque 500), `BodyLimit`, `EntityTags`.
Plain ASGI and not Starlette's ``BaseHTTPMiddleware``, which copies bodies through a queue and breaks streaming.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Mapping, Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics, problems
from api.answers import knows
from lachan.errors import TooLarge
from lachan.ids import new_id

_log = logging.getLogger("lachan.api")
KNOWN_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
# Dot segments, empty ones, and separators or ends that hide in an encoding: two programs may read such a path in two ways.
_ODD = re.compile(rb"//|/\.\.?(?:/|$)|%2f|%5c|%2e|%00|[\\\0]", re.IGNORECASE)

PEOPLE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "private, no-cache",
}
MACHINE_HEADERS = {"X-Content-Type-Options": "nosniff"}


def normal(scope: Scope) -> bool:
    """Tell whether a path can be read in one way only (RFC 3986 6.2.2.3), by us and by a proxy before us."""
    return _ODD.search(scope.get("raw_path") or scope["path"].encode()) is None


class Envelope:
    """The outermost layer: names the request, times it, adds the door's headers, hides what nobody foresaw."""

    def __init__(self, app: ASGIApp, *, door: str, headers: Mapping[str, str]) -> None:
        self.app, self.door, self.headers = app, door, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; the connection itself leaves the body out (RFC 9110 9.3.2)
            scope = {**scope, "method": "GET"}
        request = Request(scope)
        asked = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        scope["lachan.request_id"] = asked.decode() if KNOWN_ID.fullmatch(asked) else new_id()
        began, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(message, scope["lachan.request_id"])
            await send(message)

        try:
            if normal(scope):
                await self.app(scope, receive, sending)
            else:
                scope.setdefault("app", None)
                await problems.abnormal(request)(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - nobody foresaw it
            _log.exception("request %s failed: %s %s", scope["lachan.request_id"], scope["method"], scope["path"])
            if not status:
                scope.setdefault("app", None)
                await problems.unforeseen(request, error)(scope, receive, sending)
        finally:
            metrics.observe_request(scope, door=self.door, status=status or 500, duration=time.perf_counter() - began)

    def _dress(self, message: Message, request_id: str) -> None:
        headers = MutableHeaders(scope=message)
        headers["X-Request-Id"] = request_id
        for name, value in self.headers.items():
            headers.setdefault(name, value)


class BodyLimit:
    """Refuse bodies that are larger than the path may have, by their announced length and by counting.

    Args:
        app: The next layer.
        default: Bytes that any path may have.
        larger: (regular expression for the whole path, bytes) where more is needed; the first that fits counts.
    """

    def __init__(self, app: ASGIApp, *, default: int, larger: Sequence[tuple[str, int]] = ()) -> None:
        self.app, self.default = app, default
        self.larger = [(re.compile(pattern), size) for pattern, size in larger]

    def limit(self, path: str) -> int:
        """Bytes that a body sent to this path may have."""
        return next((size for pattern, size in self.larger if pattern.fullmatch(path)), self.default)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit, seen, started = self.limit(scope["path"]), 0, False
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        request = Request(scope)
        if announced.isdigit() and int(announced) > limit:
            await self._refuse(request, limit)(scope, receive, send)
            return

        async def receiving() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _Overflow
            return message

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        except _Overflow:
            if not started:
                await self._refuse(request, limit)(scope, receive, send)

    def _refuse(self, request: Request, limit: int) -> JSONResponse:
        error = TooLarge(f"This path takes at most {limit} bytes.", limit=limit)
        response = problems.problem(
            request, status=error.status, title=error.title, detail=error.detail, code=error.code, hint=error.hint
        )
        response.headers["Connection"] = "close"  # the rest of the body will not be read
        return response


class _Overflow(BaseException):
    """More bytes than allowed. Not an ``Exception``, so that a route's own ``except`` does not swallow it."""


class EntityTags:
    """Give JSON answers to GET an ETag and answer 304 when the caller has them already (RFC 9110 13.1.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        known = Request(scope).headers.get("if-none-match", "")
        held: Message | None = None

        async def sending(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                kind = MutableHeaders(scope=message).get("content-type", "")
                if message["status"] == 200 and kind.startswith("application/json"):
                    held = message
                    return
            elif held is not None:
                start, held = held, None
                if not message.get("more_body"):
                    start, message = _tagged(start, message, known)
                await send(start)
            await send(message)

        await self.app(scope, receive, sending)


def _tagged(start: Message, body: Message, known: str) -> tuple[Message, Message]:
    headers = MutableHeaders(scope=start)
    tag = headers.get("etag") or entity_tag(body.get("body", b""))
    headers["ETag"] = tag
    if not (known and knows(known.encode("latin-1"), tag.encode("latin-1"))):
        return start, body
    del headers["content-length"]
    start["status"] = 304
    return start, {"type": "http.response.body", "body": b""}


def entity_tag(content: bytes) -> str:
    """Give the ETag of a representation, from its bytes."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'
