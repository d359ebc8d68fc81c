"""Types of fields that people send: numbers and moments as they read, and nothing that only Python takes for one."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator

FIRST, LAST = 1970, 2999  # years
_WHOLE = re.compile(r"-?[0-9]{1,19}")


def _digits(value: Any) -> Any:
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("write a whole number in digits")
    return value


def _kept(value: datetime) -> datetime:
    try:
        moment = value.astimezone(UTC)
    except (OverflowError, ValueError):
        moment = None
    if moment is None or not FIRST <= moment.year <= LAST:
        raise ValueError(f"write a moment of the years {FIRST} to {LAST}")
    return moment


#: A whole number in digits; Python's ``1_000`` and `` 7 `` are none.
Whole = Annotated[int, BeforeValidator(_digits)]
#: A moment with its time zone, RFC 3339, in UTC.
Moment = Annotated[AwareDatetime, AfterValidator(_kept)]
