"""Each fact of the grouped writer (ADR 0021): who shares whose fate, who learns what when, who goes first."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import wal, writer
from lachan.database import Database, NestedUnit, after_commit
from lachan.errors import Unavailable
from lachan.gate import Gate
from lachan.writer import UnitWriter
from tests.support.wait import until

tables = sa.MetaData()
rows = sa.Table(
    "rows", tables, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String, unique=True)
)
fat = sa.Table("fat", tables, sa.Column("id", sa.Integer, primary_key=True), sa.Column("body", sa.LargeBinary))


@pytest.fixture
def db(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(writer, "LONGEST", 60)  # a slow machine does not split the groups that a test makes
    found = Database(f"sqlite:///{data / 'x.db'}")
    tables.create_all(found.engine)
    yield found
    found.close()


@pytest.fixture
def impatient(data: Path) -> Iterator[Database]:
    """A database whose writers wait 0.3 s."""
    found = Database(f"sqlite:///{data / 'x.db'}", wait=0.3)
    tables.create_all(found.engine)
    yield found
    found.close()


def put(name: str) -> Callable[[sa.Connection], str]:
    def unit(c: sa.Connection) -> str:
        c.execute(rows.insert().values(name=name))
        return name

    return unit


def names(db: Database) -> list[str]:
    with db.read() as c:
        return list(c.execute(sa.select(rows.c.name).order_by(rows.c.id)).scalars())


class Asker(threading.Thread):
    """A thread that asks for one unit and keeps what comes of it."""

    def __init__(self, db: Database, unit: Callable[[sa.Connection], Any], *, urgent: bool = False) -> None:
        super().__init__(daemon=True)
        self.db, self.unit, self.urgent, self.result, self.error = db, unit, urgent, None, None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.db.run(self.unit, urgent=self.urgent)
        except BaseException as error:
            self.error = error


class Held:
    """A unit that stands in the writer until it is let go."""

    def __init__(self, db: Database) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.asker = Asker(db, self)
        assert self.entered.wait(10)

    def __call__(self, c: sa.Connection) -> str:
        self.entered.set()
        assert self.go.wait(30)
        return "held"


@contextmanager
def behind(db: Database, *units: Callable[[sa.Connection], Any], urgent: tuple[int, ...] = ()) -> Iterator[list[Asker]]:
    """Askers whose units wait, in this order, until the block ends; then all of them have their answer."""
    held, askers = Held(db), []
    for number, unit in enumerate(units):
        askers.append(Asker(db, unit, urgent=number in urgent))
        if number in urgent:
            until(lambda: waits_at_gate(db), what="the urgent one at the gate")
        else:
            ordinary = sum(n not in urgent for n in range(number + 1))
            until(lambda: lane(db)._waiting.qsize() == ordinary, what="it waits in the queue")
    yield askers
    held.go.set()
    for asker in (held.asker, *askers):
        asker.join(30)
        assert not asker.is_alive()


def lane(db: Database, *, urgent: bool = False) -> UnitWriter:
    return db._lanes[urgent]


def waits_at_gate(db: Database) -> bool:
    gate = Gate(Path(str(db.url.database)))
    try:
        return gate.urgent_waits()
    finally:
        gate.close()


# ------------------------------------------------------------------------------------------------------------- groups


def test_what_waits_shares_one_commit(db: Database) -> None:
    with behind(db, put("a"), put("b"), put("c")) as askers:
        pass
    assert [asker.result for asker in askers] == ["a", "b", "c"]
    assert names(db) == ["a", "b", "c"]
    assert (lane(db).groups, lane(db).units) == (1, 4)


def test_a_unit_that_raises_takes_back_only_its_own(db: Database) -> None:
    def fails(c: sa.Connection) -> None:
        put("half")(c)
        raise KeyError("mine")

    with behind(db, put("a"), fails, put("a"), put("b")) as askers:
        pass
    assert isinstance(askers[1].error, KeyError)
    assert isinstance(askers[2].error, sa.exc.IntegrityError)
    assert [asker.error for asker in (askers[0], askers[3])] == [None, None]
    assert names(db) == ["a", "b"]
    assert lane(db).groups == 1


def test_answers_and_callbacks_follow_the_commit_of_the_group(db: Database) -> None:
    seen: list[tuple[str, list[str]]] = []
    entered, go = threading.Event(), threading.Event()

    def first(c: sa.Connection) -> None:
        put("a")(c)
        after_commit(c, lambda: seen.append(("a", names(db))))

    def fails(c: sa.Connection) -> None:
        after_commit(c, lambda: seen.append(("never", [])))
        raise KeyError

    def last(c: sa.Connection) -> None:
        put("b")(c)
        entered.set()
        assert go.wait(30)

    def look(askers: list[Asker]) -> None:
        assert entered.wait(30)  # two of the group have run, the third is at it
        seen.append(("answered", [name for name, asker in zip("af", askers, strict=False) if not asker.is_alive()]))
        seen.append(("visible", names(db)))
        go.set()

    with behind(db, first, fails, last) as askers:
        watcher = threading.Thread(target=look, args=(askers,))
        watcher.start()
    watcher.join()
    assert seen == [("answered", []), ("visible", []), ("a", ["a", "b"])]


def test_a_group_has_an_end(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MOST", 3)
    with behind(db, *(put(str(n)) for n in range(5))):
        pass
    assert (lane(db).groups, lane(db).units) == (2, 6)
    monkeypatch.setattr(writer, "LONGEST", 0)
    with behind(db, *(put(f"b{n}") for n in range(3))):
        pass
    assert (lane(db).groups, lane(db).units) == (6, 10)


def test_urgent_ones_go_first_and_a_group_ends_for_them(db: Database) -> None:
    with behind(db, put("ordinary 1"), put("ordinary 2"), put("urgent"), urgent=(2,)):
        pass
    assert names(db) == ["urgent", "ordinary 1", "ordinary 2"]
    assert (lane(db).groups, lane(db, urgent=True).groups) == (2, 1)


def test_a_group_ends_for_an_urgent_one_of_another_process(db: Database) -> None:
    other = Database(str(db.url))  # its own files at the gate, as another process has
    held = Held(db)
    ordinary = Asker(db, put("ordinary"))
    until(lambda: not lane(db)._waiting.empty(), what="it waits")
    urgent = Asker(other, put("urgent"), urgent=True)
    until(lambda: waits_at_gate(db), what="the urgent one at the gate")
    held.go.set()
    for asker in (held.asker, ordinary, urgent):
        asker.join(30)
    assert names(db) == ["urgent", "ordinary"]
    other.close()


# -------------------------------------------------------------------------------- SQLite rolls back all of it by itself


def full(db: Database, pages: int) -> None:
    """Leave the writer's connection room for so many pages more."""

    def unit(c: sa.Connection) -> None:
        used = c.exec_driver_sql("PRAGMA page_count").scalar_one()
        c.exec_driver_sql(f"PRAGMA max_page_count={used + pages}")

    db.run(unit)


