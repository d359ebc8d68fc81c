"""Budgets: how many devices may be cut automatically at a time, exact under concurrency.

One counter row per scope (site, model, detector, sender). `take` counts in one scope after the other, sorted, each by one
statement that compares and counts at once (its row lock is held to the end of the transaction), and takes back what it
counted if a scope is spent: all or none, and two racing requests meet at their first common row, never in a circle. The
sender's budget is the smallest, so that one flooding sender cannot spend a site's. Limits: what a human decides is not
counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from lachan.devices import Device
from lachan.settings import Settings
from lachan.statements import Statement, pipeline
from soar_playbooks.models import containment_budgets
from soar_playbooks.settings import SoarSettings


@dataclass(frozen=True)
class Spent:
    """The scope that has nothing left, and its limit."""

    scope: str
    limit: int


def scopes(settings: Settings, device: Device, *, rule_id: str, senders: Iterable[str]) -> dict[str, int]:
    """Give the scopes that an automatic containment of a device counts in, with their limits."""
    limits = {
        f"site:{device.site}": SoarSettings.of(settings).budget_site,
        f"model:{device.vendor}/{device.model}": SoarSettings.of(settings).budget_model,
    }
    if rule_id:
        limits[f"detector:{rule_id}"] = SoarSettings.of(settings).budget_detector
    return limits | {f"sender:{sender}"[:300]: SoarSettings.of(settings).budget_sender for sender in senders}


def take(connection: sa.Connection, limits: dict[str, int]) -> Spent | None:
    """Count one in every scope, or in none; tell which scope is spent, or None if the request was counted."""
    order = sorted(limits)
    if none := [scope for scope in order if limits[scope] < 1]:
        return Spent(none[0], limits[none[0]])
    calls = [(_MORE, {"scope": scope, "limit_": limits[scope]}) for scope in order]
    counts = [done.count for done in pipeline(connection, calls)]
    if all(counts):
        return None
    give_back(connection, [scope for scope, count in zip(order, counts, strict=True) if count])
    spent = order[counts.index(0)]
    return Spent(spent, limits[spent])


def has_room(connection: sa.Connection, limits: dict[str, int]) -> bool:
    """Tell whether every scope has room for one more; counts nothing."""
    query = sa.select(_C.scope, _C.active).where(_C.scope.in_(limits))
    active = {row.scope: row.active for row in connection.execute(query)}
    return all(active.get(scope, 0) < limit for scope, limit in limits.items())


def give_back(connection: sa.Connection, counted: Iterable[str]) -> None:
    """Count one less in every scope; the containment has ended."""
    for scope in sorted(counted):
        _LESS.execute(connection, scope_=scope)


def _more(dialect: str) -> Any:
    """Count one more of a scope, the first of it too, unless that is past its limit; which changes no row."""
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    more = insert(containment_budgets).values(active=1)
    return more.on_conflict_do_update(
        index_elements=["scope"],
        set_={"active": _C.active + 1},
        where=_C.active < sa.bindparam("limit_", type_=sa.Integer),
    )


_C = containment_budgets.c
_MORE = Statement(_more, columns=("scope",))
_LESS = Statement(containment_budgets.update().where(_C.scope == sa.bindparam("scope_")).values(active=_C.active - 1))
