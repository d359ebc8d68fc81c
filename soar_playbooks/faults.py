"""Where a process may die: the journal's boundaries as a closed set.

Every unit of work that matters to recovery is run by `run` with its `Record`; the instants right before and right after
its commit are boundaries, and so are the instants after an effect outside. Each is told to `Runtime.reached`, which does
nothing; a test iterates `Boundary` and gives a worker a runtime that ends its process there.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

if TYPE_CHECKING:
    from lachan.runtime import Runtime


R = TypeVar("R")


class Record(StrEnum):
    """What a unit begins with; all that follows in the database, up to a request outside, is in the same one."""

    RUN = "run"
    CLAIM = "claim"
    ASK = "ask"
    OUTCOME = "outcome"
    APPROVAL = "approval"
    ENFORCE = "enforce"
    SETTLE = "settle"
    DELIVERY = "delivery"


class Effect(StrEnum):
    """What happens outside the database between two records."""

    HTTP = "http"
    POINT = "point"
    WEBHOOK = "webhook"


Boundary = StrEnum(  # type: ignore[misc]
    "Boundary",
    {
        **{f"{record.name}_WRITTEN": f"{record}-written" for record in Record},
        **{f"{record.name}_COMMITTED": f"{record}-committed" for record in Record},
        **{f"{effect.name}_DONE": f"{effect}-done" for effect in Effect},
    },
)


def run(rt: Runtime, record: Record, unit: Callable[[sa.Connection], R]) -> R:
    """Run an urgent unit of work, with its two boundaries."""

    def bounded(connection: sa.Connection) -> R:
        found = unit(connection)
        rt.reached(Boundary(f"{record}-written"))
        return found

    found = rt.db.run(bounded, urgent=True)
    rt.reached(Boundary(f"{record}-committed"))
    return found


def done(rt: Runtime, effect: Effect) -> None:
    """Note that an effect outside has happened and nothing tells of it yet."""
    rt.reached(Boundary(f"{effect}-done"))
