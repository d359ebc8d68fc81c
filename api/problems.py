"""Errors become RFC 9457 problem documents here, and nowhere else.

A ``LachanError`` brings its own status, title and hint; what FastAPI raises by itself is translated; anything else
becomes an opaque 500 that carries only the request id, under which the log has the rest. Limits: the detail of a
``LachanError`` is shown to the caller, so rooms must not put secrets into it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from lachan import health
from lachan.errors import DatabaseAway, LachanError, NoRoom
from lachan.units import RETRY_WHEN_FULL

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("lachan.api")
RETRY_AFTER = 2  # seconds, where nobody knows better
_RESERVED = frozenset({"type", "title", "status", "detail", "instance", "code", "hint", "request_id"})


class Problem(BaseModel):
    """What every refusal looks like (RFC 9457); rooms add members of their own, for example ``file`` and ``line``."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:lachan:problem:not-found"], description="Names the kind of problem.")
    title: str = Field(examples=["Not found"], description="The kind of problem in words, always the same.")
    status: int = Field(examples=[404], description="The HTTP status again.")
    detail: str = Field(examples=["There is no device with this id."], description="What happened this time.")
    code: str = Field(examples=["not-found"], description="The kind of problem, short and stable.")
    hint: str = Field(default="", examples=["Check the id."], description="What to do next.")
    instance: str = Field(default="", examples=["/api/v1/devices/0"], description="The path that was asked.")
    request_id: str = Field(default="", description="Under this id the server's log has more.")


def problem(
    request: Request,
    *,
    status: int,
    title: str,
    detail: str = "",
    code: str,
    hint: str = "",
    fields: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Build one problem document.

    Args:
        request: The request that failed; gives path and request id.
        status: HTTP status.
        title: The kind of problem.
        detail: This occurrence; the title stands in for an empty one.
        code: Kebab-case name of the kind.
        hint: What to do next.
        fields: Extension members; the standard's own names are not overwritten.
        headers: Further response headers.
    """
    body: dict[str, Any] = {key: value for key, value in (fields or {}).items() if key not in _RESERVED}
    body |= {
        "type": f"urn:lachan:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail or title,
        "code": code,
        "hint": hint,
        "instance": request.url.path,
        "request_id": request.scope.get("lachan.request_id", ""),
    }
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def of_error(request: Request, error: LachanError) -> JSONResponse:
    """Give the problem document of an error that lachan raised on purpose."""
    headers: dict[str, str] = {}
    if (wait := retry_after(error)) is not None:
        headers["Retry-After"] = str(wait)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = getattr(error, "challenge", "") or request.app.state.challenge
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(
        error, DatabaseAway | NoRoom
    ):  # those were told
        _log.error("%s: %s", error.code, error.detail, exc_info=error)
    return problem(
        request,
        status=error.status,
        title=error.title,
        detail=error.detail,
        code=error.code,
        hint=error.hint,
        fields=error.fields,
        headers=headers,
    )


def retry_after(error: LachanError) -> int | None:
    """Give the seconds after which the caller may come again: as the error says, and whenever a part does not answer; else None."""
    told = error.fields.get("retry_after", RETRY_AFTER if error.status == HTTPStatus.SERVICE_UNAVAILABLE else None)
    return None if told is None else max(1, int(float(told) + 0.999))


def unforeseen(request: Request, error: BaseException) -> JSONResponse:
    """Give the problem document of an error nobody foresaw: that a disk is full, or nothing but the request id."""
    if health.no_room(error):
        full = NoRoom("There is no room on the disk of the data folder.", retry_after=RETRY_WHEN_FULL)
        return of_error(request, full)
    return problem(
        request,
        status=500,
        title="Internal error",
        code="internal-error",
        hint="Try again; if it stays, give the request id to the operator.",
    )


def abnormal(request: Request) -> JSONResponse:
    """Give the problem document of a path that could be read in two ways."""
    return problem(
        request,
        status=404,
        title="Not found",
        detail="The path has dot segments, empty segments or encoded separators.",
        code="not-found",
        hint="Write the path plainly.",
    )


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    return of_error(request, cast(LachanError, error))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    known = cast(HTTPException, error)
    phrase = HTTPStatus(known.status_code).phrase
    code = phrase.lower().replace(" ", "-").replace("'", "")
    detail = str(known.detail) if known.detail else phrase
    headers = dict(known.headers or {})
    return problem(request, status=known.status_code, title=phrase, detail=detail, code=code, headers=headers)


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    found = cast(RequestValidationError, error).errors()
    faults = [{"where": ".".join(str(part) for part in item["loc"]), "what": item["msg"]} for item in found]
    first = faults[0] if faults else {"where": "body", "what": "not understood"}
    return problem(
        request,
        status=422,
        title="Invalid input",
        detail=f"{first['where']}: {first['what']}",
        code="invalid",
        hint="Correct the named fields and send it again.",
        fields={"faults": faults},
    )


def install(app: FastAPI, *, challenge: str) -> None:
    """Make an app answer every failure with a problem document.

    Args:
        app: The door's app.
        challenge: Value of WWW-Authenticate when the error names none of its own.
    """
    app.state.challenge = challenge
    app.add_exception_handler(LachanError, _on_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Give the ``responses=`` of a route: each status with the problem document's schema."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
