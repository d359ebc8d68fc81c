"""What strangers send to the people door, looked at before any route reads it (`lachan.foreign`).

A JSON body that two readers could read in two ways, and control characters in bodies and queries, are answered 422 with the place of
the fault. Limits: bodies of other kinds (CSV, firmware, `_bulk`) are their routes' business; a body waits here whole, which the
limit of the door for JSON bounds.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api import problems
from api.people.idempotency import OWN_WAY, once
from lachan import foreign
from lachan.foreign import BadText

AT_ONCE = 16 * 1024  # octets that are read without a thread


class Strictness:
    """The middleware; stands inside the limits and outside the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            _check_query(scope["query_string"])
            if _is_json(scope):
                body = await request.body()
                if len(body) > AT_ONCE:  # others go on meanwhile
                    await run_in_threadpool(foreign.loads, body, place="body")
                elif body:
                    foreign.loads(body, place="body")
                receive = once(body, receive)
        except BadText as error:
            await problems.of_error(request, error)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_json(scope: Scope) -> bool:
    if scope["method"] in {"GET", "HEAD", "OPTIONS"} or OWN_WAY.fullmatch(scope["path"]):
        return False
    kind = Headers(scope=scope).get("content-type", "").split(";")[0].strip().lower()
    return kind in {"", "application/json"} or kind.endswith("+json")  # without a kind it is read as JSON, too


def _check_query(query: bytes) -> None:
    """Look at the names and values of a query.

    Raises:
        BadText: one is not UTF-8, or has a control character.
    """
    if b"%" not in query and query.isascii():
        return
    for name, value in parse_qsl(
        query.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="surrogateescape"
    ):
        for text in (name, value):
            if wrong := foreign.flaw(text):
                at = f"query.{name}" if text is value else "query"
                raise BadText(f"{at.encode('ascii', 'backslashreplace').decode()} {wrong}.", field=at[:80])
