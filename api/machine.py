"""Machine routes: plain ASGI on the event loop, without a framework or a thread between (design decision 18, ADR 0032).

A module of a door lists them as ``MACHINE``. Steps of a request: find the route → name the request → who speaks, as the
route's ``auth`` says → refuse a body that is announced larger than the route takes, before any of it is read → the handler →
its answer (`api.answers`: HEAD, ETags, request id) → metrics. The dispatcher authenticates, not the handler: with
`Auth.DEVICE` a handler is given a verified device, with `Auth.OPEN` nobody. What is no machine route goes on to the app
behind it. `document` puts the routes into the app's own table, so that OpenAPI, the authorisation table and the lists of
exceptions see them as they see the others. Paths are compared as they came; what could be read in two ways (dot segments,
empty ones, encoded slashes) is no route, except where the route reads the raw path itself.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import Any

from fastapi import APIRouter, FastAPI
from prometheus_client import Counter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import answers, problems
from api.answers import MachineAnswer
from api.asked import MachineRequest, plain, problem, too_large
from api.middleware import KNOWN_ID, normal
from lachan import metrics
from lachan.errors import LachanError
from lachan.ids import new_id

_log = logging.getLogger("lachan.api")
BODY = 1 << 20  # octets that a body may have where a route says nothing else
UNREAD = 1 << 20  # octets of a refused body that are read and thrown away; for more the connection is closed


class Auth(StrEnum):
    """Who may reach a route."""

    OPEN = "open"  # anybody: the route authenticates in its own way, or tells only what is public
    DEVICE = "device"  # a verified device whose trust decision lets it


Handler = Callable[[MachineRequest], Awaitable[MachineAnswer]]


@dataclass(frozen=True, kw_only=True)
class MachineRoute:
    """One row of a door's table of machine routes.

    Attributes:
        method: GET, POST or PUT.
        path: as FastAPI writes it; ``{name}`` stands for one segment, ``{name:path}`` for the rest.
        auth: who may reach it.
        handler: answers; its docstring is the description.
        name: unique, for OpenAPI.
        summary: one line, for OpenAPI.
        ready: gives the answer when it is known without waiting; None where the handler must be asked.
        refusal: what an error becomes, errors of the authentication too.
        limit: octets that a body may have.
        raw: it reads the raw path itself, so that segments need not be normal.
        more: further arguments for FastAPI's table: ``response_model`` …
    """

    method: str
    path: str
    auth: Auth
    handler: Handler
    name: str
    summary: str
    ready: Callable[[MachineRequest], MachineAnswer | None] | None = None
    refusal: Callable[[Request, LachanError], MachineAnswer] = problem
    limit: int = BODY
    raw: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def operation(self) -> str:
        """How tables and lists of exceptions name it."""
        return f"{self.method} {self.path}"


Found = tuple[MachineRoute, Mapping[str, str]]
_NONE: Mapping[str, str] = {}


class MachineDispatcher:
    """The layer that answers machine routes and leaves the rest to the app behind it.

    Args:
        app: the next layer.
        door: device or status.
        table: the routes.
        shared: the app whose state handlers are given.
        verified: tells which device speaks, or refuses it; None where no route needs one.
        known: gives the device that speaks when that is known without waiting, None when ``verified`` must be asked; it
            lets nobody through whom that would refuse.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        door: str,
        table: Sequence[MachineRoute],
        shared: FastAPI,
        verified: Callable[[Request], Awaitable[Any]] | None = None,
        known: Callable[[Scope, Any], Any] | None = None,
    ) -> None:
        self.app, self.door, self._shared, self._verified, self._known = app, door, shared, verified, known
        self._fixed = {(route.method, route.path): (route, _NONE) for route in table if "{" not in route.path}
        self._patterns: dict[str, list[tuple[re.Pattern[str], MachineRoute]]] = {}
        for route in table:
            if "{" in route.path:  # by the first segment; where that is a name, too, under the empty one
                first = route.path.split("/")[1]
                self._patterns.setdefault("" if "{" in first else first, []).append((_pattern(route.path), route))
        self._counted: dict[tuple[str, int], Counter] = {}
        self._timed = metrics.request_seconds.labels(door)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        began, status, route = time.perf_counter(), 500, found[0]
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        named = headers.get(b"x-request-id", b"")
        request_id = named if KNOWN_ID.fullmatch(named) else new_id().encode()
        try:
            answer = await self._answer(found, scope, receive, headers, request_id)
            status = answer.status
            await answers.send(answer, scope, send, request_id)
        finally:
            self._count(route.path, status)
            self._timed.observe(time.perf_counter() - began)

    def ready(self, scope: Scope) -> tuple[bytes, bytes, bytes] | None:
        """Give head, request id and body of what can be answered without waiting; None where the long way must be gone.

        The same steps as in `__call__`, for requests without a body to routes that have a ``ready``. What fails fails again on
        the long way, which tells it.
        """
        began, method = time.perf_counter(), scope["method"]
        if method not in ("GET", "HEAD") or (found := self._find(scope)) is None or (say := found[0].ready) is None:
            return None
        route = found[0]
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        if b"content-length" in headers or b"transfer-encoding" in headers or b"expect" in headers:
            return None
        asked = MachineRequest(scope, _nothing, self._shared.state, found[1], headers, 0)
        try:
            if route.auth is not Auth.OPEN:
                scope["route"] = route
                if self._known is None or (device := self._known(scope, self._shared.state)) is None:
                    return None
                asked.device = device
            answer = say(asked)
        except Exception:  # noqa: BLE001 - the long way tells it
            return None
        if answer is None or not isinstance(body := answer.body, bytes):
            return None
        if answers.asked_again(headers, answer):
            answer, body = answer.unchanged, b""
        named = headers.get(b"x-request-id", b"")
        request_id = named if KNOWN_ID.fullmatch(named) else new_id().encode()
        self._count(route.path, answer.status)
        self._timed.observe(time.perf_counter() - began)
        return answer.head, request_id, b"" if method == "HEAD" else body

    async def _answer(
        self, found: Found, scope: Scope, receive: Receive, headers: dict[bytes, bytes], request_id: bytes
    ) -> MachineAnswer:
        route, parameters = found
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        scope["route"], scope["app"] = route, self._shared
        asked = MachineRequest(scope, receive, self._shared.state, parameters, headers, route.limit)
        try:
            if route.auth is not Auth.OPEN:
                assert self._verified is not None
                asked.device = await self._verified(asked.request)
            announced = headers.get(b"content-length")
            if announced is not None and int(announced) > route.limit:
                raise too_large(route.limit)
            answer = await route.handler(asked)
        except LachanError as error:
            scope["lachan.request_id"] = request_id.decode()
            answer = self._refused(asked, route.refusal, error)
        except ClientDisconnect:
            return MachineAnswer(400, [])  # nobody reads it
        except Exception as error:  # noqa: BLE001 - nobody foresaw it
            scope["lachan.request_id"] = request_id.decode()
            _log.exception("request %s failed: %s %s", scope["lachan.request_id"], scope["method"], scope["path"])
            answer = self._closing(asked, plain(problems.unforeseen(asked.request, error)))
        return answer.unchanged if answers.asked_again(headers, answer) else answer

    def _refused(
        self, asked: MachineRequest, refusal: Callable[[Request, LachanError], MachineAnswer], error: LachanError
    ) -> MachineAnswer:
        return self._closing(asked, refusal(asked.request, error))

    def _closing(self, asked: MachineRequest, answer: MachineAnswer) -> MachineAnswer:
        """End the connection with the answer when much of a body would still come that nobody reads."""
        announced = asked.headers.get(b"content-length", b"")
        exchange = asked.scope.get("lachan.exchange")
        coming = exchange is not None and exchange.cycle.more_body
        if coming and not (announced and int(announced) <= UNREAD):
            return MachineAnswer(answer.status, [*answer.headers, (b"connection", b"close")], answer.body)
        return answer

    def _find(self, scope: Scope) -> Found | None:
        method, path = "GET" if scope["method"] == "HEAD" else scope["method"], scope["path"]
        found = self._fixed.get((method, path))
        if found is not None:
            return found
        first = path.split("/", 2)[1] if path.startswith("/") else ""
        for pattern, route in (*self._patterns.get(first, ()), *self._patterns.get("", ())):
            if route.method == method and (match := pattern.fullmatch(path)):
                return (route, match.groupdict()) if route.raw or normal(scope) else None
        return None

    def _count(self, path: str, status: int) -> None:
        counter = self._counted.get((path, status))
        if counter is None:
            counter = self._counted[(path, status)] = metrics.requests.labels(self.door, path, str(status))
        counter.inc()


