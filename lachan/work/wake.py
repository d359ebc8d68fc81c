"""Wake-ups: a message tells who waits that rows are due.

Losing every wake-up loses nothing (design decision 12): whoever waits looks at its rows again after at most ``timeout``.
A `Waker` wakes and makes `Waiter`s. `UnixWaker` sends one byte to each socket bound in ``<data>/run``: one machine.
`PostgresWaker` does that too, and over machines sends NOTIFY: after the commit, on a connection of its own, so that no
transaction of anybody waits for it; what comes while one is being sent goes out as one.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lachan.outage import Outage

if TYPE_CHECKING:
    from psycopg import Connection

LONGEST = 107  # bytes of sockaddr_un.sun_path, less the closing zero (unix(7))
CHANNEL = "lachan_due"
LOCAL = frozenset({"detect"})  # the log's segments lie on this machine: nobody elsewhere has more to read
GATHER = 0.02  # seconds between two sendings: a busy worker wakes after each of its units
RETRY = 5.0  # seconds between two tries to reach a database that is away


class Waiter(Protocol):
    """One thread's place to wait."""

    def wait(self, timeout: float) -> bool:
        """Wait for a wake-up or for ``timeout`` seconds; tell whether it was a wake-up."""

    def close(self) -> None:
        """Leave the place."""


class Waker(Protocol):
    """Wakes whoever waits for rows."""

    def wake(self, name: str = "*") -> None:
        """Wake the waiters of a name (``work``, ``door``, ``detect``), or all; never fails and never blocks."""

    def waiter(self, name: str) -> Waiter:
        """Make a place to wait in.

        Raises:
            OSError: the data folder cannot be written.
        """

    def close(self) -> None:
        """Give everything back."""


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Give a name for a Unix socket that the kernel takes: at most 107 bytes, so a long path goes through its folder's number.

    Raises:
        OSError: the folder cannot be opened.
    """
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class UnixWaker:
    """Wake-ups by datagrams between the processes of one data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def wake(self, name: str = "*") -> None:
        """Send one byte to each waiter; one whose process is gone is cleared away."""
        try:
            names = [entry.name for entry in os.scandir(self.data / "run") if entry.name.endswith(".wake")]
        except OSError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            for place in (self.data / "run" / each for each in names if name == "*" or each.startswith(f"{name}.")):
                try:
                    with reachable(place) as address:
                        sender.sendto(b"!", address)
                except ConnectionRefusedError:
                    place.unlink(missing_ok=True)
                except OSError:
                    continue

    def waiter(self, name: str) -> "UnixWaiter":
        """Bind a socket in ``<data>/run``."""
        return UnixWaiter(self.data, name)

    def close(self) -> None:
        """Nothing is kept."""


class UnixWaiter:
    """A bound socket; its file goes with it."""

    def __init__(self, data: Path, name: str) -> None:
        folder = data / "run"
        folder.mkdir(mode=0o700, exist_ok=True)
        self.path = folder / f"{name}.{os.getpid()}.{threading.get_ident() & 0xFFFF}.wake"
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with reachable(self.path) as address:
            self.socket.bind(address)
        self.socket.setblocking(False)

    def wait(self, timeout: float) -> bool:
        """Wait for a byte; several wake-ups are one."""
        return bool(select.select([self.socket], [], [], max(timeout, 0.001))[0]) and self.drain()

    def drain(self) -> bool:
        """Take all bytes that have come; tell whether there was one."""
        came = False
        try:
            while self.socket.recv(16):
                came = True
        except BlockingIOError:
            pass
        return came

    def close(self) -> None:
        """Close the socket and take its file away."""
        self.socket.close()
        self.path.unlink(missing_ok=True)


class PostgresWaker:
    """Wake-ups on this machine, and by NOTIFY on every other that uses the database.

    Args:
        data: the data folder.
        url: libpq's connection string of the database.
    """

    def __init__(self, data: Path, url: str) -> None:
        self.here = UnixWaker(data)
        self._url = url
        self._due: set[str] = set()
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._ended = False
        self._away = Outage("wake-ups for other machines cannot be sent")
        self._thread: threading.Thread | None = None

    def wake(self, name: str = "*") -> None:
        """Wake here at once; elsewhere by a thread that sends what has gathered."""
        self.here.wake(name)
        if name in LOCAL:
            return
        with self._lock:
            self._due.add(name)
            if self._thread is None and not self._ended:
                self._thread = threading.Thread(target=self._send, name="waker", daemon=True)
                self._thread.start()
        self._bell.set()

    def waiter(self, name: str) -> "PostgresWaiter":
        """Bind a socket here and listen to the database."""
        return PostgresWaiter(self.here.waiter(name), self._url, name)

    def close(self) -> None:
        """End the sending thread; what it still had to send is rows that are found without it."""
        self._ended = True
        self._bell.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _send(self) -> None:
        connection: Connection[Any] | None = None
        while not self._ended:
            self._bell.wait()
            self._bell.clear()
            with self._lock:
                names, self._due = self._due, set()
            if not names or self._ended:
                continue
            try:
                connection = connection or _connect(self._url)
                for name in names:
                    connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, name))
                time.sleep(GATHER)
                self._away.worked()
            except Exception as error:  # noqa: BLE001 - a lost wake-up loses nothing; the next one connects again
                self._away.failed(error)
                _close(connection)
                connection = None
        _close(connection)


class PostgresWaiter:
    """Wait for a byte from this machine and for NOTIFY from any."""

    def __init__(self, here: UnixWaiter, url: str, name: str) -> None:
        self._here, self._url, self._names = here, url, {name, "*"}
        self._connection: Connection[Any] | None = None
        self._tried = float("-inf")
        self._away = Outage("the database's wake-ups are not heard")
        self._listen()

    def wait(self, timeout: float) -> bool:
        """Wait; without the database only for this machine's wake-ups, and try to reach it again now and then."""
        until = time.monotonic() + max(timeout, 0.001)
        while True:
            if self._connection is None:
                self._listen()
            ends: list[Any] = [self._here.socket] + ([self._connection.fileno()] if self._connection else [])
            ready = select.select(ends, [], [], max(until - time.monotonic(), 0))[0]
            if not ready:
                return False
            if (self._here.socket in ready and self._here.drain()) or self._told():
                return True

    def close(self) -> None:
        """Leave both places."""
        self._here.close()
        self._close()

    def _close(self) -> None:
        _close(self._connection)
        self._connection = None

    def _listen(self) -> None:
        if time.monotonic() - self._tried < RETRY:
            return
        self._tried = time.monotonic()
        try:
            self._connection = _connect(self._url)
            self._connection.execute(f"LISTEN {CHANNEL}")
            self._away.worked()
        except Exception as error:  # noqa: BLE001 - rows are looked at again without it
            self._away.failed(error)
            self._close()

    def _told(self) -> bool:
        told = False
        if self._connection is None:
            return told
        try:
            self._connection.pgconn.consume_input()
            while (message := self._connection.pgconn.notifies()) is not None:
                told |= message.extra.decode() in self._names
        except Exception as error:  # noqa: BLE001 - the connection is gone
            self._away.failed(error)
            self._close()
        return told


def open_waker(data: Path, postgres: str | None) -> Waker:
    """Give the waker of an installation: by datagrams, and over machines where its database is PostgreSQL."""
    return PostgresWaker(data, postgres) if postgres else UnixWaker(data)


def _connect(url: str) -> "Connection[Any]":
    import psycopg

    return psycopg.connect(url, autocommit=True, connect_timeout=5)


def _close(connection: "Connection[Any] | None") -> None:
    if connection is not None:
        connection.close()
