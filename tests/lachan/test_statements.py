"""Statements compiled once mean what the same Core means to SQLAlchemy, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from lachan.database import BigSerial, Database, Json, UtcDateTime
from lachan.errors import Unavailable
from lachan.statements import Statement, later, pipeline
from tests.support import postgresql

tables = sa.MetaData()
things = sa.Table(
    "things",
    tables,
    sa.Column("id", BigSerial, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(40), nullable=False, unique=True),
    sa.Column("at", UtcDateTime),
    sa.Column("body", Json),
    sa.Column("raw", sa.LargeBinary),
    sa.Column("on", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("count", sa.Integer, nullable=False, server_default="0"),
)
T, b = things.c, sa.bindparam
insert = Statement(things.insert(), columns=("name", "at", "body", "raw", "on"))
by_name = Statement(sa.select(things).where(T.name == b("name")))
named = Statement(sa.select(T.name).order_by(T.name))
count = Statement(things.update().where(T.name == b("who"), T.count < 3).values(count=T.count + 1))
numbered = Statement(things.insert().returning(T.id), columns=("name",))
VALUES = {
    "name": "a",
    "at": datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
    "body": {"ü": [1, None]},
    "raw": b"\0%s?",
    "on": True,
}
NAIVE = datetime.fromisoformat("2026-01-01 00:00")


@pytest.fixture(scope="module")
def socket_folder() -> Iterator[str]:
    with postgresql.cluster() as folder:
        yield folder


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.interop)])
def db(request: pytest.FixtureRequest, data: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        found = Database(f"sqlite:///{data / 'x.db'}")
        tables.create_all(found.engine)
        yield found
        found.close()
        return
    with postgresql.database(request.getfixturevalue("socket_folder")) as url:
        found = Database(url)
        tables.create_all(found.engine)
        yield found
        found.close()


def test_what_a_statement_writes_both_ways_read_alike(db: Database) -> None:
    with db.write() as c:
        assert insert.execute(c, **VALUES) == 1
        c.execute(things.insert().values(**VALUES | {"name": "b"}))
    with db.read() as c:
        for name in ("a", "b"):
            core = c.execute(sa.select(things).where(T.name == name)).one()
            ours = by_name.first(c, name=name)
            assert tuple(ours) == tuple(core)
            assert (ours.name, ours.at, ours.body, ours.raw, ours.on) == tuple((VALUES | {"name": name}).values())
            assert ours.at.tzinfo is not None and ours.on is True
        stored = c.execute(sa.text("SELECT at FROM things ORDER BY name")).scalars().all()
        assert stored[0] == stored[1]


def test_none_is_null_and_other_zones_are_converted(db: Database) -> None:
    hanoi = datetime(2026, 1, 2, 10, 0, tzinfo=timezone(timedelta(hours=7)))
    nothing = {"at": None, "body": None, "raw": None, "on": False}

    def unit(c: sa.Connection) -> None:
        insert.execute(c, name="none", **nothing)
        insert.execute(c, **VALUES | {"name": "hanoi", "at": hanoi})

    db.run(unit)
    with db.read() as c:
        row = by_name.first(c, name="none")
        assert (row.at, row.body, row.raw, row.on) == (None, None, None, False)
        assert by_name.first(c, name="hanoi").at == hanoi
        assert by_name.first(c, name="nobody") is None
        assert named.scalar(c) == "hanoi"
        assert [row.name for row in named.all(c)] == ["hanoi", "none"]


def test_a_naive_moment_is_refused(db: Database) -> None:
    with pytest.raises((ValueError, sa.exc.StatementError)), db.write() as c:
        insert.execute(c, **VALUES | {"at": NAIVE})


def test_changed_rows_are_counted_and_new_keys_returned(db: Database) -> None:
    with db.write() as c:
        first, second = (numbered.scalar(c, name=name) for name in "xy")
        assert second == first + 1
        assert [count.execute(c, who="x") for _ in range(4)] == [1, 1, 1, 0]
        assert insert.many(c, [VALUES | {"name": f"n{n}"} for n in range(5)]) == 5
    with db.read() as c:
        assert len(named.all(c)) == 7


def test_errors_are_those_of_sqlalchemy(db: Database) -> None:
    with db.write() as c:
        insert.execute(c, **VALUES)
    for way in (
        lambda c: insert.execute(c, **VALUES),
        lambda c: insert.many(c, [VALUES]),
        lambda c: pipeline(c, [(count, {"who": "a"}), (insert, VALUES)]),
    ):
        with pytest.raises(sa.exc.IntegrityError):
            db.run(way)
    with db.read() as c:
        assert by_name.first(c, name="a").count == 0  # the pipeline's first statement is gone with its second


def test_a_pipeline_gives_each_its_count_and_rows(db: Database) -> None:
    with db.write() as c:
        done = pipeline(
            c,
            [
                (insert, VALUES),
                (count, {"who": "a"}),
                (count, {"who": "nobody"}),
                (named, {}),
                (numbered, {"name": "z"}),
            ],
        )
    assert [one.count for one in done[:3]] == [1, 1, 0]
    assert [row.name for row in done[3].rows] == ["a"]
    assert done[4].rows[0].id > 0


@contextmanager
def wire(db: Database, file: Path) -> Iterator[list[str]]:
    """The kinds of message that the one connection of a pool sends and gets, as libpq tells them."""
    kinds: list[str] = []
    with db.engine.connect() as c, file.open("w+") as trace:
        pgconn = c.connection.driver_connection.pgconn  # type: ignore[union-attr]
        c.close()
        pgconn.trace(trace.fileno())
        yield kinds
        pgconn.untrace()
        trace.seek(0)
        kinds += [words[3] for line in trace if len(words := line.rstrip().split("\t")) > 3]


@pytest.fixture
def single(socket_folder: str) -> Iterator[Database]:
    with postgresql.database(socket_folder) as url:
        db = Database(url, pool_size=1)
        tables.create_all(db.engine)
        yield db
        db.close()


@pytest.mark.interop
def test_a_pipeline_is_one_flush_on_postgresql_and_begins_in_it(single: Database, tmp_path: Path) -> None:
    with wire(single, tmp_path / "trace") as kinds, single.write() as c:
        pipeline(c, [(insert, VALUES), (count, {"who": "a"}), (named, {})])
    assert kinds.count("Execute") == 4
    assert kinds.count("Sync") == 1
    assert kinds.count("Query") == 1  # COMMIT


@pytest.mark.interop
def test_what_is_prepared_on_postgresql_outlives_rollbacks_and_failures(single: Database, tmp_path: Path) -> None:
    with single.write() as c:
        pipeline(c, [(insert, VALUES), (named, {}), (count, {"who": "a"})])
    for _ in range(8):  # psycopg prepares what it has run five times, and would deallocate all at a rollback
        with single.read() as c:
            c.execute(sa.select(T.id).where(T.name == "a")).all()
    with pytest.raises(sa.exc.IntegrityError):
        single.run(lambda c: insert.execute(c, **VALUES))
    with wire(single, tmp_path / "trace") as kinds, single.write() as c:
        pipeline(c, [(insert, VALUES | {"name": "b"}), (named, {}), (count, {"who": "a"})])
    assert kinds.count("Parse") == 1  # BEGIN


@pytest.mark.interop
def test_what_failed_to_be_prepared_is_prepared_the_next_time(single: Database) -> None:
    late = Statement(sa.select(things.c.id, sa.literal_column("later.x")).select_from(things, sa.text("later")))
    with pytest.raises(sa.exc.ProgrammingError):
        single.run(lambda c: pipeline(c, [(late, {}), (named, {})]))
    with single.write() as c:
        c.execute(sa.text("CREATE TABLE later (x int)"))
    with single.write() as c:
        assert pipeline(c, [(late, {}), (named, {})]) is not None


@pytest.mark.interop
def test_a_reading_on_postgresql_begins_nothing_and_keeps_nothing(single: Database, tmp_path: Path) -> None:
    with wire(single, tmp_path / "trace") as kinds, single.read() as c:
        assert named.all(c) == []
    assert kinds.count("Sync") == 1
    assert "Query" not in kinds  # neither BEGIN nor ROLLBACK
    with single.read() as c:
        insert.execute(c, **VALUES)
        assert len(named.all(c)) == 1
    with single.read() as c:
        assert named.all(c) == []


def test_what_can_wait_keeps_its_order_and_is_there_for_all_that_reads(db: Database) -> None:
    doubled = Statement(things.update().values(count=T.count * 2))

    def unit(c: sa.Connection) -> None:
        later(c, [(insert, VALUES), (count, {"who": "a"})], last=[(count, {"who": "b"}), (count, {"who": "b"})])
        assert by_name.first(c, name="a").count == 1  # a compiled statement
        later(c, [(doubled, {}), (insert, VALUES | {"name": "b"})])
        assert c.execute(sa.select(T.count).where(T.name == "a")).scalar_one() == 2  # SQLAlchemy's
        with c.begin_nested():
            later(c, [(count, {"who": "a"})])
        later(c, [(doubled, {})])

    db.run(unit)
    with db.read() as c:
        assert {row.name: row.count for row in c.execute(sa.select(things))}["a"] == 6
        again = by_name.first(c, name="b").count
    assert again == (1 if db.dialect == "postgresql" else 0)  # at the end and once; on SQLite where it stands


def test_what_could_wait_and_fails_undoes_its_unit(db: Database) -> None:
    db.run(lambda c: later(c, [(insert, VALUES)]))
    with pytest.raises(sa.exc.IntegrityError):
        db.run(lambda c: later(c, [(insert, VALUES | {"name": "b"}), (insert, VALUES)]))

    def gives_up(c: sa.Connection) -> None:
        later(c, [(insert, VALUES | {"name": "c"})])
        raise KeyError("planted")

    with pytest.raises(KeyError):
        db.run(gives_up)
    db.run(lambda c: later(c, [(count, {"who": "a"})]))  # nothing is left of those before
    with db.read() as c:
        assert [(row.name, row.count) for row in c.execute(sa.select(things))] == [("a", 1)]


@pytest.mark.interop
def test_a_unit_of_what_can_wait_is_one_flush_on_postgresql(single: Database, tmp_path: Path) -> None:
    def unit(c: sa.Connection) -> None:
        later(c, [(insert, VALUES)])
        later(c, [(count, {"who": "a"})], last=[(count, {"who": "a"})])

    with wire(single, tmp_path / "trace") as kinds:
        single.run(unit)
    assert (kinds.count("Execute"), kinds.count("Sync"), kinds.count("Query")) == (5, 1, 0)


@pytest.mark.interop
def test_thousands_of_rows_leave_in_one_flush(single: Database) -> None:
    with single.write() as c:  # more than either end keeps: it reads while it writes
        assert insert.many(c, [VALUES | {"name": f"n{n}", "raw": b"x" * 1000} for n in range(5000)]) == 5000


@pytest.mark.interop
def test_a_lost_connection_is_told_and_the_next_unit_has_another(single: Database) -> None:
    def dies(c: sa.Connection) -> None:
        pid = c.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
        with single.engine.connect() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        named.all(c)

    single.engine.pool._max_overflow = 1  # type: ignore[attr-defined]
    with pytest.raises(Unavailable):
        single.run(dies)
    single.run(named.all)


@pytest.mark.interop
def test_a_zero_character_is_refused_before_anything_is_sent(single: Database) -> None:
    def unit(c: sa.Connection) -> None:
        with pytest.raises(sa.exc.DataError):
            insert.execute(c, **VALUES | {"name": "a\0b"})
        insert.execute(c, **VALUES)

    single.run(unit)


def test_names_must_fit(db: Database) -> None:
    with db.read() as c:
        with pytest.raises(TypeError, match="wanted"):
            by_name.first(c)
        with pytest.raises(TypeError, match="wanted"):
            by_name.first(c, name="a", nmae="b")


def test_what_cannot_be_compiled_once_is_refused(db: Database) -> None:
    with db.read() as c, pytest.raises(TypeError, match="list"):
        Statement(sa.select(things).where(T.name.in_(b("names", expanding=True)))).all(c, names=["a"])


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)  # PostgreSQL: a snapshot per statement, as with Core
def test_reads_of_one_block_see_one_snapshot(db: Database) -> None:
    with db.read() as c:
        assert named.all(c) == []
        db.run(lambda w: insert.execute(w, **VALUES))
        assert named.all(c) == []
    with db.read() as c:
        assert len(named.all(c)) == 1
