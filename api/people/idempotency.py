"""``Idempotency-Key``: a write that is sent again is not done again (draft-ietf-httpapi-idempotency-key-header).

Steps, for every JSON write that carries the header: reserve (principal, key) with a digest of the request → run the
route → keep its answer when it succeeded, else give the key back. The same key again: the kept answer, or 409 while the
first is under way, or 422 when it is another request.

Limits: an answer that may not be cached (``Cache-Control: no-store``, it shows a secret once) is not kept; its repeat
gets 409. When the server dies between the write and the keeping, the repeat gets 409 too and the hint to look: nobody
knows the outcome. Keys are forgotten after a day.
"""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import Any, ClassVar, cast

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.models import idempotency_keys
from api.people import access
from lachan import clock
from lachan.database import insert_ignore
from lachan.devices.importing import KeyReused
from lachan.errors import Conflict, Invalid, LachanError, TooLarge
from lachan.runtime import Runtime

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# These tell repetitions apart by themselves (batch key, digest), and their bodies are too large to wait in memory.
OWN_WAY = re.compile(r"(/[^/]+)?/_bulk|/api/v1/artifacts(/.*)?|/api/v1/devices/import")
_BODY = 1024 * 1024
_KEPT_HEADERS = frozenset({"content-type", "location", "etag"})
KEEP = timedelta(days=1)


class KeyMalformed(Invalid):
    """The Idempotency-Key is empty, too long or not printable."""

    title, hint = "Idempotency-Key not usable", "Send 1 to 255 printable ASCII characters, for example a UUID."


class StillRunning(Conflict):
    """The first request with this key has not been answered (or the server died in the middle)."""

    title, hint = (
        "The first request is not finished",
        "Try again shortly; if it stays, look whether the write was made.",
    )


class ShownOnce(Conflict):
    """The first request succeeded, and its answer held a secret that is shown once."""

    title, hint = "Already done; its secret was shown once", "Revoke what was made, and make a new one with a new key."


class Idempotency:
    """The middleware; stands inside the body limit and outside the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if scope["type"] != "http" or scope["method"] not in _WRITES or not _applies(scope["path"], headers):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            caller = await access.who(request)
            if caller is None:  # nobody: the route refuses, or (sign-in) is safe to repeat
                await self.app(scope, receive, send)
                return
            principal = f"{caller.principal.kind}:{caller.principal.id}"
            await self._run(request, receive, principal, headers["idempotency-key"], send)
        except LachanError as error:
            await problems.of_error(request, error)(scope, receive, send)

    async def _run(self, request: Request, receive: Receive, principal: str, key: str, send: Send) -> None:
        if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
            raise KeyMalformed
        body = await _body(request)
        record = _Record(cast(Runtime, request.app.state.rt), principal, key, _digest(request, body))
        kept = await run_in_threadpool(record.reserve)
        if kept is not None:
            await _replay(kept, send)
            return
        answer = _Answer()
        try:
            await self.app(request.scope, once(body, receive), answer.take)
        finally:
            await run_in_threadpool(record.settle, answer)
        for message in answer.messages:  # kept first, then shown: who has the answer may rely on the key
            await send(message)


def _applies(path: str, headers: Headers) -> bool:
    kind = headers.get("content-type", "application/json").split(";")[0].strip().lower()
    json = kind == "application/json" or kind.endswith("+json")
    return "idempotency-key" in headers and json and not OWN_WAY.fullmatch(path)


async def _body(request: Request) -> bytes:
    """Give the whole body, which must wait here; whoever asks was not yet asked what they may.

    Raises:
        TooLarge: If it is larger than a JSON body of this door has reason to be.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _BODY:
            raise TooLarge(f"With an Idempotency-Key a body may have {_BODY} bytes.", limit=_BODY)
    return bytes(body)


def _digest(request: Request, body: bytes) -> str:
    head = f"{request.method} {request.url.path}?{request.url.query}\n"
    return hashlib.sha256(head.encode() + body).hexdigest()


def once(body: bytes, then: Receive) -> Receive:
    """Give the body that was read already; afterwards whatever really comes (the peer's leaving)."""
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return await then()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


class _Answer:
    """Hold an answer back."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(Headers(raw=message["headers"]))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
        self.messages.append(message)


class _Record:
    """The row of one key."""

    _table: ClassVar[sa.Table] = idempotency_keys

    def __init__(self, rt: Runtime, principal: str, key: str, request: str) -> None:
        self._rt, self._request = rt, request
        self._key = {"principal": principal, "key": hashlib.sha256(key.encode()).hexdigest()}
        self._mine = sa.and_(*(self._table.c[name] == value for name, value in self._key.items()))

    def reserve(self) -> sa.RowMapping | None:
        """Take the key, or give the answer that is kept under it.

        Raises:
            KeyReused: If the key belongs to another request.
            StillRunning: If the first request is not finished.
            ShownOnce: If the first request's answer held a secret.
        """
        now = clock.now()

        def unit(connection: sa.Connection) -> sa.RowMapping | None:
            connection.execute(self._table.delete().where(self._table.c.created_at < now - KEEP))
            values = {**self._key, "request": self._request, "created_at": now}
            if insert_ignore(connection, self._table, values, index=("principal", "key")):
                return None
            return connection.execute(sa.select(self._table).where(self._mine)).mappings().one()

        row = self._rt.db.run(unit)
        if row is None:
            return None
        if row["request"] != self._request:
            raise KeyReused
        if row["status"] is None:
            raise StillRunning
        if row["headers"].get("cache-control") == "no-store":
            raise ShownOnce
        return row

    def settle(self, answer: _Answer) -> None:
        """Keep a success; give the key back otherwise."""
        if not (answer.complete and 200 <= answer.status < 300):
            self._rt.db.run(lambda connection: connection.execute(self._table.delete().where(self._mine)).rowcount)
            return
        secret = "no-store" in answer.headers.get("cache-control", "")
        headers: dict[str, Any] = {k: v for k, v in answer.headers.items() if k in _KEPT_HEADERS}
        values = {"status": answer.status, "headers": headers, "body": answer.body}
        if secret:
            values |= {"headers": {"cache-control": "no-store"}, "body": b""}
        statement = self._table.update().where(self._mine).values(**values)
        self._rt.db.run(lambda connection: connection.execute(statement).rowcount)


async def _replay(kept: sa.RowMapping, send: Send) -> None:
    headers = {**kept["headers"], "content-length": str(len(kept["body"])), "idempotency-replayed": "true"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": kept["status"], "headers": raw})
    await send({"type": "http.response.body", "body": kept["body"]})
