"""What the device door writes down: last seen, which changes of trust it acts on, which connections it closed, possible clones.

One thread, apart from the one that watches trust: on SQLite a write may have to wait for another writer, and that
must never keep a trust decision from being seen. Steps: collect in memory → every two seconds, or at once when a
change arrived, one transaction.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from datetime import datetime
from functools import partial

import sqlalchemy as sa

from api.models import door_closed, door_status
from lachan import clock, devices
from lachan.database import insert_ignore
from lachan.errors import DatabaseAway
from lachan.events import SessionsClosed
from lachan.identity import system
from lachan.ids import new_id
from lachan.runtime import Runtime
from lachan.trust import Horizon
from lachan.work import outbox
from pki import service

PAGE = 500  # rows of one unit of work
HEARTBEAT = 2.0
_log = logging.getLogger("lachan.api.device")


class Reporter:
    """Write the device door's records.

    Attributes:
        door: The id of this door process.
    """

    def __init__(self, rt: Runtime) -> None:
        self.door = new_id()
        self._rt = rt
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[datetime, str | None]] = {}
        self._closed: Counter[str] = Counter()
        self._cloned: dict[str, str] = {}
        self._position: Horizon | None = None
        self._due = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="door-reporter", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, take this door out of the list of running ones, and end the thread."""
        self._stop.set()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def note(self, device_id: str, address: str | None) -> None:
        """Remember that a device spoke, and from where; None behind a proxy, whose address is not the device's."""
        with self._lock:
            self._seen[device_id] = clock.now(), address

    def cloned(self, fingerprint: str, address: str) -> None:
        """Remember that a superseded certificate was shown, and from where; there are no more of them than were issued."""
        with self._lock:
            self._cloned.setdefault(fingerprint, address)

    def acted(self, position: Horizon | None, closed: dict[str, int]) -> None:
        """Remember up to where the door acts (None: not whole yet), and how many connections of which device it closed."""
        with self._lock:
            fresh = position is not None and position != self._position
            self._position = position or self._position
            self._closed.update(closed)
        if fresh or closed:
            self._due.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._due.wait(HEARTBEAT)
            self._due.clear()
            self._flush()
        mine = door_status.delete().where(door_status.c.door == self.door)
        with contextlib.suppress(DatabaseAway):  # a door that says nothing for a while counts as gone, too
            self._rt.db.run(lambda connection: connection.execute(mine))

    def _flush(self) -> None:
        with self._lock:
            seen, self._seen = self._seen, {}
            closed, self._closed = self._closed, Counter()
            cloned, self._cloned = self._cloned, {}
            position = self._position
        if position is None:
            return
        try:
            self._acted(position, closed)
            closed = Counter()
            self._touch(seen)
            self._clones(cloned)
        except Exception as error:  # noqa: BLE001 - the records are not worth the door
            if not isinstance(error, DatabaseAway):  # that was said, once
                _log.exception("the device door could not write its records")
            with self._lock:
                self._closed.update(closed)
                self._seen = seen | self._seen
                self._cloned = cloned | self._cloned

    def _acted(self, position: Horizon, closed: Counter[str]) -> None:
        """Write up to where the door acts, and what it closed; urgent, since containments are settled by it."""
        now = clock.now()

        def unit(connection: sa.Connection) -> None:
            mine = door_status.c.door == self.door
            values = {"position": str(position), "seen_at": now}
            if not connection.execute(door_status.update().where(mine).values(**values)).rowcount:
                connection.execute(door_status.insert().values(door=self.door, **values))

        waiting = sorted(closed)
        for page in (waiting[start : start + PAGE] for start in range(0, len(waiting), PAGE)):
            self._rt.db.run(partial(self._tell, page, closed, position.below - 1), urgent=True)
            for device_id in page:
                del closed[device_id]
        self._rt.db.run(unit, urgent=True)  # last: who reads it finds what was closed for it
        if waiting:
            self._rt.wake()

    def _tell(self, page: list[str], closed: Counter[str], number: int, connection: sa.Connection) -> None:
        for device_id in page:
            self._add_closed(connection, device_id, closed[device_id], number)
            fact = SessionsClosed(device_id=device_id, connections=closed[device_id])
            outbox.append(connection, fact, actor=system("device-door"))

    def _touch(self, seen: dict[str, tuple[datetime, str | None]]) -> None:
        """Write down who was seen, a page to a unit; what is written is taken out, so that a fault loses and repeats nothing."""
        waiting = sorted(seen)
        for page in (waiting[start : start + PAGE] for start in range(0, len(waiting), PAGE)):
            moments = {device_id: seen[device_id] for device_id in page}
            for device_id in self._rt.db.run(partial(_seen, moments)):
                del seen[device_id]
        with self._lock:
            self._seen = seen | self._seen  # whom somebody had locked

    def _clones(self, cloned: dict[str, str]) -> None:
        """Tell of a page of superseded certificates that were shown; the others wait for the next turn."""
        page = dict(list(cloned.items())[:PAGE])

        def unit(connection: sa.Connection) -> None:
            for fingerprint, address in page.items():
                service.clone_seen(connection, system("device-door"), fingerprint=fingerprint, address=address)

        if page:
            self._rt.db.run(unit)
            for fingerprint in page:
                del cloned[fingerprint]
        with self._lock:
            self._cloned = cloned | self._cloned

    def _add_closed(self, connection: sa.Connection, device_id: str, count: int, number: int) -> None:
        key = {"door": self.door, "device_id": device_id}
        values = {"connections": count, "number": number, "closed_at": clock.now()}
        if not insert_ignore(connection, door_closed, {**key, **values}, index=("door", "device_id")):
            row = sa.and_(door_closed.c.door == self.door, door_closed.c.device_id == device_id)
            values["connections"] = door_closed.c.connections + count
            connection.execute(door_closed.update().where(row).values(**values))


def _seen(moments: dict[str, tuple[datetime, str | None]], connection: sa.Connection) -> set[str]:
    return devices.touch_seen(connection, moments)
