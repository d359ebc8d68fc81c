"""Find devices by a piece of what people call them: "ba dinh", "BA ĐÌNH" and its decomposed spelling find "Ba Đình".

Each device keeps one folded text of the fields that people search (`FIELDS`): no case, no marks, đ as d. A trigram index
stands behind it: FTS5 on SQLite (kept by triggers), pg_trgm on PostgreSQL (over words written together, see `JOINED`). Steps of
a search: fold what was asked → ask the index for at most `FEW` devices → if there are fewer, those are the answer; if there are
more, or less than three letters were asked, the registry is read in the order of names until a page is full, for most of what it
meets then matches.

Limits: a piece that very many devices have, all of them at the end of the alphabet, reads what stands before them; SQLite
reads an index of its own for that. A change of a searched field costs a pass over the index; no verb changes one yet.
"""

from collections.abc import Mapping
from typing import Any
from unicodedata import category, normalize

import sqlalchemy as sa

FIELDS = ("name", "serial_number", "address", "model", "ward", "place", "site")
FEW = 1000  # devices that are fetched by id and put in order
SHORTEST = 3  # letters that make a trigram
TABLE = "devices_search"
BETWEEN = "\n"  # the fields of a device; no piece holds it, so none reaches over two fields
_ROW = f"INSERT INTO {TABLE} (folded, device_id) VALUES (new.folded, new.id);"
_GONE = f"DELETE FROM {TABLE} WHERE device_id = old.id;"
_OTHER = f"UPDATE {TABLE} SET folded = new.folded WHERE device_id = old.id;"
SQLITE = (
    f"CREATE VIRTUAL TABLE {TABLE} USING fts5(folded, device_id UNINDEXED, tokenize='trigram', columnsize=0)",
    f"CREATE TRIGGER {TABLE}_insert AFTER INSERT ON devices BEGIN {_ROW} END",
    f"CREATE TRIGGER {TABLE}_delete AFTER DELETE ON devices BEGIN {_GONE} END",
    f"CREATE TRIGGER {TABLE}_update AFTER UPDATE OF folded ON devices BEGIN {_OTHER} END",
)
POSTGRESQL = ("CREATE EXTENSION IF NOT EXISTS pg_trgm",)  # trusted: the owner of the database may
# pg_trgm makes trigrams of words only: of "hoan kiem m" it knows that some word begins with m, which all models do, and reads
# a whole district. So its index stands over a text whose spaces are a letter that Vietnamese has not, and the folded text itself
# is looked at behind it.
LETTER = "j"
JOINED = f"replace(folded, ' ', '{LETTER}')"
# How many have a piece is asked, not guessed: without statistics of the texts a plan is made in a fifth of the time.
POSTGRESQL_AFTER = (
    "ALTER TABLE devices ALTER COLUMN folded SET STATISTICS 0",
    "ALTER INDEX ix_devices_folded ALTER COLUMN 1 SET STATISTICS 0",
)
# What was written since the index was last brought up to date is read by every search: 4 MB cost 5 ms, this next to nothing.
PENDING = 128  # kB
_index = sa.table(TABLE, sa.column("folded"), sa.column("device_id"))


def fold(text: str) -> str:
    """Give a text without case and marks (NFKD, Unicode 3.13), runs of white space and control characters as one space."""
    if not text.isascii():
        marked = normalize("NFKD", text.casefold())
        text = "".join(one for one in marked if category(one) != "Mn").replace("đ", "d")
    if not text.isprintable():
        text = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(text.lower().split())


def folded(fields: Mapping[str, Any]) -> str:
    """Give the folded text of a device's fields; those that are missing or None count as empty."""
    return BETWEEN.join(fold(fields.get(name) or "") for name in FIELDS)


def narrowed(
    connection: sa.Connection, query: sa.Select[Any], devices: sa.Table, asked: str, *first: sa.ColumnElement[Any]
) -> sa.Select[Any]:
    """Narrow a query over the registry to the devices that some piece of text names, and put it in the order of names.

    Args:
        connection: an open connection; the index is asked.
        query: over ``devices``, without an order.
        devices: the registry's table.
        asked: as a person wrote it; nothing but space and marks narrows nothing.
        first: what the order goes by before the name.

    Returns:
        The narrower query, in order.
    """
    piece = fold(asked)
    by_name = query.order_by(*first, devices.c.name)
    if not piece:
        return by_name
    postgresql = connection.dialect.name == "postgresql"
    if len(piece) >= SHORTEST:
        some = candidates(connection.dialect.name, devices, piece).subquery()
        gathered = sa.func.string_agg(some.c[0], ",") if postgresql else sa.func.json_group_array(some.c[0])
        count, ids = connection.execute(sa.select(sa.func.count(), gathered).select_from(some)).one()
        if count <= FEW:
            if (
                postgresql
            ):  # it would read the registry by name until it has met a page of them: have it sort them instead
                by_name = query.order_by(*first, devices.c.name + "")
            return by_name.where(_among(connection.dialect.name, devices, ids))
    at = sa.func.strpos if postgresql else sa.func.instr
    return by_name.where(at(devices.c.folded, piece) > 0)


def candidates(dialect: str, devices: sa.Table, piece: str) -> sa.Select[Any]:
    """Ask the index of a database for the ids of devices whose folded text holds a folded piece; at most `FEW` and one."""
    if dialect == "postgresql":
        return sa.select(devices.c.id).where(_holds(devices, piece)).limit(FEW + 1)
    phrase = '"' + piece.replace('"', '""') + '"'
    return sa.select(_index.c.device_id).where(sa.literal_column(TABLE).op("MATCH")(phrase)).limit(FEW + 1)


def _among(dialect: str, devices: sa.Table, ids: str | None) -> sa.ColumnElement[bool]:
    """Narrow to the ids that the database gathered in one text: a thousand of them cost more to read and write than to find."""
    if dialect == "postgresql":
        return devices.c.id == sa.any_(sa.func.string_to_array(ids or "", ","))
    each = sa.func.json_each(ids).table_valued("value")
    return devices.c.id.in_(sa.select(each.c.value))


def _holds(devices: sa.Table, piece: str) -> sa.ColumnElement[bool]:
    joined = sa.literal_column(JOINED, sa.Text).contains(piece.replace(" ", LETTER), autoescape=True)
    return sa.and_(joined, sa.func.strpos(devices.c.folded, piece) > 0)