class DoorApp(FastAPI):
    """A door's app: FastAPI, with a dispatcher of machine routes before it.

    Attributes:
        front: what requests meet first; the app's own way without one.
        ready: of `MachineDispatcher`, for what can be said without waiting.
        closing: what `close` calls.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.front: ASGIApp | None = None
        self.ready: Callable[[Scope], tuple[bytes, bytes, bytes] | None] | None = None
        self.closing: list[Callable[[], Awaitable[None]]] = []

    async def close(self) -> None:
        """Close what the app's routes hold open; on the loop that served, after its last request."""
        for close in self.closing:
            await close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await (self.front or super().__call__)(scope, receive, send)

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request by the framework's way."""
        await super().__call__(scope, receive, send)


def table(modules: Iterable[str]) -> tuple[MachineRoute, ...]:
    """Collect the machine routes of a door's modules."""
    return tuple(route for name in modules for route in getattr(import_module(name), "MACHINE", ()))


def document(router: APIRouter, table: Iterable[MachineRoute]) -> None:
    """Put machine routes into a router's table; what stands there is never reached, the `MachineDispatcher` stands before it."""
    for route in table:
        router.add_api_route(
            route.path, _unreached, methods=[route.method], name=route.name, summary=route.summary,
            description=route.handler.__doc__, openapi_extra={"parameters": _parameters(route.path)}, **route.more,
        )  # fmt: skip


def _parameters(path: str) -> list[dict[str, Any]]:
    """Describe what stands for ``{name}`` in a path, as OpenAPI wants it."""
    names = re.findall(r"\{(\w+)", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def check(table: Sequence[MachineRoute], *, open_operations: frozenset[str]) -> None:
    """Compare ``auth`` of each route with the door's list of open operations.

    Raises:
        RuntimeError: the two tell different things.
    """
    for route in table:
        if (route.auth is Auth.OPEN) is not (route.operation in open_operations):
            raise RuntimeError(f"{route.operation} is {route.auth} here and something else in the door's list")


def _pattern(path: str) -> re.Pattern[str]:
    whole = re.sub(r"\\{(\w+):path\\}", r"(?P<\1>.*)", re.escape(path))
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", whole))


async def _nothing() -> Message:
    raise RuntimeError("a request without a body has none to be received")


def _unreached() -> Response:
    raise RuntimeError("a machine route without its dispatcher")
