"""Signing in with a one-time link, signing out, and the files that pages need.

The link's token stands in the address's fragment, which no server sees: a few lines of script put it into the form and
send it. Without script a person pastes it, or the whole link.
"""

from functools import cache
from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from api.people.access import COOKIE, Caller, check_origin, runtime, signed_in
from api.people.console import pages
from lachan.errors import NotFound
from lachan.identity import people
from lachan.runtime import Runtime

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
_TYPES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


async def _from_our_page(request: Request) -> None:
    await check_origin(request, None)


@router.get("/sign-in")
async def sign_in_page(request: Request, caller: Annotated[Caller | None, Depends(signed_in)]) -> Response:
    """The form for a link's token."""
    return pages.render(request, "sign_in.html", known=caller is not None)


@router.post("/sign-in", dependencies=[Depends(_from_our_page)])
def sign_in_by_form(
    token: Annotated[str, Form(min_length=16, max_length=400)], rt: Annotated[Runtime, Depends(runtime)]
) -> Response:
    """Turn a link's token into a session, once."""
    secret = token.strip().rpartition("#")[2]
    with rt.db.read() as connection:
        people.check_link(connection, rt.settings.data, secret)
    new = rt.db.run(lambda connection: people.sign_in(connection, rt.settings.data, secret))
    answer = RedirectResponse("/", status_code=303, headers=pages.HEADERS)
    life = int(people.SESSION_LIFE.total_seconds())
    answer.set_cookie(COOKIE, new.secret, max_age=life, secure=True, httponly=True, samesite="lax", path="/")
    return answer


@router.post("/sign-out")
async def sign_out_by_form(
    request: Request,
    caller: Annotated[Caller | None, Depends(signed_in)],
    rt: Annotated[Runtime, Depends(runtime)],
) -> Response:
    """End the session on the server."""
    if caller is not None:
        await check_origin(request, caller)
        await run_in_threadpool(_end, rt, caller)
    answer = RedirectResponse("/sign-in", status_code=303, headers=pages.HEADERS)
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def _end(rt: Runtime, caller: Caller) -> None:
    rt.db.run(lambda connection: people.sign_out(connection, caller.principal))


@router.get("/static/{name}")
async def read_static(name: str) -> Response:
    """One of the few files that pages need."""
    if name not in _TYPES:
        raise NotFound(f"No file {name}.")
    return Response(_file(name), media_type=_TYPES[name], headers={"Cache-Control": "private, max-age=300"})


@cache
def _file(name: str) -> bytes:
    return (resources.files("api.people.console") / "static" / name).read_bytes()
