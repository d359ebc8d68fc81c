"""The database's clock in statements: what several machines must agree on is not taken from any one of theirs.

A lease or a due time is written as a distance from the database's now: of the same machine on SQLite, of the server on
PostgreSQL, there of the statement's begin (stable, so that an index can be asked). The distance takes in `lachan.clock.offset`,
so that a test moves these times with the clock. Limits: on SQLite to the millisecond.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import UtcDateTime

_FORMAT: sa.ColumnElement[str] = sa.literal_column(
    "'%Y-%m-%d %H:%M:%f000'"
)  # as `UtcDateTime` stores a moment on SQLite


def moment(dialect: str, seconds: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Give the SQL of a moment ``seconds`` from the database's now; NULL for NULL.

    Args:
        dialect: of the database.
        seconds: a bind or an expression (float); a bind's value comes from `until` or `ahead`.
    """
    if dialect == "postgresql":
        distance = sa.cast(seconds, sa.Double) * sa.literal_column("interval '1 second'")
        return sa.type_coerce(sa.literal_column("statement_timestamp()") + distance, UtcDateTime())
    words = seconds.op("||")(sa.literal_column("' seconds'"))
    return sa.func.strftime(_FORMAT, sa.literal_column("'now'"), words, type_=UtcDateTime())


def bind(name: str) -> sa.BindParameter[float]:
    """Give the bind of a distance in seconds."""
    return sa.bindparam(name, type_=sa.Double())


def until(at: datetime) -> float:
    """Tell how many seconds it is from now to a moment of `lachan.clock`, for a bind."""
    return round((at - clock.now()).total_seconds() + clock.offset().total_seconds(), 3)


def ahead(seconds: float = 0.0) -> float:
    """Tell a distance from now for a bind, with the clock's offset in it."""
    return round(seconds + clock.offset().total_seconds(), 3)
