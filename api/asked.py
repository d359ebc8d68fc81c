"""`MachineRequest`: what a handler of a machine route is given, and the usual forms of answers to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from api import problems
from api.answers import MachineAnswer
from lachan.addresses import household
from lachan.errors import Invalid, LachanError, TooLarge

M = TypeVar("M", bound=BaseModel)


@dataclass
class MachineRequest:
    """A request as a handler meets it.

    Attributes:
        scope: of ASGI; a HEAD is a GET here.
        receive: of ASGI.
        state: what the door shares.
        parameters: what stands for ``{name}`` in the route's path.
        headers: by lower-case name; the first of each counts.
        limit: octets that the body may have.
        device: who speaks, with `Auth.DEVICE`: what the door's ``verified`` gave.
    """

    scope: Scope
    receive: Receive
    state: Any
    parameters: Mapping[str, str]
    headers: dict[bytes, bytes]
    limit: int
    device: Any = None

    @cached_property
    def request(self) -> Request:
        """The same for what knows Starlette's."""
        return Request(self.scope, self.receive)

    @property
    def label(self) -> str | None:
        """What stands for ``{label}`` in the path, or None."""
        return self.parameters.get("label")

    @property
    def address(self) -> str:
        """Where it comes from, as addresses are counted (`lachan.addresses.household`)."""
        client = self.scope.get("client")
        return household(client[0]) if client else ""

    async def body(self, *, limit: int | None = None) -> bytes:
        """Give the request's body.

        Raises:
            TooLarge: it has more than ``limit`` octets (the route's limit by default).
        """
        body = b""
        async for chunk in self.stream(limit=limit):
            body = body + chunk if body else chunk
        return body

    async def stream(self, *, limit: int | None = None) -> AsyncIterator[bytes]:
        """Give the request's body as it comes.

        Raises:
            TooLarge: as `body`.
            ClientDisconnect: the caller hung up.
        """
        most, seen = self.limit if limit is None else min(limit, self.limit), 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece: bytes = message.get("body", b"")
            seen += len(piece)
            if seen > most:
                raise too_large(most)
            yield piece
            if not message.get("more_body"):
                return

    async def json(self, model: type[M]) -> M:
        """Read the request's body as a model.

        Raises:
            TooLarge: as `body`.
            Invalid: it does not fit; ``faults`` tells where.
        """
        try:
            return model.model_validate_json(await self.body())
        except ValidationError as error:
            faults = [
                {"where": ".".join(["body", *map(str, item["loc"])]), "what": item["msg"]} for item in error.errors()
            ]
            raise Invalid(f"{faults[0]['where']}: {faults[0]['what']}", faults=faults) from error


def json_answer(content: BaseModel) -> MachineAnswer:
    """Make an answer of a model."""
    return MachineAnswer(200, [(b"content-type", b"application/json")], content.model_dump_json().encode())


def problem(request: Request, error: LachanError) -> MachineAnswer:
    """Make the problem document of an error: what refusals look like where a route has no form of its own."""
    return plain(problems.of_error(request, error))


def plain(response: Response) -> MachineAnswer:
    """Make an answer of a framework's response."""
    headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
    return MachineAnswer(response.status_code, headers, bytes(response.body))


def too_large(limit: int) -> TooLarge:
    """Make the refusal of a body."""
    return TooLarge(f"This path takes at most {limit} octets.", limit=limit)