def huge(c: sa.Connection) -> None:
    c.execute(rows.insert().values(name="half of the huge"))
    c.execute(fat.insert().values(body=b"x" * 400_000))


def test_a_full_disk_inside_a_group_hurts_only_who_filled_it(db: Database) -> None:
    full(db, 20)
    ran: list[str] = []

    def counted(name: str) -> Callable[[sa.Connection], None]:
        def unit(c: sa.Connection) -> None:
            ran.append(name)
            put(name)(c)
            after_commit(c, lambda: ran.append(f"{name} kept"))

        return unit

    with behind(db, counted("a"), huge, counted("b")) as askers:
        pass
    assert isinstance(askers[1].error, Unavailable)
    assert askers[1].error.fields["retry_after"] > 0
    assert sorted(names(db)) == ["a", "b"]
    assert [asker.error for asker in (askers[0], askers[2])] == [None, None]
    assert ran.count("a") == 2 and ran.count("b") == 1  # b came after: a group of its own
    assert ran.count("a kept") == ran.count("b kept") == 1
    db.run(put("later"))


@pytest.mark.parametrize("nested", [False, True])
def test_a_unit_that_goes_on_after_a_full_disk_writes_nothing_by_itself(db: Database, nested: bool) -> None:
    """SQLite has ended the transaction under it; its next statements must not commit one by one."""
    full(db, 20)

    def goes_on(c: sa.Connection) -> None:
        try:
            huge(c)
        except sa.exc.OperationalError:
            c.execute(rows.insert().values(name="went on"))
            if nested:
                c.exec_driver_sql("SAVEPOINT other")

    with behind(db, put("a"), goes_on, put("b")) as askers:
        pass
    assert isinstance(askers[1].error, Unavailable)
    assert sorted(names(db)) == ["a", "b"]


