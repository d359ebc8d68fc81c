"""A process that writes units from six threads, says which are kept, and kills itself at a named point.

Arguments: URL, point (one of ``POINTS`` of test_writer.py, or any other word for none), at which time that the point is met.
"""

import os
import signal
import sys
import threading
from typing import Any

import sqlalchemy as sa

from lachan.database import Database
from lachan.writer import UnitWriter
from tests.lachan.test_writer import rows

met = [0]


def pass_by(point: str) -> None:
    """Die here if it is the time."""
    met[0] += point == sys.argv[2]
    if point == sys.argv[2] and met[0] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)


def around(name: str, before: str, after: str) -> None:
    """Put a point before and after a method of the lane."""
    real = getattr(UnitWriter, name)

    def wrapped(self: UnitWriter, *words: Any) -> Any:
        pass_by(before)
        found = real(self, *words)
        pass_by(after)
        return found

    setattr(UnitWriter, name, wrapped)


def ask(db: Database, thread: int) -> None:
    """Write fifty units of two rows; say of each that it is kept."""
    for number in range(50):

        def unit(c: sa.Connection, name: str = f"{thread}.{number}") -> str:
            c.execute(rows.insert().values(name=f"{name}.first"))
            pass_by("inside a unit")
            c.execute(rows.insert().values(name=f"{name}.second"))
            return name

        os.write(1, f"{db.run(unit, urgent=thread == 0)}\n".encode())


if __name__ == "__main__":
    around("_begin", "gate held", "begun")
    around("_lives_after", "before a unit", "after a unit")
    around("_commit", "before commit", "committed")
    shared = Database(sys.argv[1])
    for thread in range(6):
        threading.Thread(target=ask, args=(shared, thread)).start()
