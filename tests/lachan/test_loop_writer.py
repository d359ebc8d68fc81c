"""Units of a loop on SQLite (ADR 0036): they share what the writer's units share, and never stop the loop to wait."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import loop_writer, wal, writer
from lachan.database import Database, NestedUnit, after_commit
from lachan.errors import Unavailable
from lachan.gate import Gate
from lachan.loop_writer import LoopWriter
from tests.lachan.test_writer import POINTS, fat, fill, huge, lane, names, put, tables, waits_at_gate
from tests.support.wait import until


@pytest.fixture
def db(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    for module in (writer, loop_writer):
        monkeypatch.setattr(module, "LONGEST", 60)  # a slow machine does not split the groups that a test makes
    found = Database(f"sqlite:///{data / 'x.db'}", wait=1)
    tables.create_all(found.engine)
    yield found
    found.close()


def looped(db: Database) -> LoopWriter:
    assert db._on_loop is not None
    return db._on_loop


def running(db: Database, what: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine on a loop whose lane has its connection already, as all turns but the first find it."""

    async def first() -> Any:
        await db.arun(lambda _c: None)
        until(lambda: not looped(db)._owned.locked(), what="the end of the first turn")
        return await what()

    return asyncio.run(first())


async def all_of(db: Database, *units: Callable[[sa.Connection], Any]) -> list[Any]:
    return await asyncio.gather(*(db.arun(unit) for unit in units), return_exceptions=True)


def test_what_has_arrived_runs_on_the_loop_and_shares_one_commit(db: Database) -> None:
    where: list[int] = []

    def unit(c: sa.Connection) -> str:
        where.append(threading.get_ident())
        return put(f"{len(where)}")(c)

    def fails(c: sa.Connection) -> None:
        put("half")(c)
        raise KeyError

    async def ask() -> list[Any]:
        before = looped(db).groups
        found = await all_of(db, unit, fails, unit, unit)
        assert looped(db).groups == before + 1
        return found

    one, failed, *others = running(db, ask)
    assert where == [threading.get_ident()] * 3
    assert ([one, *others], type(failed)) == (["1", "2", "3"], KeyError)
    assert names(db) == ["1", "2", "3"]


