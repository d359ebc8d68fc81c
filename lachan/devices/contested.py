"""Two devices of one site at one address: neither's claim takes evidence from the other, and a person is told.

Asked when devices are registered, imported or placed. Which of them evidence binds is decided where it is read
(`siem_rules.binding`): an operator's word goes before a manufacturer's, and two of equal worth bind nobody. Limits: one fact a
registration or chunk of an import, with the first `NAMED` devices; an address that a device is only seen at later is not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import sqlalchemy as sa

from lachan.devices.models import devices
from lachan.events import IdentityContested
from lachan.statements import Statement
from lachan.work import outbox

NAMED = 10
Row = tuple[str, str | None, str]  # a device's id, address and site


def tell(connection: sa.Connection, rows: Sequence[Row], *, actor: outbox.Actor) -> None:
    """Record that devices that were just written have an address which others of their site have, in the caller's transaction.

    Args:
        connection: an open transaction.
        rows: the devices.
        actor: who wrote them.
    """
    asked = [{"id": one, "address": address, "site": site} for one, address, site in rows if address]
    if not asked:
        return
    found = _OTHERS.all(connection, rows=orjson.dumps(asked).decode())
    if found:
        fact = IdentityContested(
            device_id=found[0].standing, devices=tuple(dict.fromkeys(row.standing for row in found)),
            by=tuple(dict.fromkeys(row.id for row in found)), address=found[0].address, site=found[0].site,
        )  # fmt: skip
        outbox.append(connection, fact, actor=actor)


def _others(dialect: str) -> sa.Select[tuple[str, str, str, str]]:
    names, given = ("id", "address", "site"), sa.bindparam("rows", type_=sa.Text)
    if dialect == "sqlite":
        each = sa.func.json_each(given).table_valued("value")
        new = sa.select(*(sa.func.json_extract(each.c.value, f"$.{name}").label(name) for name in names)).subquery()
    else:
        rows = sa.func.json_to_recordset(sa.cast(given, sa.JSON)).table_valued(*(sa.column(n, sa.Text) for n in names))
        new = sa.select(*rows.render_derived(name="new", with_types=True).c).subquery()
    c = devices.c
    # For each by the index of addresses within sites (which has none without one), and the first is enough: a site has thousands
    # of devices, and so may have an address.
    same = (c.address.is_not(None), c.address == new.c.address, c.site == new.c.site, c.id != new.c.id)
    standing = sa.select(c.id).where(*same).limit(1).correlate(new).scalar_subquery().label("standing")
    found = sa.select(standing, new.c.id, new.c.address, new.c.site).subquery()
    return sa.select(*found.c).where(found.c.standing.is_not(None)).limit(NAMED)


_OTHERS = Statement(_others)
