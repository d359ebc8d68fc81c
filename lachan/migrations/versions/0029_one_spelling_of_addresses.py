"""An address is kept in one spelling, in which log lines are compared with it, and found within its site."""

import sqlalchemy as sa
from alembic import op

from lachan.addresses import canonical
from lachan.devices import search

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

PAGE = 5000
ADDRESSED, SEEN = sa.text("address IS NOT NULL"), sa.text("seen_address IS NOT NULL")


def upgrade() -> None:
    """Write those anew that stand in another one."""
    _index("site", "vouched")
    connection = op.get_bind()
    devices = sa.Table("devices", sa.MetaData(), autoload_with=connection)
    columns = [devices.c.id, *(devices.c[name] for name in search.FIELDS)]
    last = ""
    query = sa.select(*columns).where(devices.c.address.is_not(None)).order_by(devices.c.id).limit(PAGE)
    while rows := connection.execute(query.where(devices.c.id > last)).all():
        last = rows[-1].id
        for row in rows:
            address = canonical(row.address)
            if address != row.address:
                folded = search.folded({**row._asdict(), "address": address})
                connection.execute(devices.update().where(devices.c.id == row.id).values(address=address, folded=folded))


def downgrade() -> None:
    """Leave them, the same address is meant; find them as before."""
    _index("vouched")


def _index(*columns: str) -> None:
    for name, column, some in (("ix_devices_address", "address", ADDRESSED), ("ix_devices_seen_address", "seen_address", SEEN)):
        op.drop_index(name, "devices")
        op.create_index(name, "devices", [column, *columns], sqlite_where=some, postgresql_where=some)
