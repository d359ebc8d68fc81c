"""A process that writes units from six threads, says which are kept, and kills itself at a named point.

Arguments: URL, point (one of ``POINTS`` of test_writer.py, or any other word for none), at which time that the point is met;
``loop`` has six tasks of an event loop write them instead.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from lachan.database import Database
from lachan.loop_writer import LoopWriter
from lachan.writer import UnitWriter
from tests.lachan.test_writer import rows

met = [0]


def pass_by(point: str) -> None:
    """Die here if it is the time."""
    met[0] += point == sys.argv[2]
    if point == sys.argv[2] and met[0] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)


def around(kind: type[UnitWriter], name: str, before: str, after: str) -> None:
    """Put a point before and after a method of the lane."""
    real = getattr(kind, name)

    def wrapped(self: UnitWriter, *words: Any) -> Any:
        pass_by(before)
        found = real(self, *words)
        pass_by(after)
        return found

    setattr(kind, name, wrapped)


def units(thread: int) -> Iterator[Callable[[sa.Connection], str]]:
    """Fifty units of two rows."""
    for number in range(50):

        def unit(c: sa.Connection, name: str = f"{thread}.{number}") -> str:
            c.execute(rows.insert().values(name=f"{name}.first"))
            pass_by("inside a unit")
            c.execute(rows.insert().values(name=f"{name}.second"))
            return name

        yield unit


def ask(db: Database, thread: int) -> None:
    """Write units; say of each that it is kept."""
    for unit in units(thread):
        os.write(1, f"{db.run(unit, urgent=thread == 0)}\n".encode())


async def aask(db: Database, thread: int) -> None:
    """Do so on a loop."""
    for unit in units(thread):
        os.write(1, f"{await db.arun(unit)}\n".encode())


async def all_of_them(db: Database) -> None:
    """Have six tasks do so."""
    await db.arun(lambda _c: None)  # from now on the turns are the loop's
    await asyncio.gather(*(aask(db, task) for task in range(6)))


if __name__ == "__main__":
    looped = sys.argv[4:] == ["loop"]
    if looped:
        around(LoopWriter, "_begins_here", "gate held", "begun")
    else:
        around(UnitWriter, "_begin", "gate held", "begun")
    around(UnitWriter, "_lives_after", "before a unit", "after a unit")
    around(UnitWriter, "_commit", "before commit", "committed")
    shared = Database(sys.argv[1])
    if looped:
        asyncio.run(all_of_them(shared))
    else:
        for thread in range(6):
            threading.Thread(target=ask, args=(shared, thread)).start()
