"""Cursor pages: the same shape for every list.

``?limit=50&cursor=…`` in, ``{"items": […], "next": "…"|null}`` out. The cursor holds the sort key of the last item
shown, so that rows that come and go between two pages neither repeat nor hide others. It is opaque, not secret: it
grants nothing, because every page is filtered by the caller's own rights again.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from api.fields import Whole
from lachan.errors import Invalid

T = TypeVar("T")
R = TypeVar("R")


class BadCursor(Invalid):
    """The cursor is not one that this list gave out."""

    title = "Cursor not understood"
    hint = "Send the `next` of an earlier page unchanged, or no cursor at all."


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    next: str | None = Field(default=None, description="Send it as `cursor` to read on; null at the end.")


@dataclass(frozen=True)
class Wanted:
    """Which page is asked for.

    Attributes:
        limit: Most items, 1 to 200.
        after: The sort key of the last item seen; empty for the first page.
    """

    limit: int
    after: tuple[str | int, ...]

    def key(self, *kinds: type) -> tuple[Any, ...] | None:
        """Give the sort key, checked; None for the first page.

        Raises:
            BadCursor: If the cursor has not exactly these kinds of members.
        """
        if not self.after:
            return None
        if len(self.after) != len(kinds) or any(
            type(value) is not kind for value, kind in zip(self.after, kinds, strict=True)
        ):
            raise BadCursor
        return self.after

    def page(self, rows: Sequence[R], *, key: Callable[[R], tuple[str | int, ...]], show: Callable[[R], T]) -> Page[T]:
        """Make a page from ``limit + 1`` rows: the extra one only tells that there is more.

        Args:
            rows: At most ``limit + 1`` rows in the list's order.
            key: The sort key of a row.
            show: What the caller gets of a row.
        """
        shown = rows[: self.limit]
        more = len(rows) > self.limit
        return Page(items=[show(row) for row in shown], next=encode(key(shown[-1])) if more else None)


async def wanted(
    limit: Annotated[Whole, Query(ge=1, le=200, description="Most items on this page.")] = 50,
    cursor: Annotated[str, Query(max_length=512, description="The `next` of the page before.")] = "",
) -> Wanted:
    """Read ``limit`` and ``cursor`` of a request.

    Raises:
        BadCursor: If the cursor cannot be read.
    """
    return Wanted(limit=limit, after=decode(cursor) if cursor else ())


def encode(key: Sequence[str | int]) -> str:
    """Write a sort key as a cursor."""
    return base64.urlsafe_b64encode(json.dumps(list(key)).encode()).decode().rstrip("=")


def decode(cursor: str) -> tuple[str | int, ...]:
    """Read a cursor.

    Raises:
        BadCursor: If it is not a list of strings and whole numbers in our encoding.
    """
    try:
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise BadCursor from error
    if not isinstance(found, list) or not found or not all(type(part) in (str, int) for part in found):
        raise BadCursor
    if any(isinstance(part, int) and abs(part) >= 2**63 for part in found):
        raise BadCursor
    return tuple(found)
