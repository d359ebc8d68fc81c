"""Which statements code really executes, and whether a database answers them by reading a whole table.

`Recorder` hears statements at the driver, so compiled ones and those of SQLite's writer are heard, too. `scans` asks the
database how it would answer each and names the tables that it would read whole: on SQLite a ``SCAN``; on PostgreSQL a
``Seq Scan``, or a walk over an index without a condition. Neither counts over a partial index (its size is what is in it),
nor where a LIMIT without a WHERE ends it.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from lachan import prepared
from lachan.database import Database

Heard = tuple[str, Any]


class Recorder:
    """Statements with their parameters, while `on`; make it before the database is opened."""

    def __init__(self) -> None:
        self.on = False
        self.heard: list[Heard] = []
        sa.event.listen(sa.Engine, "connect", self._connected)
        self._flush, prepared.flush = (
            prepared.flush,
            self._flushed,
        )  # compiled ones on PostgreSQL go below psycopg's cursors

    def close(self) -> None:
        """Stop hearing what connects."""
        sa.event.remove(sa.Engine, "connect", self._connected)
        prepared.flush = self._flush

    def during(self, what: Callable[[], Any]) -> list[Heard]:
        """What is executed while a function runs, each text once."""
        self.heard, self.on = [], True
        try:
            what()
        finally:
            self.on = False
        return list({text: (text, given) for text, given in self.heard}.values())

    def _flushed(self, driver: Any, known: Any, calls: Sequence[Heard], **options: Any) -> Any:
        for text, given in calls:
            self._hear(text, given)
        return self._flush(driver, known, calls, **options)

    def _connected(self, connection: Any, _record: object) -> None:
        if hasattr(connection, "set_trace_callback"):
            connection.set_trace_callback(lambda text: self._hear(text, None))
            return
        hear = self._hear

        class Cursor(psycopg.Cursor[Any]):
            def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
                hear(str(query), params)
                return super().execute(query, params, **options)

            def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
                rows = list(params_seq)
                hear(str(query), rows[0] if rows else None)
                super().executemany(query, rows, **options)

        connection.cursor_factory = Cursor

    def _hear(self, text: str, given: Any) -> None:
        if self.on and re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b", text, re.IGNORECASE):
            self.heard.append((text, given))


@contextmanager
def recorder() -> Iterator[Recorder]:
    """A recorder for the length of the block."""
    made = Recorder()
    try:
        yield made
    finally:
        made.close()


def scans(db: Database, statements: Sequence[Heard]) -> list[tuple[str, str]]:
    """The tables that statements read whole: (table, statement)."""
    ask = _on_sqlite if db.dialect == "sqlite" else _on_postgresql
    with db.read() as connection:
        return [(table, text) for text, given in statements for table in ask(connection, text, given)]


def _on_sqlite(connection: sa.Connection, text: str, _given: Any) -> list[str]:
    partial = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE sql LIKE '%INDEX%WHERE%'").scalars())
    names = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
    found = []
    for row in connection.connection.driver_connection.execute("EXPLAIN QUERY PLAN " + text):  # type: ignore[union-attr]
        step = re.fullmatch(r"SCAN (\S+)(?: USING (?:COVERING )?INDEX (\S+))?.*", row[3])
        if step and step[1] in names and step[2] not in partial and not (step[2] and _ends_early(text)):
            found.append(step[1])
    return found


def _on_postgresql(connection: sa.Connection, text: str, given: Any) -> list[str]:
    partial = set(connection.exec_driver_sql(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indpred IS NOT NULL").scalars())  # fmt: skip
    cursor = psycopg.ClientCursor(connection.connection.driver_connection)  # type: ignore[arg-type]
    (plan,) = cursor.execute("EXPLAIN (FORMAT JSON) " + text, given).fetchone()  # type: ignore[misc, arg-type]
    found: list[str] = []

    def walk(node: dict[str, Any]) -> None:
        whole = node["Node Type"] == "Seq Scan" or ("Index" in node["Node Type"] and "Index Name" in node
                and "Index Cond" not in node and node["Index Name"] not in partial and not _ends_early(text))  # fmt: skip
        if whole and "Relation Name" in node:
            found.append(node["Relation Name"])
        for child in node.get("Plans", ()):
            walk(child)

    walk((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
    return found


def _ends_early(text: str) -> bool:
    return "LIMIT" in text.upper() and "WHERE" not in text.upper()
