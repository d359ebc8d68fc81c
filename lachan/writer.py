"""The grouped writer of SQLite: waiting units of work share one transaction, and so one fsync (ADR 0021).

A `UnitWriter` is a thread with a connection of its own. A turn of it: take what waits, pass the gate (`lachan.gate`), BEGIN
IMMEDIATE, each unit in a savepoint, COMMIT; only then does anybody learn a result. No timer: a group is what came while the
one before it was written. A process has two lanes, so that what is urgent never stands behind what is not: it announces
itself at the gate, the ordinary group ends after the unit at hand, and its own turn holds nothing else.

SQLite rolls back the whole transaction, savepoints and all, when the disk is full or does not answer (SQLITE_FULL,
SQLITE_IOERR …). So the lane asks after each unit whether the transaction still lives; if not, or if COMMIT fails, each
unit of the group runs again, alone. Limits: a unit that waits for a thread that waits for a unit waits for ever.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lachan import wal
from lachan.errors import DatabaseAway
from lachan.gate import Gate
from lachan.log import get as get_logger
from lachan.outage import Outage
from lachan.units import RETRY_AFTER, Loan, R, Unit, Waiting, unavailable

MOST = 64  # units of one group
LONGEST = 0.020  # seconds after which a group takes no further unit
BUSY = frozenset({5, 6})
log = get_logger(__name__)


class UnitWriter:
    """One thread that writes for all others of its process.

    Args:
        engine: makes the lane's connection (`lachan.database` prepares it: nothing but the lane begins or commits).
        database: path of the file.
        urgent: announce the turns of this lane at the gate, and leave checkpoints to the other one.
        wait: seconds after which who waits gives up.
        inside: its ``yes`` is set in the lane's thread, so that `Database` can refuse a unit that asks for units.
        outage: told whether the database takes writes.
        before: the lane that goes first; when somebody waits there, the group at hand ends.
    """

    def __init__(
        self,
        engine: sa.Engine,
        database: Path,
        *,
        urgent: bool,
        wait: float,
        inside: threading.local,
        outage: Outage,
        before: "UnitWriter | None" = None,
    ) -> None:
        self.groups = self.units = 0
        self._engine, self._database, self._urgent, self._wait = engine, database, urgent, wait
        self._inside, self._before, self._outage = inside, before, outage
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._next: Waiting | None = None  # taken from the queue, and not fit for the group at hand
        self._group: list[Waiting] = []  # claimed, and still without an answer
        self._connection: sa.Connection | None = None
        self._begun: sa.RootTransaction | None = None
        self._raw: Any = None
        self._gate: Gate | None = None
        self._log = wal.Log(database)
        self._thread: threading.Thread | None = None
        self._starting, self._closed = threading.Lock(), False

    @property
    def waited_for(self) -> bool:
        """Whether anybody waits in the queue."""
        return not self._waiting.empty()

    def run(self, unit: Unit[R]) -> R:
        """Have a unit run and give its result once its group has committed; see `lachan.database.Database.run`."""
        asked = Waiting(unit)
        self._put(asked)
        self._await(asked)
        found: R = asked.answer()
        return found

    async def arun(self, unit: Unit[R]) -> R:
        """Do the same for code on an event loop, without a thread of its own."""
        loop = asyncio.get_running_loop()
        asked = Waiting(unit, loop.create_future())
        assert asked.future is not None
        self._put(asked)
        timer = loop.call_later(self._wait, self._give_up, asked)
        try:
            await asked.future
        except asyncio.CancelledError:
            asked.claim()  # not begun yet: then it never will
            raise
        finally:
            timer.cancel()
        found: R = asked.answer()
        return found

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Hold the gate for the length of the block, in turn with the units.

        Raises:
            DatabaseAway: not within the limit.
        """
        loan = Loan()
        self._put(loan)
        self._await(loan)
        try:
            loan.answer()
            yield
        finally:
            loan.returned.set()

    def close(self) -> None:
        """Finish what waits and end the thread."""
        with self._starting:
            self._closed = True
            thread = self._thread
            self._waiting.put(None)
        if thread is not None:
            thread.join()

    def _put(self, asked: Waiting) -> None:
        if self._thread is None or self._closed:
            with self._starting:
                if self._closed:
                    raise DatabaseAway("The database is closed.")
                if self._thread is None:
                    name = "writer-urgent" if self._urgent else "writer"
                    self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
                    self._thread.start()
        self._waiting.put(asked)

    def _await(self, asked: Waiting) -> None:
        if not asked.done.acquire(timeout=self._wait):
            if asked.claim():
                raise self._too_late()
            asked.done.acquire()

    def _give_up(self, asked: Waiting) -> None:
        if asked.claim():
            asked.fail(self._too_late())
            resolve([asked.future] if asked.future is not None else [])

    def _too_late(self) -> DatabaseAway:
        error = DatabaseAway(f"The database was busy for {self._wait:g} s.", retry_after=RETRY_AFTER)
        self._outage.failed(error)
        return error

    # ------------------------------------------------------------------------------------------- the lane's own thread

    def _serve(self) -> None:
        self._inside.yes = True
        while (first := self._next or self._waiting.get()) is not None:
            self._next = None
            self._try(first)
        self._drop()
        if self._gate is not None:
            self._gate.close()

    def _try(self, first: Waiting) -> None:
        """Take a turn, and live on whatever comes of it."""
        try:
            self._turn(first)
        except Exception as error:  # noqa: BLE001 - it is told to who asked, and logged
            self._group += [first] if first.claim() else []
            self._fail(error)

    def _turn(self, first: Waiting) -> None:
        self._gate = gate = self._gate or Gate(self._database)
        with gate.passed(urgent=self._urgent):
            if isinstance(first, Loan):
                if first.claim():
                    first.done.release()
                    first.returned.wait()
                return
            if not self._begin():
                self._next = first  # who waits gives up by himself
                return
            kept = self._run_group(first, gate)
        if kept:
            self._answer(self._kept())
        else:
            self._run_each_alone(gate)
        if self._raw is not None:
            self._log.copy_back(self._raw, gate, urgent=self._urgent)

    def _kept(self) -> list[Waiting]:
        """Give the group that was committed, and be ready for the next."""
        group, self._group = self._group, []
        self.groups += 1
        self.units += len(group)
        return group

    def _run_each_alone(self, gate: Gate) -> None:
        """Give each unit of a group that was not kept a transaction of its own."""
        group, self._group = self._group, []
        for asked in group:
            self._group = [asked]
            self._run_alone(asked, gate)
            self._group = []
            self._answer([asked])

    def _begin(self) -> bool:
        """Begin a transaction; False if another program, which does not know the gate, kept the database all the time."""
        if self._connection is None:
            self._connection = self._engine.connect()
            self._begun = (
                self._connection.begin()
            )  # SQLAlchemy's idea of it, and for good; what counts is said to the driver
            self._raw = self._connection.connection.driver_connection
        try:
            self._raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in BUSY:
                self._outage.failed(f"another program keeps it for {self._wait:g} s")
                return False
            raise
        self._outage.worked()
        return True

    def _run_group(self, first: Waiting, gate: Gate) -> bool:
        """Run what waits in one transaction and commit it; tell whether it was kept."""
        asked, end = first, time.monotonic() + LONGEST
        while True:
            if asked.claim():
                self._group.append(asked)
                if not self._lives_after(asked):
                    return False
            if len(self._group) >= MOST or time.monotonic() >= end or self._gives_way(gate):
                break
            following = self._following()
            if following is None or isinstance(following, Loan):
                self._next = following
                break
            asked = following
        return self._commit() is None

    def _following(self) -> Waiting | None:
        """Take who waits next in the queue, if anybody does."""
        try:
            following = self._waiting.get_nowait()
        except queue.Empty:
            return None
        if following is None:
            self._waiting.put(None)  # nothing comes after it
        return following

    def _gives_way(self, gate: Gate) -> bool:
        return self._before is not None and (self._before.waited_for or gate.urgent_waits())

    def _run_alone(self, asked: Waiting, gate: Gate) -> None:
        with gate.passed(urgent=self._urgent):
            if not self._begin():
                asked.fail(self._too_late())
                return
            lives = self._lives_after(asked)
            if asked.error is not None:
                self._undo()
            elif not lives:
                asked.fail(DatabaseAway("The database rolled the transaction back.", retry_after=RETRY_AFTER))
            elif (error := self._commit()) is not None:
                asked.fail(error)

    def _lives_after(self, asked: Waiting) -> bool:
        """Run one unit in a savepoint; tell whether the transaction around it still lives."""
        assert self._connection is not None
        self._raw.execute("SAVEPOINT unit")
        asked.run(self._connection)
        if self._connection.in_nested_transaction() or not (self._begun and self._begun.is_active):
            if asked.error is None:
                asked.fail(RuntimeError("A unit of work left a savepoint open: use `with connection.begin_nested()`."))
            self._drop()
            return False
        try:
            if asked.error is not None:
                self._raw.execute("ROLLBACK TO unit")
            # The savepoint is gone when SQLite rolled all of it back, even if the unit, not knowing, went on in a new
            # transaction that the driver began: `in_transaction` alone would not tell.
            self._raw.execute("RELEASE unit")
        except sqlite3.Error:
            self._undo()
            return False
        return True

    def _commit(self) -> sqlite3.Error | None:
        try:
            self._raw.execute("COMMIT")
        except sqlite3.Error as error:
            log.warning(
                "a group was not committed; each unit runs again alone", units=len(self._group), error=str(error)
            )
            self._undo()
            return error
        return None

    def _undo(self) -> None:
        try:
            if self._raw is not None and self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop()

    def _answer(self, group: list[Waiting]) -> None:
        """Answer a group: threads each by their lock, a loop once for all of its futures."""
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for asked in group:
            if asked.future is None:
                asked.done.release()
            else:
                loops.setdefault(asked.future.get_loop(), []).append(asked.future)
        for loop, futures in loops.items():
            try:
                loop.call_soon_threadsafe(resolve, futures)
            except RuntimeError:  # the loop has ended, and with it those who waited
                log.warning("nobody waits any more for units that were written", units=len(futures))

    def _fail(self, error: Exception) -> None:
        """Answer the group at hand with what went wrong, and begin anew."""
        trouble = unavailable(error)
        if trouble is not None:
            self._outage.failed(trouble)
        else:
            log.error("the writer had to give up a turn", urgent=self._urgent, exc_info=error)
        self._drop()
        group, self._group = self._group, []
        for asked in group:
            asked.fail(trouble or DatabaseAway(f"The writer failed: {error}.", retry_after=RETRY_AFTER))
        self._answer(group)

    def _drop(self) -> None:
        """Let go of the connection; what was not committed is gone, and the next turn opens another."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection = self._raw = None


def resolve(futures: Sequence["asyncio.Future[None]"]) -> None:
    """Wake those who wait for these futures; on their loop."""
    for future in futures:
        if not future.done():
            future.set_result(None)
