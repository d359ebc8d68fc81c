"""Budgets: how many devices may be cut automatically at a time, exact under concurrency.

One counter row per scope (site, model, detector, sender). `take` makes and locks all rows of a request in one fixed order,
then compares, then counts all of them or none; two racing requests meet at their first common row and never in a circle.
The sender's budget is the smallest, so that one flooding sender cannot spend a site's. Limits: what a human decides is not
counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from lachan.database import for_update, insert_ignore
from lachan.devices import Device
from lachan.settings import Settings
from soar_playbooks.models import containment_budgets
from soar_playbooks.settings import SoarSettings


@dataclass(frozen=True)
class Spent:
    """The scope that has nothing left, and its limit."""

    scope: str
    limit: int


def scopes(settings: Settings, device: Device, *, rule_id: str, senders: Iterable[str]) -> dict[str, int]:
    """The scopes that an automatic containment of a device counts in, with their limits."""
    limits = {
        f"site:{device.site}": SoarSettings.of(settings).budget_site,
        f"model:{device.vendor}/{device.model}": SoarSettings.of(settings).budget_model,
    }
    if rule_id:
        limits[f"detector:{rule_id}"] = SoarSettings.of(settings).budget_detector
    return limits | {f"sender:{sender}"[:300]: SoarSettings.of(settings).budget_sender for sender in senders}


def take(connection: sa.Connection, limits: dict[str, int]) -> Spent | None:
    """Count one in every scope, or in none; says which scope is spent, or None if the request was counted."""
    spent: Spent | None = None
    for scope in sorted(limits):
        insert_ignore(connection, containment_budgets, {"scope": scope, "active": 0}, index=("scope",))
        query = sa.select(containment_budgets.c.active).where(containment_budgets.c.scope == scope)
        active = connection.execute(for_update(query, connection)).scalar_one()
        if active >= limits[scope] and spent is None:
            spent = Spent(scope, limits[scope])
    if spent is None:
        _add(connection, limits, 1)
    return spent


def give_back(connection: sa.Connection, counted: Iterable[str]) -> None:
    """Count one less in every scope; the containment has ended."""
    _add(connection, counted, -1)


def _add(connection: sa.Connection, scopes_: Iterable[str], number: int) -> None:
    for scope in sorted(scopes_):
        row = containment_budgets.c.scope == scope
        value = containment_budgets.c.active + number
        connection.execute(containment_budgets.update().where(row).values(active=value))
