"""Copying SQLite's write-ahead log back into the database, where nobody waits for it (ADR 0021).

SQLite does it inside the COMMIT that fills the log, urgent or not. The writer's connections have that switched off and ask
`Log.copy_back` after a group has its answers: past `FRAMES` new pages (`MOST` if it was urgent), without the gate, so that
others write meanwhile. It may then never reach the end of the log, and only from there does the next writer start the log
anew; so once the log has `MOST` pages it is done within the gate. The checkpoint is PASSIVE: it waits for no reader and no
reader for it. Limits: a reader that stays in one transaction keeps the log growing, so long readers page.

How full the log is stands in the log (sqlite.org/fileformat2.html#walformat): a frame belongs to its present generation
when it has the header's salt. Only the log is opened: closing the index would drop SQLite's own locks (POSIX).
"""

import sqlite3
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lachan.gate import Gate
from lachan.log import get as get_logger

FRAMES = 1000  # pages, SQLite's own measure: 4 MB
MOST = 16_000  # pages: 64 MB
HEADER, FRAME_HEADER = 32, 24
log = get_logger(__name__)


class Log:
    """The log of one database.

    Args:
        database: path of the database file.
    """

    def __init__(self, database: Path) -> None:
        self._path = Path(f"{database}-wal")
        self._salt, self._copied = b"", 0

    def has(self, frame: int) -> bool:
        """Tell whether the log holds that many frames that the last copying did not see."""
        try:
            with self._path.open("rb", buffering=0) as file:
                header = file.read(HEADER)
                if len(header) < HEADER:
                    return False
                salt, (size,) = header[16:24], struct.unpack(">I", header[8:12])
                if salt != self._salt:  # begun anew
                    self._salt, self._copied = salt, 0
                file.seek(HEADER + (self._copied + frame - 1) * (FRAME_HEADER + size))
                return file.read(FRAME_HEADER)[8:16] == salt
        except OSError:
            return False

    def copy_back(self, connection: Any, gate: Gate, *, urgent: bool) -> None:
        """Checkpoint if the log is full enough; what goes wrong waits for the next time."""
        try:
            if not self.has(MOST if urgent else FRAMES):
                return
            with nullcontext() if urgent or self._copied + FRAMES < MOST else gate.passed(urgent=False):
                _busy, _frames, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._copied = max(copied, 0)
        except (OSError, sqlite3.Error) as error:
            log.warning("the write-ahead log could not be copied back", error=str(error))
