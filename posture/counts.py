"""How many verdicts of each kind: by vendor, ward, site, model or criterion; unknown always beside fail."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.devices import devices
from lachan.identity import Principal, scope
from posture.evaluate import Result
from posture.models import verdicts


class By(StrEnum):
    """What to count by."""

    VENDOR = "vendor"
    WARD = "ward"
    SITE = "site"
    MODEL = "model"
    CRITERION = "criterion"


def counts(connection: sa.Connection, *, by: By, principal: Principal) -> list[dict[str, Any]]:
    """Verdict counts of the devices that the principal may see, in the order of the key.

    Returns:
        Rows with ``key``, ``devices`` (in the registry), ``assessed``, and the four verdicts. Expired evidence counts
        as unknown. By criterion, ``devices`` is the number of devices assessed on it.
    """
    expired = sa.and_(verdicts.c.valid_until.is_not(None), verdicts.c.valid_until <= clock.now())
    result = sa.case((expired, str(Result.UNKNOWN)), else_=verdicts.c.result)
    key = verdicts.c.criterion if by is By.CRITERION else devices.c[str(by)]
    joined = devices.outerjoin(verdicts, verdicts.c.device_id == devices.c.id)
    if by is By.CRITERION:
        joined = devices.join(verdicts, verdicts.c.device_id == devices.c.id)
    query = (
        sa.select(
            key.label("key"),
            sa.func.count(sa.distinct(devices.c.id)).label("devices"),
            sa.func.count(sa.distinct(verdicts.c.device_id)).label("assessed"),
            *(sa.func.coalesce(sa.func.sum(sa.case((result == str(r), 1), else_=0)), 0).label(str(r)) for r in Result),
        )
        .select_from(joined)
        .where(devices.c.state != "retired")
        .group_by(key)
        .order_by(key)
    )
    return [dict(row) for row in connection.execute(scope(principal, query, devices.c.vendor)).mappings()]
