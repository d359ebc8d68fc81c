"""What strangers write, read strictly: JSON that two readers could read in two ways, and text that shows what it is not.

`loads` refuses, with the place of the fault: a name that an object has twice (RFC 8259 4: what receivers make of it is
unpredictable), NaN and Infinity (RFC 8259 6), whole numbers beyond 2⁶³ and numbers beyond a double, nesting deeper than `DEPTH`, more than
`VALUES` values, and text as of `flaw`: NUL, lone surrogates, control characters of C0 (but tab and line ends) and C1, and the marks that turn the
direction of text (Unicode TR36 3.2), none of which any name, reason or comment needs and each of which some reader trips over.

Limits: zero-width joiners and look-alike letters are left: scripts need them.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from lachan.errors import Invalid

DEPTH = 32
VALUES = 50_000  # of one text: more of them are work for whoever reads, and nothing that people send
_LARGEST = 1 << 63
_FLAWS = re.compile(
    r"(?P<nul>\x00)|(?P<half>[\ud800-\udfff])|(?P<control>[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f])"
    r"|(?P<turn>[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])"
)
_SAID = {
    "nul": "has a NUL character",
    "half": "has half of a surrogate pair",
    "control": "has a control character",
    "turn": "has a mark that turns the direction of text",
}
#: For schemas: text without what `flaw` finds, and without line ends and tabs.
ONE_LINE = r"[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"


class BadText(Invalid):
    """Text or JSON that is not taken; ``field`` is the place of the fault."""

    title, hint = "Input not understood", "Mend the field that is named and send it again."


def flaw(text: str) -> str | None:
    """Tell what is wrong with a text, as the end of a sentence; None when nothing is."""
    found = _FLAWS.search(text)
    return _SAID[str(found.lastgroup)] if found else None


def loads(octets: bytes, *, place: str = "") -> Any:
    """Read JSON.

    Args:
        octets: UTF-8 (RFC 8259 8.1).
        place: what the faults' places begin with.

    Raises:
        BadText: it is no JSON, or has one of the faults above; ``field`` names where.
    """
    if octets.count(b",") > VALUES:  # before any of them costs anything
        raise BadText(f"The JSON has more than {VALUES} values.", field=place)
    try:
        value = json.loads(octets.decode("utf-8"), object_pairs_hook=_Object, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise BadText(f"The text is not UTF-8 (byte {error.start}).", field=place) from None
    except RecursionError:
        raise BadText(f"The JSON is nested deeper than {DEPTH}.", field=place) from None
    except ValueError as error:
        raise BadText(f"This is no JSON: {error}.", field=place) from None
    return _checked(value, place, 0)


class _Object(list[tuple[str, Any]]):
    """The members of an object as they came."""


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= 20 else math.inf


def _checked(value: Any, place: str, depth: int) -> Any:
    if depth > DEPTH:
        raise BadText(f"The JSON is nested deeper than {DEPTH}.", field=place)
    if isinstance(value, _Object):
        return _members(value, place, depth)
    if isinstance(value, list):
        return [_checked(one, f"{place}.{number}".lstrip("."), depth + 1) for number, one in enumerate(value)]
    if isinstance(value, str) and (wrong := flaw(value)):
        raise BadText(f"{place or 'The text'} {wrong}.", field=place)
    if isinstance(value, float) and not math.isfinite(value):
        raise BadText(f"{place or 'The number'} is no number that can be kept.", field=place)
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise BadText(f"{place or 'The number'} is beyond 64 bits.", field=place)
    return value


def _members(members: _Object, place: str, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in members:
        if wrong := flaw(name):
            raise BadText(f"A name in {place or 'the object'} {wrong}.", field=place)
        at = f"{place}.{name}".lstrip(".")[:200]
        if name in found:
            raise BadText(f"{at} is there twice.", field=at)
        found[name] = _checked(value, at, depth + 1)
    return found
