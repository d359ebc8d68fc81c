"""`MachineAnswer`: what a machine route answers, and how it leaves, the same for all of them (RFC 9110).

An answer that is kept in memory is rendered once: status line, fields and body leave as finished bytes, with the request's id
and the date between, past the framework and past uvicorn's own formatting (`api.http11.HttpInner.answer`). HEAD gets the
head alone, `If-None-Match` is compared weakly (RFC 9110 13.1.2) and gives 304. What is large is a `Stream`: pieces that are
asked for as fast as the caller takes them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Protocol

from starlette.types import Scope, Send

from api.http11 import Exchange, written

Headers = list[tuple[bytes, bytes]]
_LINE = re.compile(rb"[\r\n\0]")


class Stream(Protocol):
    """A body of known length that is read piece by piece."""

    length: int

    def pieces(self) -> AsyncIterator[bytes]:
        """Give the pieces in order; closes what is open when it ends or is closed."""

    def close(self) -> None:
        """Close what is open, without having read it."""


@dataclass(frozen=True)
class MachineAnswer:
    """An answer; the length is added.

    Attributes:
        status: of HTTP.
        headers: names in lower case.
        body: whole, or a `Stream`.
        etag: entity tag of what is answered with 200, with its quotes; empty without one.
    """

    status: int
    headers: Headers
    body: bytes | Stream = b""
    etag: bytes = b""

    @property
    def length(self) -> int:
        """Octets of the body."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.length

    @cached_property
    def fields(self) -> Headers:
        """All fields of the head that are the answer's own."""
        found = [*self.headers, *([(b"etag", self.etag)] if self.etag else [])]
        if self.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            found.append((b"content-length", b"%d" % self.length))
        return [*found, (b"x-content-type-options", b"nosniff")]

    @cached_property
    def head(self) -> bytes:
        """Status line and fields as they leave, without the empty line; date and request id are still to come.

        Raises:
            ValueError: a value would break out of its line.
        """
        phrase = HTTPStatus(self.status).phrase.encode()
        lines = [b"HTTP/1.1 %d %b" % (self.status, phrase)]
        for name, value in self.fields:
            if _LINE.search(value):
                raise ValueError(f"the field {name!r} holds a line end")
            lines.append(written(name) + b": " + value)
        return b"\r\n".join(lines) + b"\r\n"

    @cached_property
    def unchanged(self) -> MachineAnswer:
        """The 304 for who has it already (RFC 9110 15.4.5)."""
        kept = [pair for pair in self.headers if pair[0] not in (b"content-type", b"content-range", b"repr-digest")]
        return MachineAnswer(304, kept, etag=self.etag)


def asked_again(headers: dict[bytes, bytes], answer: MachineAnswer) -> bool:
    """Tell whether `If-None-Match` says that the caller has what would be answered."""
    known = headers.get(b"if-none-match")
    return known is not None and answer.status == 200 and bool(answer.etag) and knows(known, answer.etag)


def knows(if_none_match: bytes, tag: bytes) -> bool:
    """Tell whether a list of entity tags has this one, compared weakly (RFC 9110 8.8.3.2, 13.1.2)."""
    opaque = tag.removeprefix(b"W/")
    return any(one.strip().removeprefix(b"W/") in (opaque, b"*") for one in if_none_match.split(b","))


def holds(if_match: str, tag: str) -> bool:
    """Tell whether a list of entity tags has this one, compared strongly (RFC 9110 8.8.3.2, 13.1.1); ``*`` is any."""
    return any(one.strip() in (tag, "*") for one in if_match.split(","))


async def send(answer: MachineAnswer, scope: Scope, send: Send, request_id: bytes) -> None:
    """Let an answer leave, by the connection's own way where it has one."""
    bare = scope["method"] == "HEAD"
    exchange: Exchange | None = scope.get("lachan.exchange")
    if exchange is not None and isinstance(answer.body, bytes) and exchange.quick:
        await exchange.answer(answer.head, request_id, b"" if bare else answer.body)
        return
    headers = [*answer.fields, (b"x-request-id", request_id)]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if isinstance(answer.body, bytes) or bare:
        if not isinstance(answer.body, bytes):
            answer.body.close()
        body = answer.body if isinstance(answer.body, bytes) and not bare else b""
        await send({"type": "http.response.body", "body": body})
        return
    left = answer.body.length
    async for piece in answer.body.pieces():
        left -= len(piece)
        kept = bytes(piece) if scope.get("scheme") == "http" else piece  # a plain transport may keep what it is given
        await send({"type": "http.response.body", "body": kept, "more_body": left > 0})
