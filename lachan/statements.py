"""Hot statements: SQLAlchemy Core is the language, the driver's cursor the way (ADR 0021).

Building, hashing and looking up a Core expression costs 124-427 µs a statement, the driver 6-23 (measured on SQLite). A
`Statement` is compiled once per database to text, the order of its parameters and the conversions of its column types both
ways, and then runs in the transaction of the connection it is given. `pipeline` sends several at once on PostgreSQL. Worth
it where a request has more than about five statements; everywhere else Core as it is.

Limits: what takes part in a statement is fixed when it is made: no ``IN`` over a list of unknown length (compare with
``= ANY``, or page), no Python-side column defaults. None is NULL in a JSON column, too.
"""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

import orjson
import sqlalchemy as sa

from lachan.database import WAITING, UtcDateTime

Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class Compiled:
    """A statement for one database.

    Attributes:
        text: as the driver takes it.
        fixed: the parameters in order, those that a call gives still None.
        given: for each parameter that a call gives: its place, its name, its conversion.
        names: what a call must give.
        row: makes a row of what the driver fetched; None if the statement returns none.
        columns: of a row: place and conversion of those that need one.
        looks: it changes and locks nothing.
    """

    text: str
    fixed: tuple[Any, ...]
    given: tuple[tuple[int, str, Convert | None], ...]
    names: frozenset[str]
    row: Convert | None
    columns: tuple[tuple[int, Convert], ...]
    looks: bool

    def parameters(self, binds: Mapping[str, Any]) -> list[Any]:
        """Give the driver's parameters.

        Raises:
            TypeError: a name is missing, or is none of the statement's.
        """
        if binds.keys() != self.names:
            raise TypeError(f"wanted {sorted(self.names)}, given {sorted(binds)}: {self.text}")
        found = list(self.fixed)
        for place, name, convert in self.given:
            value = binds[name]
            found[place] = value if convert is None or value is None else convert(value)
        return found

    def rows(self, fetched: Iterable[Sequence[Any]]) -> list[Any]:
        """Make named tuples of Python values of what the driver fetched."""
        assert self.row is not None
        if not self.columns:
            return [self.row(values) for values in fetched]
        found = []
        for values in fetched:
            converted = list(values)
            for place, convert in self.columns:
                if converted[place] is not None:
                    converted[place] = convert(converted[place])
            found.append(self.row(converted))
        return found