def test_the_loop_goes_on_while_the_thread_commits_and_answers_follow(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    go, real = threading.Event(), LoopWriter._commit

    def commit(self: LoopWriter) -> sqlite3.Error | None:
        assert go.wait(30)
        return real(self)

    def unit(c: sa.Connection) -> str:
        after_commit(c, lambda: told.append("kept"))
        return put("a")(c)

    async def ask() -> None:
        monkeypatch.setattr(LoopWriter, "_commit", commit)
        asked = [asyncio.create_task(db.arun(unit)), asyncio.create_task(db.arun(put("b")))]
        for _ in range(20):
            await asyncio.sleep(0)
        later = asyncio.create_task(db.arun(put("c")))
        await asyncio.sleep(0.02)
        assert names(db) == told == []
        assert not any(task.done() for task in (*asked, later))
        go.set()
        assert await asyncio.gather(*asked, later) == ["a", "b", "c"]
        assert told == ["kept"]

    running(db, ask)
    assert names(db) == ["a", "b", "c"]
    assert looped(db).groups == 3


def test_a_group_on_the_loop_has_an_end(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        before = looped(db).groups
        monkeypatch.setattr(writer, "MOST", 2)
        await all_of(db, *(put(str(n)) for n in range(5)))
        assert looped(db).groups == before + 3
        monkeypatch.setattr(loop_writer, "LONGEST", 0)
        await all_of(db, *(put(str(n)) for n in range(5, 8)))
        assert looped(db).groups == before + 6

    running(db, ask)
    assert names(db) == [str(n) for n in range(8)]


def test_who_is_at_the_gate_is_waited_for_in_the_thread(db: Database) -> None:
    gate = Gate(Path(str(db.url.database)))

    async def ask() -> None:
        with gate.passed(urgent=False):
            asked = [asyncio.create_task(db.arun(put(name))) for name in "ab"]
            began = time.monotonic()
            for _ in range(5):
                await asyncio.sleep(0.01)
            assert time.monotonic() - began < 0.5, "the loop goes on"
            assert names(db) == []
        assert await asyncio.gather(*asked) == ["a", "b"]
        assert await db.arun(put("c")) == "c"

    running(db, ask)
    gate.close()
    assert names(db) == ["a", "b", "c"]


def test_an_urgent_one_ends_the_group_and_goes_first(db: Database) -> None:
    other = Database(str(db.url))

    async def ask() -> None:
        askers: list[threading.Thread] = []

        def announces(c: sa.Connection) -> None:
            askers.append(threading.Thread(target=lambda: other.run(put("urgent"), urgent=True)))
            askers[0].start()
            until(lambda: waits_at_gate(db), what="the urgent one at the gate")
            put("first")(c)

        await all_of(db, announces, put("ordinary"))
        askers[0].join()

    running(db, ask)
    other.close()
    assert names(db) == ["first", "urgent", "ordinary"]


def test_a_full_disk_inside_a_group_hurts_only_who_filled_it(db: Database) -> None:
    async def ask() -> list[Any]:
        def few(c: sa.Connection) -> None:
            used = c.exec_driver_sql("PRAGMA page_count").scalar_one()
            c.exec_driver_sql(f"PRAGMA max_page_count={used + 20}")

        await db.arun(few)
        return await all_of(db, put("a"), huge, put("b"))

    one, failed, two = running(db, ask)
    assert (one, two) == ("a", "b")
    assert isinstance(failed, Unavailable)
    assert sorted(names(db)) == ["a", "b"]


def test_a_commit_that_fails_has_each_unit_run_again_alone(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    commits, real = [0], LoopWriter._commit

    def commit(self: LoopWriter) -> sqlite3.Error | None:
        commits[0] += 1
        if commits[0] == 1:
            self._undo()
            return sqlite3.OperationalError("disk I/O error")
        return real(self)

    async def ask() -> list[Any]:
        monkeypatch.setattr(LoopWriter, "_commit", commit)
        return await all_of(db, put("a"), put("b"))

    assert running(db, ask) == ["a", "b"]
    assert names(db) == ["a", "b"]
    assert commits == [3]


def test_a_broken_connection_is_replaced(db: Database) -> None:
    async def ask() -> None:
        closes = lambda c: c.connection.driver_connection.close()  # noqa: E731
        assert isinstance((await all_of(db, closes))[0], Unavailable)
        assert await db.arun(put("a")) == "a"

    running(db, ask)
    assert names(db) == ["a"]


def test_a_unit_inside_a_transaction_is_refused_and_no_longer_than_that(db: Database) -> None:
    async def ask() -> None:
        found = await all_of(db, lambda _c: db.run(put("x")), lambda _c: db.write().__enter__())
        assert [type(error) for error in found] == [NestedUnit, NestedUnit]
        db.run(put("y"))

    running(db, ask)
    assert names(db) == ["y"]


def test_a_database_that_another_program_keeps_stops_no_loop(db: Database) -> None:
    other = sqlite3.connect(str(db.url.database), isolation_level=None)  # knows nothing of the gate

    async def ask() -> None:
        other.execute("BEGIN IMMEDIATE")
        asked = asyncio.create_task(db.arun(put("never")))
        began = time.monotonic()
        await asyncio.sleep(0.05)
        assert time.monotonic() - began < 0.5, "the loop goes on"
        with pytest.raises(Unavailable):
            await asked
        other.execute("ROLLBACK")
        assert await db.arun(put("later")) == "later"

    running(db, ask)
    other.close()
    assert names(db) == ["later"]


def test_who_went_away_before_his_turn_is_not_written(db: Database) -> None:
    async def ask() -> None:
        task = asyncio.create_task(db.arun(put("never")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await db.arun(put("later"))

    running(db, ask)
    assert names(db) == ["later"]


def test_another_loop_has_the_ordinary_lane_and_the_next_one_this(db: Database) -> None:
    async def ask() -> None:
        before = lane(db).groups
        await asyncio.to_thread(asyncio.run, db.arun(put("other")))
        assert lane(db).groups == before + 1

    running(db, ask)
    running(db, lambda: db.arun(put("next")))
    assert lane(db).groups == 1
    assert names(db) == ["other", "next"]


def test_a_closed_database_keeps_what_was_begun_and_takes_no_more(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, real = threading.Event(), LoopWriter._commit

    def commit(self: LoopWriter) -> sqlite3.Error | None:
        assert go.wait(30)
        return real(self)

    async def ask() -> None:
        monkeypatch.setattr(LoopWriter, "_commit", commit)
        begun = asyncio.create_task(db.arun(put("begun")))
        await asyncio.sleep(0.02)
        waits = asyncio.create_task(db.arun(put("never")))
        await asyncio.sleep(0)
        closing = threading.Thread(target=db.close)
        closing.start()
        until(lambda: looped(db)._closed, what="closing")
        go.set()
        assert await begun == "begun"
        with pytest.raises(Unavailable):
            await waits
        with pytest.raises(Unavailable):
            await db.arun(put("never"))
        await asyncio.to_thread(closing.join)

    running(db, ask)
    assert names(db) == ["begun"]


def test_the_log_is_copied_back(db: Database) -> None:
    async def ask() -> None:
        for _ in range(60):
            await db.arun(fill)

    running(db, ask)
    with db.read() as c:
        assert c.execute(sa.select(sa.func.count()).select_from(fat)).scalar_one() == 60
    assert Path(f"{db.url.database}-wal").stat().st_size < 10 * wal.FRAMES * 4096


@pytest.mark.fault
@pytest.mark.parametrize("number", [2, 9])
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_nothing_acknowledged_is_lost_and_nothing_half_done(
    db: Database, point: str, number: int
) -> None:
    words = [sys.executable, "-m", "tests.lachan.writer_child", str(db.url), point, str(number), "loop"]
    child = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=60)
    assert child.returncode == -signal.SIGKILL
    began = time.monotonic()
    db.run(put("next"))
    assert time.monotonic() - began < 5  # the gate was open
    acknowledged, found = set(child.stdout.split()), names(db)
    first, second = ({name.rpartition(".")[0] for name in found if name.endswith(end)} for end in ("first", "second"))
    assert first == second
    assert acknowledged <= first
    with db.read() as c:
        assert c.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
