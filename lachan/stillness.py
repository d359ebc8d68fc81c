"""Whether anything was committed since one last asked: the cheapest question that a database answers, for who asks often.

On SQLite ``PRAGMA data_version``, on PostgreSQL the present snapshot, both below SQLAlchemy: a look that finds nothing costs
a tenth of one that asks for rows. The mark is taken *before* rows are read; what is committed meanwhile is another mark.

Limits: one thread; a mark that is the same means that nothing was committed, another one does not say what was.
"""

from typing import Any

import sqlalchemy as sa

_NAME, _TEXT = b"lachan_still", b"SELECT pg_current_snapshot()::text"


class Stillness:
    """The question, on a connection of `lachan.database.Database.glances`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._driver: Any = connection.connection.driver_connection
        self._sqlite = connection.dialect.name == "sqlite"
        self._errors = connection.dialect.loaded_dbapi.Error
        self._prepared = False

    def mark(self) -> object:
        """Give the present mark; one that equals no other when the database does not answer: who then reads learns why."""
        try:
            if self._sqlite:
                return self._driver.execute("PRAGMA data_version").fetchone()[0]
            return self._snapshot()
        except self._errors:
            return object()

    def _snapshot(self) -> object:
        server = self._driver.pgconn
        if not self._prepared:
            server.prepare(_NAME, _TEXT)
            self._prepared = True
        found = server.exec_prepared(_NAME, [])
        return found.get_value(0, 0) if found.ntuples else object()