class Statement:
    """One statement, written once in Core and run many times.

    Args:
        core: select, insert, update or delete; its named binds (`sqlalchemy.bindparam`) are the arguments of a call. Where
            the databases differ: a function that makes it for a dialect's name.
        columns: for an insert without values of its own: the columns that a call gives.
        exact: an update that must meet a row. On PostgreSQL one that meets none is an error (`missed`), so that a COMMIT
            sent along with it does not happen; its count is 1 in any case. On SQLite its count tells.
    """

    def __init__(self, core: Any, *, columns: Sequence[str] = (), exact: bool = False) -> None:
        self._core, self._columns, self._exact = core, list(columns), exact
        self._compiled: dict[str, Compiled] = {}

    def execute(self, connection: sa.Connection, **binds: Any) -> int:
        """Run it and tell how many rows it changed.

        Raises:
            sqlalchemy.exc.DBAPIError: as by SQLAlchemy, IntegrityError among them.
        """
        return pipeline(connection, [(self, binds)])[0].count

    def many(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it for each of the rows in one call of the driver and tell how many rows it changed in all."""
        if connection.dialect.name == "postgresql":
            return sum(done.count for done in pipeline(connection, [(self, row) for row in rows]))
        compiled = self.compiled(connection)
        parameters = [compiled.parameters(row) for row in rows]
        try:
            count: int = _driver(connection).executemany(compiled.text, parameters).rowcount
        except connection.dialect.loaded_dbapi.Error as error:
            raise translated(connection, compiled.text, parameters, error) from error
        return count

    def all(self, connection: sa.Connection, **binds: Any) -> list[Any]:
        """Run it and give its rows, named tuples with the columns' Python values."""
        return list(pipeline(connection, [(self, binds)])[0].rows)

    def first(self, connection: sa.Connection, **binds: Any) -> Any:
        """Run it and give the first row, or None."""
        if connection.dialect.name == "postgresql":
            rows = self.all(connection, **binds)
            return rows[0] if rows else None
        compiled = self.compiled(connection)
        fetched = _run(connection, compiled, binds).fetchmany(1)
        return compiled.rows(fetched)[0] if fetched else None

    def scalar(self, connection: sa.Connection, **binds: Any) -> Any:
        """Run it and give the first column of the first row, or None."""
        row = self.first(connection, **binds)
        return None if row is None else row[0]

    def compiled(self, connection: sa.Connection) -> Compiled:
        """Give the statement for the database of a connection, made at the first call."""
        name = connection.dialect.name
        found = self._compiled.get(name)
        if found is None:
            core = self._core(name) if callable(self._core) else self._core
            guarded = self._exact and name == "postgresql"
            found = _compile(_one_or_fail(core) if guarded else core, self._columns, name)
            self._compiled[name] = found = replace(found, looks=found.looks and not guarded)
        return found


Call = tuple[Statement, Mapping[str, Any]]  # a statement and its arguments


@dataclass(frozen=True)
class Done:
    """What came of one statement of a pipeline: rows changed, and rows returned."""

    count: int
    rows: Sequence[Any]


_NO_ROWS: Sequence[Any] = ()


def pipeline(connection: sa.Connection, calls: Sequence[Call]) -> list[Done]:
    """Run several statements, on PostgreSQL all in one flush: no one's arguments may depend on another's result.

    Raises:
        sqlalchemy.exc.DBAPIError: the first that failed; those after it did not run.
    """
    made = [(call.compiled(connection), binds) for call, binds in calls]
    if connection.dialect.name == "sqlite":
        driver = _driver(connection)
        return [_done(compiled, _run(connection, compiled, binds, driver)) for compiled, binds in made]
    return _flushed(connection, [(compiled, compiled.parameters(binds)) for compiled, binds in made]) if made else []


def later(
    connection: sa.Connection,
    calls: Sequence[Call] = (),
    *,
    last: Sequence[Call] = (),
) -> None:
    """Run statements whose answer nobody needs; in a unit on PostgreSQL they leave with its next flush, in their order.

    Args:
        connection: an open connection.
        calls: the statements.
        last: those that wait until right before COMMIT (what they lock is in no lock order); the same one runs once.

    Raises:
        sqlalchemy.exc.DBAPIError: as of `pipeline`; in such a unit it may come from a later call, or from its end.
    """
    if connection.dialect.name == "sqlite" or not connection.get_execution_options().get("lachan_write"):
        pipeline(connection, [*calls, *last])
        return
    waiting = connection.info.get(WAITING)
    if waiting is None:
        waiting = connection.info[WAITING] = _Waiting()
    waiting.calls += [(call.compiled(connection), call.compiled(connection).parameters(binds)) for call, binds in calls]
    for call, binds in last:
        made = (call.compiled(connection), call.compiled(connection).parameters(binds))
        waiting.last += [made] if made not in waiting.last else []


class _Waiting:
    """What a unit on PostgreSQL has not sent yet; `Database` has it sent before anything else runs, and at the end."""

    def __init__(self) -> None:
        self.calls: list[tuple[Compiled, list[Any]]] = []
        self.last: list[tuple[Compiled, list[Any]]] = []

    def send(self, connection: sa.Connection) -> None:
        """Send what waits for its turn."""
        if self.calls:
            _flushed(connection, [])

    def finish(self, connection: sa.Connection) -> None:
        """Send all, and COMMIT with it."""
        self.calls += self.last
        self.last = []
        _flushed(connection, [], commit=True)


def _run(connection: sa.Connection, compiled: Compiled, binds: Mapping[str, Any], driver: Any = None) -> Any:
    """Run a statement on SQLite; gives the driver's cursor."""
    parameters = compiled.parameters(binds)
    try:
        return (driver or _driver(connection)).execute(compiled.text, parameters)
    except connection.dialect.loaded_dbapi.Error as error:
        raise translated(connection, compiled.text, parameters, error) from error


def _done(compiled: Compiled, cursor: Any) -> Done:
    return Done(cursor.rowcount, compiled.rows(cursor.fetchall()) if compiled.row else _NO_ROWS)


def _flushed(connection: sa.Connection, made: list[tuple[Compiled, list[Any]]], *, commit: bool = False) -> list[Done]:
    """Run statements on PostgreSQL, after those that wait.

    A reading that only looks begins no transaction: each statement has a snapshot of its own there anyway.
    """
    from lachan import prepared

    driver = _driver(connection)
    driver.prepare_threshold = None  # what psycopg prepares takes ours away with it: it deallocates all
    before: list[tuple[Compiled, list[Any]]] = []
    if (waiting := connection.info.get(WAITING)) is not None:
        before, waiting.calls = waiting.calls, []
    every = [*before, *made]
    looks = connection.get_execution_options().get("lachan_read") and all(compiled.looks for compiled, _ in made)
    try:
        found = prepared.flush(
            driver, connection.info.setdefault(prepared.KNOWN, set()),
            [(compiled.text, parameters) for compiled, parameters in every], begin=not looks, commit=commit,
        )  # fmt: skip
    except connection.dialect.loaded_dbapi.Error as error:
        raise translated(connection, every[0][0].text if every else "COMMIT", None, error) from error
    return [
        Done(count, compiled.rows(rows) if compiled.row else [])
        for (compiled, _), (count, rows) in list(zip(every, found, strict=True))[len(before) :]
    ]


def insert_new(table: sa.Table, *columns: str, index: Sequence[str]) -> Statement:
    """Give an insert that changes no row if there is one with the same ``index`` columns; its count tells."""

    def core(name: str) -> Any:
        if name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert
        else:
            from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
        return insert(table).on_conflict_do_nothing(index_elements=list(index))

    return Statement(core, columns=columns)


def insert_or_replace(table: sa.Table, *columns: str, index: Sequence[str]) -> Statement:
    """Give an insert that gives the row with the same ``index`` columns, if there is one, the new values."""

    def core(name: str) -> Any:
        if name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert
        else:
            from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
        made = insert(table)
        return made.on_conflict_do_update(
            index_elements=list(index), set_={name: made.excluded[name] for name in columns if name not in index}
        )

    return Statement(core, columns=columns)


def among(dialect: str, column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """Compare a column with a list of texts that a call gives as `listed`: one statement, whatever the length."""
    if dialect == "sqlite":
        each = sa.func.json_each(sa.bindparam(name, type_=sa.Text)).table_valued("value")
        return column.in_(sa.select(each.c.value))
    from sqlalchemy.dialects.postgresql import ARRAY

    return column == sa.any_(sa.bindparam(name, type_=ARRAY(sa.String)))


def listed(dialect: str, values: Iterable[str]) -> Any:
    """Give a list of texts as the argument of a statement that has it by `among`."""
    return orjson.dumps(list(values)).decode() if dialect == "sqlite" else list(values)


def missed(error: sa.exc.DBAPIError) -> bool:
    """Tell whether a statement met no row that had to (`Statement`'s ``exact``)."""
    return getattr(error.orig, "sqlstate", None) == "22012"


def _one_or_fail(core: Any) -> Any:
    met = core.returning(sa.literal_column("1")).cte("met")
    return sa.select(sa.literal_column("1 / count(*)")).select_from(met)


def _driver(connection: sa.Connection) -> Any:
    if not connection.in_transaction():
        connection.begin()  # or SQLite would give every statement a snapshot of its own
    return connection.connection.driver_connection


def translated(connection: sa.Connection, text: str, parameters: Any, error: Exception) -> BaseException:
    """Give a driver's error as SQLAlchemy gives it."""
    dialect = connection.dialect
    return sa.exc.DBAPIError.instance(
        text, parameters, error, dialect.loaded_dbapi.Error,
        connection_invalidated=dialect.is_disconnect(error, connection.connection.dbapi_connection, None),  # type: ignore[arg-type]
        dialect=dialect, hide_parameters=True,
    )  # fmt: skip


@cache
def _dialect(name: str) -> sa.Dialect:
    """Give a dialect with parameters by place; each costs a quarter of a second to import."""
    if name == "sqlite":
        from sqlalchemy.dialects.sqlite.pysqlite import dialect as sqlite

        return sqlite()
    from sqlalchemy.dialects.postgresql.psycopg import dialect as postgresql

    return postgresql(paramstyle="format")  # type: ignore[no-untyped-call]


def _compile(core: Any, columns: list[str], name: str) -> Compiled:
    dialect = _dialect(name)
    core = core(name) if callable(core) else core
    if core.is_insert and not core._returning:  # else PostgreSQL returns the new key, which nobody reads
        core = core.inline()
    compiled = core.compile(dialect=dialect, column_keys=columns or None)
    if compiled.insert_prefetch or compiled.update_prefetch or compiled.post_compile_params:
        raise TypeError(f"no Python-side default and no list may be part of a compiled statement: {compiled}")
    order = compiled.positiontup or []
    asked = {key for key, bind in compiled.binds.items() if bind.required or key in columns}
    converts = {key: _bind(compiled.binds[key].type, dialect) for key in order}
    result = compiled._result_columns  # the types of what comes back
    row: Any = namedtuple("Row", [column.keyname for column in result], rename=True) if result else None  # noqa: PYI024
    fixed = []
    for key in order:
        value, convert = compiled.params.get(key), converts[key]
        fixed.append(None if key in asked else value if convert is None or value is None else convert(value))
    return Compiled(
        compiled.string,
        tuple(fixed),
        tuple((place, key, converts[key]) for place, key in enumerate(order) if key in asked),
        frozenset(asked),
        row and row._make,
        tuple((place, convert) for place, column in enumerate(result) if (convert := _result(column.type, dialect))),
        core.is_select and core._for_update_arg is None,
    )


def _bind(kind: Any, dialect: sa.Dialect) -> Convert | None:
    if isinstance(kind, UtcDateTime):
        return _moment_to_text if dialect.name == "sqlite" else _aware
    if isinstance(kind, sa.JSON):
        return lambda value: orjson.dumps(value).decode()
    found: Convert | None = kind.dialect_impl(dialect).bind_processor(dialect)
    return found


def _result(kind: Any, dialect: sa.Dialect) -> Convert | None:
    if dialect.name == "sqlite" and isinstance(kind, UtcDateTime):
        return _moment_from_text
    if dialect.name == "sqlite" and isinstance(kind, sa.JSON):
        return orjson.loads
    found: Convert | None = kind.dialect_impl(dialect).result_processor(dialect, None)
    return found


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a naive datetime may not be stored; use lachan.clock")
    return value


@lru_cache(maxsize=256)  # a unit writes the same few moments many times
def _moment_to_text(value: datetime) -> str:
    """As `UtcDateTime` and SQLAlchemy's own storage format write it, many times quicker."""
    if value.tzinfo is not UTC:
        value = _aware(value).astimezone(UTC)
    return value.isoformat(" ", "microseconds")[:26]


def _moment_from_text(value: str) -> datetime:
    return datetime.fromisoformat(value).replace(tzinfo=UTC)
