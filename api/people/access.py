"""Who may do what at the people door: ``may(permission)`` gives a route its Principal or refuses.

Two ways in: a person's session cookie, or a machine's token (``Authorization: Bearer lachan_…``, or ``ApiKey`` as
Elasticsearch clients send it). Both are looked up at every request, one indexed row, so that a revoked token or an
ended session stops working with the next request. A write that comes with a cookie must prove that it comes from our
own page: the session's CSRF token in ``X-CSRF-Token`` or in the form field ``csrf``, and an ``Origin`` that is ours.
What auditors read is recorded, once per session and resource in ten minutes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from lachan.errors import Unauthenticated
from lachan.events import AuditorRead
from lachan.identity import Permission, Principal, Role, humans, people, require, tokens
from lachan.identity.errors import BadCsrf
from lachan.runtime import Runtime
from lachan.work import outbox

COOKIE = "__Host-lachan"  # the prefix makes browsers insist on Secure, Path=/ and no Domain
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_TOUCH = 60.0  # seconds between notes that a session is in use
_AUDIT = 600.0  # seconds in which an auditor's same read is one event


@dataclass(frozen=True)
class Caller:
    """Who asks, and the CSRF token that their writes must carry (empty for tokens)."""

    principal: Principal
    csrf: str


async def runtime(request: Request) -> Runtime:
    """Give the open installation."""
    return cast(Runtime, request.app.state.rt)


def may(permission: Permission) -> Callable[[Request], Awaitable[Principal]]:
    """Give the dependency that lets through who has a permission.

    Raises (when called for a request):
        Unauthenticated: If nobody, or nobody we can recognise, asks.
        BadCsrf: If a write by cookie does not come from our own page.
        Forbidden: If no role of the caller has the permission.
        PersonNeeded: If the permission needs a person's session and a token asks.
    """

    async def permitted(request: Request) -> Principal:
        caller = await who(request)
        if caller is None:
            raise Unauthenticated
        await check_origin(request, caller)
        require(caller.principal, permission)
        await _note(request, caller.principal)
        return caller.principal

    permitted.permission = permission  # type: ignore[attr-defined]  # the authorisation table's test reads it
    return permitted


async def signed_in(request: Request) -> Caller | None:
    """Tell who asks, for pages that strangers see too; None for strangers."""
    try:
        return await who(request)
    except Unauthenticated:
        return None


async def who(request: Request) -> Caller | None:
    """Tell who asks; None when no credentials came. Looked up once per request.

    Raises:
        Unauthenticated: If credentials came that are not, or no longer, good.
    """
    if "lachan.caller" not in request.scope:
        request.scope["lachan.caller"] = await run_in_threadpool(_recognise, request)
    return cast("Caller | None", request.scope["lachan.caller"])


def _recognise(request: Request) -> Caller | None:
    rt = cast(Runtime, request.app.state.rt)
    header = request.headers.get("authorization")
    if header:
        token = tokens.from_header(header)
        with rt.db.read() as connection:
            return Caller(tokens.verify(connection, rt.settings.data, token), "")
    secret = request.cookies.get(COOKIE)
    if not secret:
        return None
    with rt.db.read() as connection:
        principal, csrf = people.session(connection, rt.settings.data, secret)
    principal = replace(principal, shells=humans.shells_of(rt.settings.shell_persons, principal.name))
    session = principal.session
    if session and _first(request, ("touch", session), _TOUCH):
        rt.db.run(lambda connection: people.touch(connection, session))
    return Caller(principal, csrf)


async def check_origin(request: Request, caller: Caller | None) -> None:
    """Check that a write by cookie comes from our own page.

    Raises:
        BadCsrf: If it does not.
    """
    if request.method in _SAFE or (caller is not None and not caller.csrf):
        return
    origin = request.headers.get("origin")
    settings = cast(Runtime, request.app.state.rt).settings
    ours = {_origin(settings.people_url), f"https://{request.headers.get('host', '')}".lower()}
    if origin is not None and origin.lower() not in ours:
        raise BadCsrf("The request comes from another site's page.")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise BadCsrf("The browser says that another site asks.")
    if caller is not None:
        people.check_csrf(caller.csrf, await _csrf_given(request))


async def _csrf_given(request: Request) -> str | None:
    given = request.headers.get("x-csrf-token")
    if given is None and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        field = (await request.form()).get("csrf")
        given = field if isinstance(field, str) else None
    return given


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


async def _note(request: Request, principal: Principal) -> None:
    if Role.AUDITOR not in principal.roles or request.method not in _SAFE:
        return
    resource = request.url.path
    if _first(request, ("audit", principal.session or principal.id, resource), _AUDIT):
        await run_in_threadpool(_record_read, cast(Runtime, request.app.state.rt), principal, resource)


def _record_read(rt: Runtime, principal: Principal, resource: str) -> None:
    rt.db.run(
        lambda connection: outbox.append(
            connection, AuditorRead(user=principal.name, resource=resource), actor=principal
        )
    )


def _first(request: Request, what: tuple[str, ...], period: float) -> bool:
    """Tell whether this is the first time of something within a period; remembers at most 10 000 things."""
    known: dict[tuple[str, ...], float] = request.app.state.__dict__["_state"].setdefault("remembered", {})
    now = time.monotonic()
    if known.get(what, 0.0) > now:
        return False
    if len(known) >= 10_000:
        known.clear()
    known[what] = now + period
    return True
