"""What the device door writes down: last seen, which snapshot it acts on, which connections it closed.

One thread, apart from the one that watches trust: on SQLite a write may have to wait for another writer, and that
must never keep a trust decision from being seen. Steps: collect in memory → every two seconds, or at once when a
snapshot arrived, one transaction.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from datetime import datetime

import sqlalchemy as sa

from api.models import door_closed, door_status
from lachan import clock, devices
from lachan.database import insert_ignore
from lachan.events import SessionsClosed
from lachan.identity import system
from lachan.ids import new_id
from lachan.runtime import Runtime
from lachan.work import outbox

HEARTBEAT = 2.0
_log = logging.getLogger("lachan.api.device")


class Reporter:
    """Writes the device door's records.

    Attributes:
        door: The id of this door process.
    """

    def __init__(self, rt: Runtime) -> None:
        self.door = new_id()
        self._rt = rt
        self._lock = threading.Lock()
        self._seen: dict[str, datetime] = {}
        self._closed: Counter[str] = Counter()
        self._version = -1
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

    def note(self, device_id: str) -> None:
        """Remember that a device spoke."""
        with self._lock:
            self._seen[device_id] = clock.now()

    def acted(self, version: int, closed: dict[str, int]) -> None:
        """Remember that the door acts on a snapshot, and how many connections of which device it closed for it."""
        with self._lock:
            fresh = version != self._version
            self._version = version
            self._closed.update(closed)
        if fresh or closed:
            self._due.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._due.wait(HEARTBEAT)
            self._due.clear()
            self._flush()
        with self._rt.db.write() as connection:
            connection.execute(door_status.delete().where(door_status.c.door == self.door))

    def _flush(self) -> None:
        with self._lock:
            seen, self._seen = self._seen, {}
            closed, self._closed = self._closed, Counter()
            version = self._version
        if version < 0:
            return
        try:
            self._write(version, seen, closed)
        except Exception:  # noqa: BLE001 - the records are not worth the door
            _log.exception("the device door could not write its records")
            with self._lock:
                self._closed.update(closed)
                self._seen = seen | self._seen

    def _write(self, version: int, seen: dict[str, datetime], closed: Counter[str]) -> None:
        now = clock.now()
        with self._rt.db.write() as connection:
            mine = door_status.c.door == self.door
            if not connection.execute(
                door_status.update().where(mine).values(snapshot_version=version, seen_at=now)
            ).rowcount:
                connection.execute(door_status.insert().values(door=self.door, snapshot_version=version, seen_at=now))
            devices.touch_seen(connection, seen)
            for device_id, count in closed.items():
                self._add_closed(connection, device_id, count, version)
                outbox.append(
                    connection, SessionsClosed(device_id=device_id, connections=count), actor=system("device-door")
                )
        if closed:
            self._rt.wake()

    def _add_closed(self, connection: sa.Connection, device_id: str, count: int, version: int) -> None:
        key = {"door": self.door, "device_id": device_id}
        values = {"connections": count, "snapshot_version": version, "closed_at": clock.now()}
        if not insert_ignore(connection, door_closed, {**key, **values}, index=("door", "device_id")):
            row = sa.and_(door_closed.c.door == self.door, door_closed.c.device_id == device_id)
            values["connections"] = door_closed.c.connections + count
            connection.execute(door_closed.update().where(row).values(**values))
