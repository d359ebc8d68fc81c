"""Hide other vendors' devices inside what a manufacturer reads.

Lists and lookups are narrowed by queries; but a fact about one's own device may mention another's id inside (who sent
the lines that raised an alert, who acted). Steps: find everything that looks like an id in the texts → ask the registry
which of them are devices of other vendors → put ``hidden`` in their place. Limits: ids only; prose that people wrote
(comments, reasons) is shown as they wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from lachan.devices import devices
from lachan.identity import Principal

HIDDEN = "hidden"
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_BATCH = 500


def hide(connection: sa.Connection, caller: Principal, value: Any) -> Any:
    """Give the same JSON value without ids of devices that the caller may not know of.

    Args:
        connection: An open connection.
        caller: Who reads; only those bound to a vendor have anything hidden from them.
        value: A JSON value.
    """
    if caller.vendor is None:
        return value
    found = sorted({match for text in _texts(value) for match in _ID.findall(text)})
    foreign: set[str] = set()
    for start in range(0, len(found), _BATCH):
        some = devices.c.id.in_(found[start : start + _BATCH])
        query = sa.select(devices.c.id).where(some, devices.c.vendor != caller.vendor)
        foreign.update(connection.execute(query).scalars())
    return _replaced(value, foreign) if foreign else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _replaced(value: Any, foreign: set[str]) -> Any:
    if isinstance(value, str):
        return _ID.sub(lambda match: HIDDEN if match[0] in foreign else match[0], value)
    if isinstance(value, dict):
        return {_replaced(key, foreign): _replaced(inner, foreign) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(inner, foreign) for inner in value]
    return value
