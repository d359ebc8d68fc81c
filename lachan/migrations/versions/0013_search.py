"""The registry is searched by a folded text behind a trigram index, so that "ba dinh" finds "Ba Đình"."""

import sqlalchemy as sa
from alembic import op

from lachan.devices import search

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

PAGE = 5000


def upgrade() -> None:
    """Add the column and its index, and fold what is there."""
    op.add_column("devices", sa.Column("folded", sa.Text(), nullable=False, server_default=""))
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        for statement in search.SQLITE[:-1]:  # the last would follow each of the changes that come now
            connection.exec_driver_sql(statement)
    _fold(connection)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(
            f"INSERT INTO {search.TABLE} (folded, device_id) SELECT folded, id FROM devices ORDER BY id"
        )
        connection.exec_driver_sql(search.SQLITE[-1])
        op.create_index("ix_devices_name_folded", "devices", ["name", "folded"])
        return
    connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    connection.exec_driver_sql("ALTER TABLE devices ALTER COLUMN folded SET STATISTICS 0")
    op.create_index(
        "ix_devices_folded", "devices", ["folded"], postgresql_using="gin", postgresql_ops={"folded": "gin_trgm_ops"}
    )


def _fold(connection: sa.Connection) -> None:
    devices = sa.Table("devices", sa.MetaData(), autoload_with=connection)
    columns = [devices.c.id, *(devices.c[name] for name in search.FIELDS)]
    write = devices.update().where(devices.c.id == sa.bindparam("one")).values(folded=sa.bindparam("text"))
    last = ""
    while rows := connection.execute(
        sa.select(*columns).where(devices.c.id > last).order_by(devices.c.id).limit(PAGE)
    ).all():
        connection.execute(write, [{"one": row.id, "text": search.folded(row._asdict())} for row in rows])
        last = rows[-1].id


def downgrade() -> None:
    """Forget the folded texts."""
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("ix_devices_name_folded", "devices")
        for name in ("insert", "delete", "update"):
            op.get_bind().exec_driver_sql(f"DROP TRIGGER {search.TABLE}_{name}")
        op.get_bind().exec_driver_sql(f"DROP TABLE {search.TABLE}")
    else:
        op.drop_index("ix_devices_folded", "devices")
    op.drop_column("devices", "folded")
