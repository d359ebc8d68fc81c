"""Carry refusals from the signer's log into the outbox, in the background, exactly once.

The answer to the caller never waits for it: on SQLite the caller may hold the only write lock. The relay reads the log
from where it stopped (``delivered``, a byte position), records each refusal as `lachan.events.SignatureRefused` together
with the line's id in `models.delivered` in one transaction, and tries again while the database cannot be written. What a
crash left undelivered is delivered by the next start.
"""

import threading
from pathlib import Path

import sqlalchemy as sa

from lachan import events
from lachan.database import Database, insert_ignore
from lachan.errors import DatabaseAway
from lachan.files import write_atomically
from lachan.identity.principal import system
from lachan.log import get as get_logger
from lachan.settings import Settings
from lachan.signer import siglog
from lachan.signer.models import delivered
from lachan.signer.siglog import SignatureOutcome
from lachan.work import outbox
from lachan.work.wake import UnixWaker

PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
log = get_logger(__name__)


class Relay:
    """One background thread."""

    def __init__(self, settings: Settings, db: Database, folder: Path) -> None:
        self._settings, self._db = settings, db
        self._log, self._mark = folder / "signatures.log", folder / "delivered"
        self._position = int(self._mark.read_text()) if self._mark.exists() else 0
        self._due, self._stopping = threading.Event(), threading.Event()
        self._due.set()
        self._thread = threading.Thread(target=self._run, name="signer-relay", daemon=True)

    def start(self) -> None:
        """Begin with what earlier runs could not deliver."""
        self._thread.start()

    def notice(self) -> None:
        """There is a new refusal in the log; returns at once."""
        self._due.set()

    def close(self) -> None:
        """Deliver what is there if the database lets us, then end."""
        self._stopping.set()
        self._due.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        failures = 0
        while True:
            self._due.wait()
            self._due.clear()
            ending = self._stopping.is_set()
            try:
                self.deliver()
                failures = 0
            except Exception as error:
                if not isinstance(error, DatabaseAway):  # that was said, once
                    log.exception("refusals wait for the database")
                self._due.set()
                if self._stopping.wait(PAUSES[min(failures, len(PAUSES) - 1)]) and failures:
                    return
                failures += 1
                continue
            if ending:
                return

    def deliver(self) -> int:
        """Bring the outbox up to date with the log; tell how many refusals were new."""
        new, start = 0, self._position
        for position, line in siglog.read(self._log, after=start):
            if line["outcome"] == SignatureOutcome.REFUSED:
                new += self._record(line)
            self._position = position
        if self._position != start:
            write_atomically(self._mark, str(self._position).encode())
        if new:
            UnixWaker(self._settings.data).wake()
        return new

    def _record(self, line: dict[str, str | int]) -> bool:
        def unit(connection: sa.Connection) -> bool:
            if not insert_ignore(connection, delivered, {"id": line["id"]}, index=("id",)):
                return False
            refusal = events.SignatureRefused(
                kind=str(line["kind"]), subject=str(line["subject"]), reason=str(line["reason"]), number=int(line["n"])
            )
            outbox.append(connection, refusal, actor=system("signer"))
            return True

        return self._db.run(unit)