def test_a_commit_that_fails_has_each_unit_run_again_alone(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    commits, real = [0], UnitWriter._commit

    def commit(self: UnitWriter) -> sqlite3.Error | None:
        commits[0] += 1
        if commits[0] == 1:
            self._undo()
            return sqlite3.OperationalError("disk I/O error")
        return real(self)

    monkeypatch.setattr(UnitWriter, "_commit", commit)
    with behind(db, put("a"), put("b")) as askers:
        pass
    assert [asker.result for asker in askers] == ["a", "b"]
    assert names(db) == ["a", "b"]
    assert commits == [4]


# ---------------------------------------------------------------------------------------------------- mistakes of units


def test_a_unit_inside_a_transaction_is_refused(db: Database) -> None:
    for inside in (
        lambda _c: db.run(put("x")),
        lambda _c: db.run(put("x"), urgent=True),
        lambda _c: db.write().__enter__(),
    ):
        for urgent in (False, True):
            with pytest.raises(NestedUnit):
                db.run(inside, urgent=urgent)
        with pytest.raises(NestedUnit), db.write() as c:
            inside(c)
    db.run(lambda c: after_commit(c, lambda: db.run(put("after"))))
    with db.write() as c:
        after_commit(c, lambda: db.run(put("after write")))
    assert names(db) == ["after", "after write"]


def test_a_unit_neither_commits_nor_rolls_back_nor_leaves_savepoints(db: Database) -> None:
    endings = (sa.Connection.commit, sa.Connection.rollback, sa.Connection.begin_nested)
    wrong = [lambda c, end=end: (put("half")(c), end(c)) for end in endings]
    with behind(db, put("a"), *wrong, put("b")) as askers:
        pass
    assert [type(asker.error) for asker in askers[1:4]] == [RuntimeError] * 3
    assert sorted(names(db)) == ["a", "b"]
    db.run(put("c"))


def test_savepoints_of_a_unit_are_its_own(db: Database) -> None:
    def unit(c: sa.Connection) -> None:
        put("a")(c)
        with pytest.raises(KeyError), c.begin_nested():
            put("b")(c)
            raise KeyError

    db.run(unit)
    assert names(db) == ["a"]


# ------------------------------------------------------------------------------------------- a busy or broken database


def test_a_busy_database_is_survived(impatient: Database) -> None:
    other = sqlite3.connect(str(impatient.url.database), isolation_level=None)  # knows nothing of the gate
    other.execute("BEGIN IMMEDIATE")
    for urgent in (False, True):
        with pytest.raises(Unavailable) as refused:
            impatient.run(put("never"), urgent=urgent)
        assert refused.value.fields["retry_after"] > 0
    with pytest.raises(Unavailable):
        asyncio.run(impatient.arun(put("never")))
    other.execute("ROLLBACK")
    other.close()
    until(lambda: lane(impatient)._waiting.empty(), what="the writer at rest")
    impatient.run(put("later"))
    assert names(impatient) == ["later"]


def test_who_gave_up_at_the_gate_is_not_written_later(impatient: Database) -> None:
    gate = Gate(Path(str(impatient.url.database)))
    with gate.passed(urgent=False):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            impatient.run(put("never"))
        assert time.monotonic() - began < 5
        with pytest.raises(Unavailable):
            asyncio.run(impatient.arun(put("never")))
        with pytest.raises(Unavailable), impatient.write():
            pass
    impatient.run(put("later"))
    assert names(impatient) == ["later"]
    gate.close()


def test_a_broken_connection_is_replaced(db: Database) -> None:
    db.run(put("a"))
    with pytest.raises(Unavailable):
        db.run(lambda c: c.connection.driver_connection.close())  # type: ignore[union-attr]
    with behind(db, put("b"), lambda c: c.connection.driver_connection.close(), put("c")):  # type: ignore[union-attr]
        pass
    db.run(put("d"))
    assert {"a", "d"} <= set(names(db))


def test_a_writer_that_cannot_begin_answers_all_who_wait(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(self: UnitWriter) -> bool:
        raise OSError("no space left for the gate")

    monkeypatch.setattr(writer, "LONGEST", 0)
    with behind(db, put("a"), put("b")) as askers:
        monkeypatch.setattr(UnitWriter, "_begin", begin)
    assert all(isinstance(asker.error, Unavailable) for asker in askers)
    monkeypatch.undo()
    assert db.run(put("c")) == "c"


def test_a_closed_database_finishes_what_waits_and_takes_no_more(db: Database) -> None:
    with behind(db, put("a"), put("b")) as askers:
        closing = threading.Thread(target=db.close)
        closing.start()
        until(lambda: lane(db)._closed or not closing.is_alive(), what="closing")
    closing.join()
    assert [asker.result for asker in askers] == ["a", "b"]
    with pytest.raises(Unavailable):
        db.run(put("c"))


# ------------------------------------------------------------------------------------------------------------ the loop


def test_units_of_a_loop_need_no_thread_each(db: Database) -> None:
    def fails(c: sa.Connection) -> None:
        put("half")(c)
        raise KeyError

    async def all_of_them() -> list[Any]:
        asked = [db.arun(put(str(n))) for n in range(100)]
        return await asyncio.gather(*asked, db.arun(fails), db.arun(put("u"), urgent=True), return_exceptions=True)

    before = threading.active_count()
    found = asyncio.run(all_of_them())
    assert threading.active_count() <= before + 2
    assert found[:100] == [str(n) for n in range(100)]
    assert isinstance(found[100], KeyError)
    assert len(names(db)) == 101
    assert lane(db).groups < 60


def test_who_went_away_before_his_turn_is_not_written(db: Database) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(db.arun(put("never")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    held = Held(db)
    asyncio.run(cancelled())
    held.go.set()
    held.asker.join()
    db.run(put("later"))
    assert names(db) == ["later"]


def test_context_variables_reach_the_unit(db: Database) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("mine")
    assert db.run(lambda _c: variable.get()) == "mine"


# --------------------------------------------------------------------------------------------------------- checkpoints


def in_the_file(db: Database) -> int:
    """Bytes of the database itself, without its log."""
    return Path(str(db.url.database)).stat().st_size


def fill(c: sa.Connection) -> None:
    c.execute(fat.insert().values(body=b"x" * 400_000))  # some hundred pages


def test_no_checkpoint_inside_an_urgent_commit(db: Database) -> None:
    db.run(put("a"))
    before = in_the_file(db)
    for _ in range(wal.FRAMES // 50):
        db.run(fill, urgent=True)
    assert in_the_file(db) == before
    db.run(put("b"))
    db.run(put("c"))  # the copying follows the answer; the next turn follows the copying
    assert in_the_file(db) > before + 4_000_000


def test_the_log_has_a_bound(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "MOST", 2000)
    log = Path(f"{db.url.database}-wal")
    for urgent in (True, False):
        for _ in range(60):
            db.run(fill, urgent=urgent)
        assert log.stat().st_size < 3 * 2000 * 4096


def test_a_reader_is_no_reason_to_wait(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "MOST", 300)
    monkeypatch.setattr(wal, "FRAMES", 100)
    db.run(put("a"))
    with db.read() as c:
        assert c.execute(sa.select(rows)).all()
        began = time.monotonic()
        for _ in range(8):
            db.run(fill)
        assert time.monotonic() - began < 5
        assert c.execute(sa.select(sa.func.count()).select_from(fat)).scalar_one() == 0


# ------------------------------------------------------------------------------------------------------------- kill -9

POINTS = ("gate held", "begun", "before a unit", "inside a unit", "after a unit", "before commit", "committed")


@pytest.mark.fault
@pytest.mark.parametrize("number", [1, 9])
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_nothing_acknowledged_is_lost_and_nothing_half_done(
    db: Database, point: str, number: int
) -> None:
    words = [sys.executable, "-m", "tests.lachan.writer_child", str(db.url), point, str(number)]
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


def test_two_processes_and_a_console_command_write_side_by_side(db: Database) -> None:
    words = [sys.executable, "-m", "tests.lachan.writer_child", str(db.url), "nowhere", "1"]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    for n in range(40):
        db.run(put(f"mine.{n}"))
        with db.write() as c:
            put(f"console.{n}")(c)
    assert child.wait(60) == 0
    assert len(names(db)) == 80 + 600
