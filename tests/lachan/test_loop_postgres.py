"""Scripts on PostgreSQL from an event loop (ADR 0036): a unit each, no thread, COMMIT with the last statements, one more try."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from lachan.database import Database
from lachan.errors import DatabaseAway
from lachan.loop_postgres import MOST, LoopScripts, _ear
from lachan.scripts import Last, Script
from lachan.statements import Statement, missed
from tests.lachan.test_units_postgresql import db, rows, url  # noqa: F401 - fixtures

pytestmark = pytest.mark.interop
BUMP = Statement(rows.update().where(rows.c.id == sa.bindparam("row")).values(n=rows.c.n + 1))
MUST = Statement(rows.update().where(rows.c.id == sa.bindparam("row")).values(n=rows.c.n + 1), exact=True)
READ = Statement(sa.select(rows.c.n).where(rows.c.id == sa.bindparam("row")))
LOCK = Statement(sa.select(rows.c.id).where(rows.c.id == sa.bindparam("row")).with_for_update())
END = Statement(sa.select(sa.func.pg_terminate_backend(sa.func.pg_backend_pid())))


def bumped(row: int, *, last: bool = True, fails: bool = False) -> Script[int]:
    (before,) = yield [(READ, {"row": row})]
    call = [(BUMP, {"row": row})]
    yield Last(call) if last else call
    if fails:
        raise KeyError
    return before.rows[0].n


def seen(row: int) -> Script[int]:
    (found,) = yield [(READ, {"row": row})]
    return found.rows[0].n


def value(db: Database, row: int) -> int:  # noqa: F811
    with db.read() as c:
        return c.execute(sa.select(rows.c.n).where(rows.c.id == row)).scalar_one()


def looped(db: Database, what: Callable[[LoopScripts], Coroutine[Any, Any, Any]]) -> Any:  # noqa: F811
    async def run() -> Any:
        scripts = LoopScripts(db)
        try:
            return await what(scripts)
        finally:
            scripts.close()

    return asyncio.run(run())


def test_units_are_kept_with_their_last_statements_or_at_their_end(db: Database) -> None:  # noqa: F811
    async def ask(scripts: LoopScripts) -> None:
        assert await scripts.unit(partial(bumped, 1)) == 0
        assert value(db, 1) == 1
        assert await scripts.unit(partial(bumped, 1, last=False)) == 1
        assert value(db, 1) == 2
        threads = threading.active_count()
        await asyncio.gather(*(scripts.unit(partial(bumped, 1 + n % 2)) for n in range(40)))
        assert threading.active_count() <= threads + MOST, "only opening a connection takes a thread"
        assert await scripts.look(partial(seen, 1)) == 22

    looped(db, ask)
    assert (value(db, 1), value(db, 2)) == (22, 20)


def test_a_script_that_raises_writes_nothing_and_leaves_its_connection_in_order(db: Database) -> None:  # noqa: F811
    async def ask(scripts: LoopScripts) -> None:
        failed = await asyncio.gather(
            *(scripts.unit(partial(bumped, 1, last=False, fails=True)) for _ in range(3 * MOST)), return_exceptions=True
        )
        assert {type(error) for error in failed} == {KeyError}
        assert await scripts.unit(partial(bumped, 1)) == 0

    looped(db, ask)
    assert value(db, 1) == 1


def test_a_statement_that_must_meet_a_row_keeps_the_commit_that_left_with_it(db: Database) -> None:  # noqa: F811
    def script(row: int) -> Script[int]:
        done = yield Last([(BUMP, {"row": 1}), (MUST, {"row": row})])
        return done[1].count

    async def ask(scripts: LoopScripts) -> None:
        with pytest.raises(sa.exc.DBAPIError) as failed:
            await scripts.unit(partial(script, 99))
        assert missed(failed.value)
        assert value(db, 1) == 0
        assert await scripts.unit(partial(script, 2)) == 1

    looped(db, ask)
    assert (value(db, 1), value(db, 2)) == (1, 1)


def test_no_deadlock_reaches_who_asked(db: Database) -> None:  # noqa: F811
    def crossed(first: int, second: int) -> Script[None]:
        yield [(BUMP, {"row": first})]
        yield [(READ, {"row": first})]
        yield [(BUMP, {"row": second})]

    async def ask(scripts: LoopScripts) -> None:
        for _ in range(30):
            await asyncio.gather(scripts.unit(partial(crossed, 1, 2)), scripts.unit(partial(crossed, 2, 1)))

    looped(db, ask)
    assert (value(db, 1), value(db, 2)) == (60, 60)


def test_the_loop_goes_on_while_a_lock_is_waited_for_and_who_goes_away_leaves_nothing(db: Database) -> None:  # noqa: F811
    def waits() -> Script[None]:
        yield [(LOCK, {"row": 1})]
        yield Last([(BUMP, {"row": 1})])

    async def ask(scripts: LoopScripts) -> None:
        with db.write() as c:
            c.execute(sa.select(rows).where(rows.c.id == 1).with_for_update())
            asked, gone = (asyncio.create_task(scripts.unit(waits)) for _ in range(2))
            began = time.monotonic()
            for _ in range(10):
                await asyncio.sleep(0.01)
            assert time.monotonic() - began < 1
            assert not asked.done()
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
        await asked
        await asyncio.gather(*(scripts.unit(partial(bumped, 2)) for _ in range(3 * MOST)))

    looped(db, ask)
    assert (value(db, 1), value(db, 2)) == (1, 3 * MOST)


def test_a_connection_that_the_server_ends_is_told_of_and_replaced(db: Database) -> None:  # noqa: F811
    def ended(*before: Any) -> Script[None]:
        yield [*before, (END, {})]

    async def ask(scripts: LoopScripts) -> None:
        with pytest.raises(DatabaseAway):
            await scripts.unit(partial(ended, (BUMP, {"row": 1})))
        with pytest.raises(DatabaseAway):
            await scripts.look(ended)
        assert await scripts.unit(partial(bumped, 1)) == 0
        assert await scripts.look(partial(seen, 1)) == 1
        with db.write() as c:  # all that rest
            c.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        resting = [*scripts._units._idle, *scripts._looks._idle]
        async with asyncio.timeout(10):
            while not all(_ear(connection).lost for connection in resting):  # noqa: ASYNC110 - the kernel tells
                await asyncio.sleep(0.01)
        assert await scripts.unit(partial(bumped, 1)) == 1
        assert await scripts.look(partial(seen, 1)) == 2

    looped(db, ask)


def test_a_script_asks_for_nothing_after_its_last_statements(db: Database) -> None:  # noqa: F811
    def goes_on() -> Script[None]:
        yield Last([(READ, {"row": 1})])
        yield [(BUMP, {"row": 1})]

    async def ask(scripts: LoopScripts) -> None:
        with pytest.raises(RuntimeError):
            await scripts.unit(goes_on)

    looped(db, ask)
    assert value(db, 1) == 0
