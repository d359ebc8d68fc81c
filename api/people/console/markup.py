"""What stands in a page as text from elsewhere: inert, shortened, timed.

`inert` is for everything that a device, a log line or another person wrote: escaped, kept from running into its
surroundings (``bdi``), with control and direction characters made visible. No links are made of it. Times are shown in
the zone of Hà Nội, relative with the exact time beside.
"""

from __future__ import annotations

import json
import unicodedata
from datetime import datetime, timedelta, timezone
from typing import Any

from markupsafe import Markup, escape

from lachan import patterns

ZONE = timezone(timedelta(hours=7))
# Controls, direction overrides and isolates, zero-width and other invisible characters, private use, lone surrogates.
_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
_WORD = 2000


def inert(value: Any, limit: int = _WORD) -> Markup:
    """Give a text that an attacker may have written, made harmless to read."""
    text = value if isinstance(value, str) else plain(value)
    cut = text[:limit]
    shown = Markup("").join(_visible(part) for part in _pieces(cut))
    return Markup("<bdi>{}{}</bdi>").format(shown, "…" if len(text) > limit else "")


def plain(value: Any) -> str:
    """Give a JSON value as people read it."""
    if value is None:
        return "–"
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(str, value)) or "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)


def _pieces(text: str) -> list[str]:
    """Give the text cut so that every hidden character stands alone."""
    found: list[str] = []
    run = ""
    for character in text:
        if unicodedata.category(character) in _HIDDEN and character != "\n":
            found += [run, character]
            run = ""
        else:
            run += character
    return [part for part in [*found, run] if part]


def _visible(part: str) -> Markup:
    if len(part) == 1 and unicodedata.category(part) in _HIDDEN and part != "\n":
        return Markup('<span class="ctl">U+{:04X}</span>').format(ord(part))
    return escape(part)


def marked(line: str, values: list[str], limit: int = _WORD) -> Markup:
    """Give a log line, inert, with the values that a rule matched marked."""
    line = line[:limit]
    wanted = sorted({value for value in values if 1 < len(value) <= len(line)}, key=len, reverse=True)[:50]
    if not wanted:
        return inert(line)
    parts = patterns.compile("(?i)(" + "|".join(map(patterns.escape, wanted)) + ")").split(line)
    return Markup("").join(
        Markup("<mark>{}</mark>").format(inert(part)) if place % 2 else inert(part)
        for place, part in enumerate(parts)
        if part
    )


def identifier(value: Any) -> Markup:
    """Give an id in monospace, shortened in the middle; a click copies the whole (the title shows it without one)."""
    text = str(value)
    short = text if len(text) <= 16 else f"{text[:8]}…{text[-6:]}"
    return Markup('<code class="id" data-copy="{0}" title="{0}">{1}</code>').format(text, short)


def exact(moment: datetime | None) -> str:
    """Give a time to the second with its zone."""
    return "?" if moment is None else f"{_local(moment):%Y-%m-%d %H:%M:%S} +07"


def day(moment: datetime | None) -> str:
    """Give a date in Hà Nội."""
    return "?" if moment is None else f"{_local(moment):%Y-%m-%d}"


def _local(moment: datetime) -> datetime:
    """Give the time in Hà Nội; at the calendar's ends, where devices may claim to be, the end itself."""
    try:
        return moment.astimezone(ZONE)
    except OverflowError:
        return datetime(9999, 12, 31, 23, 59, 59, tzinfo=ZONE) if moment.year > 1 else datetime(1, 1, 1, tzinfo=ZONE)


def time_tag(moment: datetime, shown: str) -> Markup:
    """Give a ``time`` element: what is shown, with the exact time on hover and for programs."""
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(), exact(moment), shown)


def lag(happened: datetime, recorded: datetime) -> str:
    """Tell how much later we knew: ``+0.2 s``."""
    seconds = (recorded - happened).total_seconds()
    if abs(seconds) < 0.05:
        return "+0 s"
    if abs(seconds) < 90:
        return f"{seconds:+.1f} s"
    if abs(seconds) < 5400:
        return f"{seconds / 60:+.0f} min"
    return f"{seconds / 3600:+.1f} h" if abs(seconds) < 172800 else f"{seconds / 86400:+.1f} d"
