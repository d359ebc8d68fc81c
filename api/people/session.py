"""Signing in with a one-time link's token, looking at one's session, signing out."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.people.access import COOKIE, Caller, check_origin, runtime, signed_in
from api.problems import documented
from lachan.errors import Unauthenticated
from lachan.identity import Role, people
from lachan.runtime import Runtime

router = APIRouter(prefix="/api/v1/session", tags=["session"])


class SignIn(BaseModel):
    """The token that stands behind the ``#`` of a sign-in link."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=16, max_length=200, examples=["b1lqXl1z3yP0dXUxJ0Qm3dF0dV9nB2cT"])


class Session(BaseModel):
    """Who is signed in."""

    name: str = Field(examples=["an"])
    roles: list[Role]
    vendor: str | None = Field(description="A manufacturer sees this vendor's devices only.")
    csrf: str = Field(description="Send it as `X-CSRF-Token` with every write.")


async def _from_our_page(request: Request) -> None:
    await check_origin(request, None)


@router.post("", summary="Sign in", status_code=201, dependencies=[Depends(_from_our_page)], responses=documented(410))
def sign_in(body: SignIn, response: Response, rt: Annotated[Runtime, Depends(runtime)]) -> Session:
    """Turn a one-time link's token into a session cookie; a link works once and for 15 minutes."""
    with rt.db.read() as connection:
        people.check_link(connection, rt.settings.data, body.token)
    new = rt.db.run(lambda connection: people.sign_in(connection, rt.settings.data, body.token))
    response.set_cookie(
        COOKIE,
        new.secret,
        max_age=int(people.SESSION_LIFE.total_seconds()),
        secure=True,
        httponly=True,
        samesite="lax",
        path="/",
    )
    response.headers["Cache-Control"] = "no-store"
    who = new.principal
    return Session(name=who.name, roles=sorted(who.roles), vendor=who.vendor, csrf=new.csrf)


@router.get("", summary="Who am I?")
async def read_session(response: Response, caller: Annotated[Caller | None, Depends(signed_in)]) -> Session:
    """Tell who is signed in, and the CSRF token for writes; 401 for strangers."""
    if caller is None:
        raise Unauthenticated
    response.headers["Cache-Control"] = "no-store"
    who = caller.principal
    return Session(name=who.name, roles=sorted(who.roles), vendor=who.vendor, csrf=caller.csrf)


@router.delete("", summary="Sign out", status_code=204)
async def sign_out(
    request: Request,
    caller: Annotated[Caller | None, Depends(signed_in)],
    rt: Annotated[Runtime, Depends(runtime)],
) -> Response:
    """End the session now, on the server; harmless without one."""
    if caller is not None:
        await check_origin(request, caller)
        await run_in_threadpool(_end, rt, caller)
    gone = Response(status_code=204)
    gone.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return gone


def _end(rt: Runtime, caller: Caller) -> None:
    rt.db.run(lambda connection: people.sign_out(connection, caller.principal))
