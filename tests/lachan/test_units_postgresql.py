"""Units of work on PostgreSQL: a transaction each; deadlock and serialisation failures run again once, centrally."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import database
from lachan.database import Database, NestedUnit, after_commit
from lachan.errors import Unavailable
from tests.support import postgresql

pytestmark = pytest.mark.interop
tables = sa.MetaData()
rows = sa.Table(
    "rows", tables, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer, nullable=False)
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgresql.cluster() as folder, postgresql.database(folder) as found:
        made = Database(found)
        tables.create_all(made.engine)
        with made.write() as c:
            name = c.exec_driver_sql("SELECT current_database()").scalar_one()
            c.exec_driver_sql(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '5ms'")
        made.close()
        yield found


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    found = Database(url)
    with found.write() as c:
        c.execute(rows.delete())
        c.execute(rows.insert(), [{"id": 1, "n": 0}, {"id": 2, "n": 0}])
    yield found
    found.close()


def bump(c: sa.Connection, row: int) -> None:
    c.execute(rows.update().where(rows.c.id == row).values(n=rows.c.n + 1))


def state(c: sa.Connection, code: str) -> None:
    c.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{code}'; END $$")


def test_no_deadlock_reaches_a_caller(db: Database) -> None:
    rounds, ran, errors = 100, [0], []

    def crossed(order: tuple[int, int], barrier: threading.Barrier) -> None:
        first = [True]

        def unit(c: sa.Connection) -> None:
            ran[0] += 1
            bump(c, order[0])
            if first[0]:
                first[0] = False
                barrier.wait(10)  # both hold their first row: one of them has to give way
            bump(c, order[1])

        try:
            db.run(unit)
        except Exception as error:
            errors.append(error)

    for _ in range(rounds):
        barrier = threading.Barrier(2)
        threads = [threading.Thread(target=crossed, args=(order, barrier)) for order in ((1, 2), (2, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert ran[0] >= 3 * rounds  # there was a victim in every round
    with db.read() as c:
        assert c.execute(sa.select(rows.c.n)).scalars().all() == [2 * rounds] * 2


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_what_may_well_succeed_now_runs_again_once(db: Database, code: str) -> None:
    ran: list[str] = []
    began: list[float] = []

    def unit(c: sa.Connection, failures: int) -> str:
        ran.append("ran")
        began.append(time.monotonic())
        bump(c, 1)
        after_commit(c, lambda: ran.append("kept"))
        if ran.count("ran") <= failures:
            state(c, code)
        return "done"

    assert db.run(lambda c: unit(c, 1)) == "done"
    assert ran == ["ran", "ran", "kept"]
    assert began[1] - began[0] >= database.PAUSE[0]  # who won goes on first
    ran.clear()
    with pytest.raises(sa.exc.DBAPIError):
        db.run(lambda c: unit(c, 9))
    assert ran == ["ran", "ran"]
    with db.read() as c:
        assert c.execute(sa.select(rows.c.n).where(rows.c.id == 1)).scalar_one() == 1


def test_other_failures_reach_the_caller_at_once(db: Database) -> None:
    ran = [0]

    def twice(c: sa.Connection) -> None:
        ran[0] += 1
        c.execute(rows.insert().values(id=1, n=0))

    with pytest.raises(sa.exc.IntegrityError):
        db.run(twice)
    assert ran == [1]
    with pytest.raises(KeyError):
        db.run(lambda _c: {}["x"])


def test_what_follows_a_commit_never_has_the_unit_run_again(db: Database) -> None:
    ran: list[int] = []

    def unit(c: sa.Connection) -> None:
        ran.append(1)
        after_commit(c, lambda: db.run(lambda inner: state(inner, "40001")))

    with pytest.raises(sa.exc.DBAPIError):
        db.run(unit)
    assert ran == [1]


def test_a_lost_connection_is_unavailable_and_the_next_unit_runs(db: Database) -> None:
    with pytest.raises(Unavailable) as refused:
        db.run(lambda c: c.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert refused.value.fields["retry_after"] > 0
    assert db.run(lambda c: bump(c, 1)) is None


def test_no_server_is_unavailable() -> None:
    nowhere = Database("postgresql://lachan@/none?host=/nonexistent")
    with pytest.raises(Unavailable):
        nowhere.run(lambda _c: None)
    nowhere.close()


def test_a_unit_inside_a_transaction_is_refused(db: Database) -> None:
    with pytest.raises(NestedUnit):
        db.run(lambda _c: db.run(lambda _c: None))
    with pytest.raises(NestedUnit), db.write():
        db.run(lambda _c: None)


def test_units_of_a_loop(db: Database) -> None:
    async def all_of_them() -> list[Any]:
        asked = [db.arun(lambda c: bump(c, 1)) for _ in range(30)]
        return await asyncio.gather(*asked, db.arun(lambda _c: {}["x"], urgent=True), return_exceptions=True)

    found = asyncio.run(all_of_them())
    assert isinstance(found[-1], KeyError)
    with db.read() as c:
        assert c.execute(sa.select(rows.c.n).where(rows.c.id == 1)).scalar_one() == 30
