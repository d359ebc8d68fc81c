"""Where a process may die: the journal's boundaries as a closed set, and the way tests make it die there.

Every transaction that matters to recovery is opened by `write` with its `Record`; the instants right before and right
after its commit are boundaries, and so are the instants after an effect outside. A test iterates `Boundary` and starts a
worker with ``LACHAN_FAULT=<boundary>:<n>``: at the n-th time it gets there it kills itself with SIGKILL. Without that
variable `reach` does nothing. Limits: the variable is for tests; whoever can set a process's environment owns it anyway.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from lachan.runtime import Runtime


class Record(StrEnum):
    """What the journal writes; each is one transaction."""

    RUN = "run"
    CLAIM = "claim"
    INTENT = "intent"
    OUTCOME = "outcome"
    PARK = "park"
    APPROVAL = "approval"
    UNKNOWN = "unknown"
    END = "end"
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
_reached: Counter[str] = Counter()


@contextmanager
def write(rt: Runtime, record: Record) -> Iterator[sa.Connection]:
    """One journal transaction, with its two boundaries."""
    with rt.db.write() as connection:
        yield connection
        reach(f"{record}-written")
    reach(f"{record}-committed")


def done(effect: Effect) -> None:
    """Note that an effect outside has happened and nothing tells of it yet."""
    reach(f"{effect}-done")


def reach(boundary: str) -> None:
    """Die here if a test asked for it."""
    wanted = os.environ.get("LACHAN_FAULT")
    if wanted is None:
        return
    _reached[boundary] += 1
    name, _, count = wanted.partition(":")
    if name == boundary and _reached[boundary] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
