"""Machine routes: plain ASGI on the event loop, without a framework or a thread between (design decision 18).

A module of a door lists them as ``MACHINE``. Steps of a request, inside the door's own envelope (request id, metrics, opaque
failures, body limit): find the route → who speaks, as the route's ``auth`` says → the handler → its answer. The dispatcher
authenticates, not the handler: with `Auth.DEVICE` a handler is given a verified device, with `Auth.OPEN` nobody. HEAD is
answered wherever GET is. `document` puts the routes into the app's own table, so that OpenAPI, the authorisation table and
the lists of exceptions see them as they see the others. Limits: answers are whole, not streamed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lachan.errors import LachanError, TooLarge

Headers = list[tuple[bytes, bytes]]


class Auth(StrEnum):
    """Who may reach a route."""

    OPEN = "open"  # anybody: the route authenticates in its own way, or tells only what is public
    DEVICE = "device"  # a verified device whose trust decision lets it


@dataclass(frozen=True)
class MachineAnswer:
    """A whole answer; the length is added."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class MachineRequest:
    """A request as a handler meets it.

    Attributes:
        request: the request; its app's state has what the door shares.
        device: who speaks, with `Auth.DEVICE`: what the door's ``verified`` gave.
        label: what stands for ``{label}`` in the path, or None.
        headers: by lower-case name; the first of each counts.
    """

    request: Request
    device: Any
    label: str | None
    headers: dict[bytes, bytes] = field(default_factory=dict)

    async def body(self, *, limit: int) -> bytes:
        """Give the request's body.

        Raises:
            TooLarge: it has more than ``limit`` bytes.
        """
        body = b""
        async for chunk in self.request.stream():
            body += chunk
            if len(body) > limit:
                raise TooLarge(f"The request is larger than {limit} octets.")
        return body


@dataclass(frozen=True, kw_only=True)
class MachineRoute:
    """One row of a door's table of machine routes.

    Attributes:
        method: GET or POST.
        path: as FastAPI writes it; ``{label}`` stands for one segment.
        auth: who may reach it.
        handler: answers; its docstring is the description.
        refusal: what an error becomes, errors of the authentication too.
        name: unique, for OpenAPI.
        summary: one line, for OpenAPI.
    """

    method: str
    path: str
    auth: Auth
    handler: Callable[[MachineRequest], Awaitable[MachineAnswer]]
    refusal: Callable[[Request, LachanError], MachineAnswer]
    name: str
    summary: str

    @property
    def operation(self) -> str:
        """How tables and lists of exceptions name it."""
        return f"{self.method} {self.path}"


class MachineDispatcher:
    """The layer that answers machine routes and leaves the rest to the app behind it.

    Args:
        app: the next layer.
        table: the routes.
        verified: tells which device speaks, or refuses it.
    """

    def __init__(
        self, app: ASGIApp, *, table: Sequence[MachineRoute], verified: Callable[[Request], Awaitable[Any]]
    ) -> None:
        self.app, self._verified = app, verified
        self._fixed = {(route.method, route.path): route for route in table if "{" not in route.path}
        self._labelled = [(_pattern(route.path), route) for route in table if "{" in route.path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        route, label = found
        scope["route"] = route
        request = Request(scope, receive)
        try:
            device = await self._verified(request) if route.auth is Auth.DEVICE else None
            answer = await route.handler(MachineRequest(request, device, label, dict(reversed(scope["headers"]))))
        except LachanError as error:
            answer = route.refusal(request, error)
        headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    def _find(self, scope: Scope) -> tuple[MachineRoute, str | None] | None:
        method, path = "GET" if scope["method"] == "HEAD" else scope["method"], scope["path"]
        route = self._fixed.get((method, path))
        if route is not None:
            return route, None
        for pattern, labelled in self._labelled:
            if labelled.method == method and (match := pattern.fullmatch(path)):
                return labelled, match["label"]
        return None


def table(modules: Iterable[str]) -> tuple[MachineRoute, ...]:
    """Collect the machine routes of a door's modules."""
    return tuple(route for name in modules for route in getattr(import_module(name), "MACHINE", ()))


def document(router: APIRouter, table: Iterable[MachineRoute]) -> None:
    """Put machine routes into a router's table; what stands there is never reached, the `MachineDispatcher` stands before it."""
    for route in table:
        router.add_api_route(
            route.path, _unreached, methods=[route.method], name=route.name, summary=route.summary,
            description=route.handler.__doc__,
        )  # fmt: skip


def check(table: Sequence[MachineRoute], *, open_operations: frozenset[str]) -> None:
    """Compare ``auth`` of each route with the door's list of open operations.

    Raises:
        RuntimeError: the two tell different things.
    """
    for route in table:
        if (route.auth is Auth.OPEN) is not (route.operation in open_operations):
            raise RuntimeError(f"{route.operation} is {route.auth} here and something else in the door's list")


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\{label\}", "(?P<label>[^/]+)"))


def _unreached() -> Response:
    raise RuntimeError("a machine route without its dispatcher")
