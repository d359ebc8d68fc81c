"""Which language a page speaks, and its catalogue: ``?lang=``, then the cookie, then Accept-Language, then English.

Messages are marked in templates and in `words`; the catalogue is compiled by pybabel beforehand, at run time the standard
library reads it. Limits: codes, field names and what other people wrote are shown as they are.
"""

from __future__ import annotations

import gettext
from functools import cache
from pathlib import Path

from starlette.requests import Request

COOKIE = "lachan-lang"
LANGUAGES = {"vi": "Tiếng Việt", "en": "English"}
_LOCALE = Path(__file__).parent.parent / "locale"


def N_(text: str) -> str:  # noqa: N802 - the name that gettext's tools look for
    """Mark a text for the catalogue; it is translated where it is shown."""
    return text


def pgettext(context: str, text: str) -> str:
    """Mark a text that has another meaning here than elsewhere, the way that compiled catalogues name it."""
    return f"{context}\4{text}"


@cache
def catalogue(language: str) -> gettext.NullTranslations:
    """Give the translations of a language; English is written in the code itself."""
    if language == "en":
        return gettext.NullTranslations()
    return gettext.translation("lachan", _LOCALE, languages=[language])


def asked(request: Request) -> str | None:
    """Give the language that the address asks for, which is then remembered."""
    wanted = request.query_params.get("lang", "")
    return wanted if wanted in LANGUAGES else None


def choose(request: Request) -> str:
    """Give the language of the answer."""
    remembered = request.cookies.get(COOKIE, "")
    return asked(request) or (remembered if remembered in LANGUAGES else _accepted(request))


def _accepted(request: Request) -> str:
    """Give the best of our languages in Accept-Language (RFC 9110 12.5.4)."""
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(request.headers.get("accept-language", "").split(",")[:20]):
        tag, _, parameters = part.strip().partition(";")
        quality = parameters.strip().removeprefix("q=") or "1"
        try:
            weight = float(quality)
        except ValueError:
            continue
        name = tag.split("-")[0].lower()
        if name in LANGUAGES and weight > 0:
            wanted.append((-weight, place, name))
    return min(wanted)[2] if wanted else "en"
