"""Units of an event loop on SQLite: their statements run on the loop, only the fsync waits in a thread (ADR 0036).

The interpreter runs one thread at a time, so a writer's thread beside a busy loop brings nothing but hand-overs: two a group,
and one whenever both want to go on. A `LoopWriter` is a `lachan.writer.UnitWriter` that shares its turn out. When nobody else is at
the gate, the loop passes it, begins, and runs what has arrived, each unit in its savepoint; the lane's thread does COMMIT and
answers all of them with one call. When somebody is at the gate, or SQLite is busy, the thread takes the whole turn, as in any
lane. What comes meanwhile is the next group; there is no timer. Whose turn it is has the connection: the loop takes `_owned`,
and whoever ends the turn gives it back.

Limits: one loop at a time; units of another are the ordinary lane's. A group holds the loop for `LONGEST` and one unit more.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from lachan import wal, writer
from lachan.errors import DatabaseAway
from lachan.gate import Gate
from lachan.log import get as get_logger
from lachan.units import R, Unit, Waiting
from lachan.writer import BUSY, UnitWriter, resolve

LONGEST = 0.005  # seconds after which a group on the loop takes no further unit
LOOKS = 8  # turns between two looks at how full the log is; that many fill a small part of it
log = get_logger(__name__)


@dataclass(frozen=True)
class _Turn:
    """What the loop hands to the thread.

    Attributes:
        units: of a turn that the thread has to do.
        lives: of a turn whose units have run: whether the transaction does.
        error: what broke it.
    """

    units: list[Waiting] = field(default_factory=list)
    lives: bool = False
    error: Exception | None = None


class LoopWriter(UnitWriter):
    """The lane of one event loop.

    Args:
        words: as of `UnitWriter`.
        beside: the ordinary lane, for units of other loops.
        named: as of `UnitWriter`.
    """

    def __init__(self, *words: Any, beside: UnitWriter, **named: Any) -> None:
        super().__init__(*words, urgent=False, **named)
        self._beside = beside
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived: deque[Waiting] = deque()
        self._asked: dict[Waiting, float] = {}  # those without an answer, and since when
        self._timer: asyncio.TimerHandle | None = None
        self._owned = threading.Lock()
        self._turns: queue.SimpleQueue[_Turn | None] = queue.SimpleQueue()
        self._taken = 0

    async def arun(self, unit: Unit[R]) -> R:
        """Have a unit run and give its result once its group has committed; see `lachan.database.Database.arun`."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop and not self._bind(loop):
            return await self._beside.arun(unit)
        if self._closed:
            raise DatabaseAway("The database is closed.")
        future = loop.create_future()
        asked = Waiting(unit, future)
        if not self._arrived:
            loop.call_soon(self._start)  # what this turn of the loop still brings joins
        self._arrived.append(asked)
        self._asked[asked] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._wait, self._expire)
        try:
            await future
        except asyncio.CancelledError:
            asked.claim()  # not begun yet: then it never will
            raise
        finally:
            self._asked.pop(asked, None)
        found: R = asked.answer()
        return found

    def close(self) -> None:
        """End the turn at hand and the thread; the loop's units that were not begun are refused."""
        with self._starting:
            self._closed = True
        with self._owned:
            self._turns.put(None)
            if self._thread is not None:
                self._thread.join()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended, and with it those who waited
                self._loop.call_soon_threadsafe(self._start)

    # ------------------------------------------------------------------------------------------------------- on the loop

    def _bind(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Make a loop this lane's if it has none that lives, and no turn is under way."""
        if (self._loop is not None and not self._loop.is_closed()) or not self._owned.acquire(blocking=False):
            return False
        self._loop, self._timer = loop, None
        self._arrived.clear()
        self._asked.clear()
        self._owned.release()
        return True

    def _start(self) -> None:
        """Begin a turn with what has arrived, unless one is under way: its end comes here again."""
        if self._closed:
            self._give_up_all()
            return
        if not self._arrived or not self._owned.acquire(blocking=False):
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="writer-loop", daemon=True)
            self._thread.start()
        if self._begins_here():
            self._turns.put(self._run_here())
        else:
            units = list(self._arrived)
            self._arrived.clear()
            self._turns.put(_Turn(units))

    def _begins_here(self) -> bool:
        """Pass the gate and begin, if that takes no waiting."""
        if self._raw is None or self._gate is None or not self._gate.tried():
            return False
        try:
            self._raw.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._gate.leave()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in BUSY:
                self._drop()
            return False
        return True

    def _run_here(self) -> _Turn:
        assert self._gate is not None
        self._inside.yes = True
        try:
            return _Turn(lives=self._run_arrived(self._gate))
        except Exception as error:  # noqa: BLE001 - told to all of the group by the thread
            return _Turn(error=error)
        finally:
            self._inside.yes = False

    def _run_arrived(self, gate: Gate) -> bool:
        end = time.monotonic() + LONGEST
        while self._arrived:
            asked = self._arrived.popleft()
            gone = asked.future is not None and asked.future.done()  # cancelled, and not awake yet
            if not gone and asked.claim():
                self._group.append(asked)
                if not self._lives_after(asked):
                    return False
            if len(self._group) >= writer.MOST or time.monotonic() >= end or self._gives_way(gate):
                break
        return True

    def _answered(self, futures: list[asyncio.Future[None] | None]) -> None:
        resolve([future for future in futures if future is not None])
        self._start()

    def _expire(self) -> None:
        """Tell those who have waited for too long, unless their turn has begun; then look again."""
        assert self._loop is not None
        self._timer = None
        now = self._loop.time()
        for asked, since in list(self._asked.items()):
            if since + self._wait > now:
                self._timer = self._loop.call_at(since + self._wait, self._expire)
                return
            self._give_up(asked)

    def _give_up_all(self) -> None:
        while self._arrived:
            asked = self._arrived.popleft()
            if asked.claim():
                asked.fail(DatabaseAway("The database is closed."))
                resolve([asked.future] if asked.future is not None else [])

    # ------------------------------------------------------------------------------------------- the lane's own thread

    def _serve(self) -> None:
        self._inside.yes = True
        while (turn := self._turns.get()) is not None:
            try:
                goes_on = self._end(turn)
            except Exception as error:  # noqa: BLE001 - it is told to who asked, and logged
                self._fail(error)
                goes_on = False
            if not goes_on:
                self._owned.release()
                self._answer([])
        self._drop()
        if self._gate is not None:
            self._gate.close()

    def _end(self, turn: _Turn) -> bool:
        """Do what is left of a turn; tell whether the next one may have begun."""
        if turn.units:
            for asked in turn.units:
                self._waiting.put(asked)
            while (first := self._next or self._following()) is not None:
                self._next = None
                self._try(first)
            return False
        assert self._gate is not None
        kept = turn.lives and self._commit() is None
        self._gate.leave()
        if turn.error is not None:
            raise turn.error
        if not kept:
            self._run_each_alone(self._gate)
            return False
        group = self._kept()
        self._taken += 1
        if self._taken % LOOKS == 0 and self._log.has(wal.FRAMES):
            self._answer(group)
            self._log.copy_back(self._raw, self._gate, urgent=False)
            return False
        self._owned.release()
        self._answer(group)
        return True

    def _begin(self) -> bool:
        """Begin with patience, which the loop does not have."""
        if self._raw is not None:
            self._raw.execute(f"PRAGMA busy_timeout={round(1000 * self._wait)}")
        try:
            return super()._begin()
        finally:
            if self._raw is not None:
                self._raw.execute("PRAGMA busy_timeout=0")

    def _answer(self, group: list[Waiting]) -> None:
        """Answer all of a group with one call of the loop, which then begins the next turn."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._answered, [asked.future for asked in group])
        except RuntimeError:  # the loop has ended, and with it those who waited
            if group:
                log.warning("nobody waits any more for units that were written", units=len(group))
