"""The gate between processes that write to one SQLite database (ADR 0021).

SQLite lets one write at a time and has the others poll for it: whoever polls seldom starves, and nobody can say that it
is urgent. So who wants to write passes this gate first: `flock` on three empty files beside the database, which the kernel
queues in order and opens when a process dies.

1. *turn*: ordinary ones queue here, so that at most one of them stands at the gate and none is overtaken for ever.
2. *gate*: who holds it may write.
3. *urgent*: shared by those who announce themselves. An ordinary one that gets the gate while somebody is announced gives
   it back and queues again behind them, for `PATIENCE` at most.

Limits: one machine, a local file system; who writes without the gate (``sqlite3`` in a shell) meets SQLite's own lock.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 0.25  # seconds that an ordinary one steps aside for urgent ones
PAUSE = 0.0005  # seconds that one who steps aside leaves to an announced one to reach the gate


class Gate:
    """One way through the gate; used by one thread at a time, each thread has its own.

    Args:
        database: path of the database file; the gate's files get its name with ``-turn``, ``-gate`` and ``-urgent``.

    Raises:
        OSError: the files cannot be made (a full disk, a folder without rights).
    """

    def __init__(self, database: Path) -> None:
        self._files: list[int] = []
        try:
            for name in ("turn", "gate", "urgent"):
                self._files.append(os.open(f"{database}-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError:
            self.close()
            raise
        self._turn, self._gate, self._urgent = self._files

    @contextmanager
    def passed(self, *, urgent: bool) -> Iterator[None]:
        """Hold the gate for the length of the block; waits without a limit (callers have one, `lachan.writer`)."""
        if urgent:
            self._enter_urgently()
        else:
            self._enter()
        try:
            yield
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def tried(self) -> bool:
        """Hold the gate if that takes no waiting and overtakes nobody, until `leave`; tell whether we hold it."""
        if not _taken(self._turn):
            return False
        try:
            if not _taken(self._gate):
                return False
            if self.urgent_waits():
                fcntl.flock(self._gate, fcntl.LOCK_UN)
                return False
            return True
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def leave(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def urgent_waits(self) -> bool:
        """Tell whether an urgent one, of any process, is announced and not through yet."""
        if not _taken(self._urgent):
            return True
        fcntl.flock(self._urgent, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        """Close the files, and so let go of all that is held."""
        for file in self._files:
            os.close(file)
        self._files = []

    def _enter_urgently(self) -> None:
        fcntl.flock(self._urgent, fcntl.LOCK_SH)
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._urgent, fcntl.LOCK_UN)

    def _enter(self) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            patience = time.monotonic() + PATIENCE
            while self.urgent_waits() and time.monotonic() < patience:
                fcntl.flock(self._gate, fcntl.LOCK_UN)
                time.sleep(PAUSE)
                fcntl.flock(self._gate, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)


def _taken(file: int) -> bool:
    """Take a file's lock if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
