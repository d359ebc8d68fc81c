"""Make pages: one Jinja2 environment per language, the frame that every page stands in, and errors as pages.

`Pages` is the route class of every console module: a refusal becomes a page in the reader's language, a stranger's visit
becomes the way to the sign-in. Parts marked ``{% block live %}`` renew themselves: htmx asks for the same address again,
and an answer that equals what is shown is 204, so that nothing moves unless something happened.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.people.access import Caller
from api.people.console import charts, labels, language, markup
from lachan import clock, health
from lachan.errors import Invalid, LachanError, Unauthenticated
from lachan.health import HealthState
from lachan.identity import Permission, Principal

_log = logging.getLogger("lachan.console")
# Same-origin, not no-referrer: with the latter browsers send `Origin: null` with forms, and those are refused.
HEADERS = {"Referrer-Policy": "same-origin", "Cache-Control": "no-store"}
_HTMX = '{"allowEval": false, "includeIndicatorStyles": false, "selfRequestsOnly": true, "historyCacheSize": 0}'


class Pages(APIRoute):
    """A route whose refusals are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give the handler, with errors turned into pages."""
        handler = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                answer = await handler(request)
            except (LachanError, RequestValidationError, HTTPException) as error:
                if request.headers.get("authorization"):
                    raise  # a machine reads the problem document
                answer = _as_page(request, error)
            return _remember_language(request, answer)

        return page


def render(request: Request, template: str, /, status: int = 200, **context: Any) -> Response:
    """Give the page for whoever asks; only its live part when htmx asks for that."""
    lang = language.choose(request)
    environment = _environment(lang)
    found = environment.get_template(template)
    everything = {**_frame(request, lang), **context}
    if request.headers.get("hx-request") and status == 200 and "live" in found.blocks:
        part = "".join(found.blocks["live"](found.new_context(everything)))
        seen = hashlib.sha256(part.encode()).hexdigest()[:16]
        if request.query_params.get("seen") == seen:
            return Response(status_code=204, headers=HEADERS)
        return HTMLResponse(_live(request, part), headers=HEADERS)
    return HTMLResponse(found.render(everything), status_code=status, headers=HEADERS)


def back(address: str, *, said: str = "") -> Response:
    """To a page after a form was taken; ``said`` names one of `labels.SAID`."""
    return RedirectResponse(f"{address}?said={quote(said)}" if said else address, status_code=303, headers=HEADERS)


def refusal(request: Request, error: LachanError) -> Response:
    """Give a refusal as a page: in the reader's words where we have them, the code and detail for the operator."""
    if error.status >= 500:
        _log.error("%s: %s", error.code, error.detail, exc_info=error)
    return render(request, "error.html", status=error.status, error=error)


def _as_page(request: Request, error: Exception) -> Response:
    if isinstance(error, Unauthenticated) and request.headers.get("hx-request"):
        return Response(
            status_code=401, headers={**HEADERS, "HX-Redirect": "/sign-in"}
        )  # a part asked; the page must go
    if isinstance(error, Unauthenticated) and request.method == "GET":
        return RedirectResponse("/sign-in", status_code=303, headers=HEADERS)
    if isinstance(error, LachanError):
        return refusal(request, error)
    if isinstance(error, RequestValidationError):
        fault = error.errors()[0]
        return refusal(request, Invalid(f"{'.'.join(str(part) for part in fault['loc'][1:])}: {fault['msg']}"))
    return refusal(request, Invalid(str(getattr(error, "detail", ""))))


def _remember_language(request: Request, answer: Response) -> Response:
    wanted = language.asked(request)
    if wanted:
        answer.set_cookie(
            language.COOKIE, wanted, max_age=31_536_000, secure=True, httponly=True, samesite="lax", path="/"
        )
    return answer


def _frame(request: Request, lang: str) -> dict[str, Any]:
    caller: Caller | None = request.scope.get("lachan.caller")
    me = caller.principal if caller else None
    translate = language.catalogue(lang).gettext
    said = labels.SAID.get(request.query_params.get("said", ""), "")
    return {
        "request": request, "lang": lang, "languages": language.LANGUAGES, "me": me, "htmx_config": _HTMX,
        "csrf": caller.csrf if caller else "", "path": request.url.path, "said": translate(said) if said else "",
        "standing": _standing(request) if me else [], "now": clock.now(), "may": lambda name: _may(me, name), "here": lambda **changes: _here(request, changes),
        "live_address": lambda seen: _here(request, {"seen": seen}),
    }  # fmt: skip


def _standing(request: Request) -> list[str]:
    """Name the checks of the health that are not in order; a page waits for none that hangs."""
    found = health.now(request.app.state.rt, patience=0.3)
    return [one.name for one in found if one.state is not HealthState.OK]


def _may(me: Principal | None, name: str) -> bool:
    return me is not None and me.may(Permission(name))


def _here(request: Request, changes: dict[str, Any]) -> str:
    """Give the page's own address with some parameters changed; None takes one away."""
    known = {key: value for key, value in request.query_params.items() if key not in ("said", "seen", "lang")}
    merged = {key: value for key, value in {**known, **changes}.items() if value not in (None, "")}
    return f"{request.url.path}?{urlencode(merged)}" if merged else request.url.path


def _live(request: Request, part: str) -> Markup:
    """Give the live part in its wrapper, which asks again every few seconds."""
    seen = hashlib.sha256(part.encode()).hexdigest()[:16]
    return Markup('<div id="live" hx-get="{}" hx-trigger="every 4s" hx-swap="outerHTML">{}</div>').format(
        _here(request, {"seen": seen}),
        Markup(part),  # noqa: S704 - our own template made it
    )


@cache
def _environment(lang: str) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("api.people.console", "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.i18n"],
    )  # fmt: skip
    known = language.catalogue(lang)
    made.install_gettext_callables(known.gettext, known.ngettext, newstyle=True)  # type: ignore[attr-defined]
    made.policies["ext.i18n.trimmed"] = True

    def ago(moment: datetime | None) -> Markup | str:
        return _ago(known.gettext, moment)

    made.filters |= {
        "inert": markup.inert, "identifier": markup.identifier, "exact": markup.exact, "day": markup.day, "ago": ago,
        "time_tag": markup.time_tag, "marked": markup.marked, "plain": markup.plain,
    }  # fmt: skip
    made.globals |= {
        "live": _live, "lag": markup.lag, "bars": charts.bars, "label": lambda kind, code: labels.label(known.gettext, kind, code), "shapes": labels.SHAPES, "noise": labels.NOISE,
        "sentence": lambda name, data: labels.sentence(known.gettext, name, data),
        "refusal_words": lambda code: known.gettext(labels.REFUSALS[code]) if code in labels.REFUSALS else "",
    }  # fmt: skip
    return made


def _ago(one: Callable[[str], str], moment: datetime | None) -> Markup | str:
    if moment is None:
        return one(labels.NEVER)
    seconds = (clock.now() - moment).total_seconds()
    future, seconds = seconds < 0, abs(seconds)
    singular, plural, unit = next(entry for entry in labels.SPANS if seconds >= entry[2])
    count = max(1, round(seconds / max(unit, 1)))
    span = one(singular if count == 1 else plural) % {"n": count}
    text = one(labels.AHEAD if future else labels.PAST) % {"span": span} if seconds >= 1 else one(labels.JUST_NOW)
    return markup.time_tag(moment, text)
