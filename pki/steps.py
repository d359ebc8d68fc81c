"""The steps of issuing, and who walks them: look → hold → sign → record (ADR 0021).

What must happen is written once, as a coroutine that is handed `Steps` (`pki.enrolment`). `Blocking` does each of them in the
caller's thread (command line, tests), so `walk` needs no loop; `OnLoop` lets everything else go on meanwhile (the device
door). Nothing outside is called inside a transaction: looking ends before signing begins, and recording is one short unit of
work that judges again what was judged before.

One issue per device is in flight, whatever the number of processes: a byte of ``<data>/issuing.lock`` per device, locked as
long as the issue lasts. The kernel gives it back when a process dies. Limits: one machine, which is where everybody is who
can ask the signer; at most `WAITING` issues of a device wait in a process.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from lachan.loop_postgres import LoopScripts
from lachan.runtime import Runtime
from lachan.scripts import Make, play
from lachan.signer.link import SignerLink
from pki.errors import IssueUnderWay

R = TypeVar("R")
Do = Callable[[sa.Connection], R]
WAIT = 10.0  # seconds that an issue waits for the one before it of the same device
WAITING = 64
FIRST, LONGEST = 0.002, 0.05  # seconds between two looks whether it has ended
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux, fcntl(2)


class Boundary(StrEnum):
    """The moments between two steps, in their order; tests end a process at each of them (`Runtime.reached`)."""

    LOOKED = "looked"
    HELD = "held"
    SIGNED = "signed"
    RECORDING = "recording"
    WRITTEN = "written"
    RECORDED = "recorded"


class Steps(Protocol):
    """What the coroutine of an issue may do."""

    async def ask(self, make: Make[R]) -> R:
        """Read the database by a script (`lachan.scripts`)."""

    def hold(self, device_id: str) -> AbstractAsyncContextManager[bool]:
        """Be the only one who issues for this device in the block; tells whether that took waiting.

        Raises:
            IssueUnderWay: another issue took too long, or too many wait already.
        """

    async def sign(self, *, sender: str, profile: str, device_id: str, spki: bytes) -> dict[str, Any]:
        """Have the signer make a certificate; the sender takes turns with others.

        Raises:
            SignerRefused, SignerUnavailable: as `lachan.signer.client.SignerClient.request`.
        """

    async def tell(self, make: Make[R]) -> R:
        """Run a script as a unit of work."""

    async def record(self, unit: Do[R]) -> R:
        """Run a unit of work."""


def walk(issue: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine whose steps are `Blocking`: it never waits for a loop."""
    try:
        issue.send(None)
    except StopIteration as done:
        found: R = done.value
        return found
    issue.close()
    raise RuntimeError("a step waited for an event loop")


class Blocking:
    """The steps in the caller's thread."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt

    async def ask(self, make: Make[R]) -> R:
        """Read the database."""
        with self._rt.db.read() as connection:
            return play(connection, make())

    @asynccontextmanager
    async def hold(self, device_id: str) -> AsyncIterator[bool]:
        """Be the only one, and wait for it in this thread."""
        with _opened(self._rt.settings.data) as file:
            waited = False
            for pause in _pauses():
                if _locked(file, _place(device_id)):
                    break
                waited = True
                time.sleep(pause)  # noqa: ASYNC251 - there is no loop that it could stop
            yield waited

    async def sign(self, *, sender: str, profile: str, device_id: str, spki: bytes) -> dict[str, Any]:
        """Ask the signer and wait for it in this thread."""
        return self._rt.signer.request("issue", profile=profile, device_id=device_id, spki=spki)

    async def tell(self, make: Make[R]) -> R:
        """Run a script as a unit of work and wait for it in this thread."""
        return self._rt.db.run(lambda connection: play(connection, make()))

    async def record(self, unit: Do[R]) -> R:
        """Run a unit of work and wait for it in this thread."""
        return self._rt.db.run(unit)


class OnLoop:
    """The steps on an event loop, shared by all issues of a process.

    Args:
        rt: the installation.
        link: the loop's way to the signer.
    """

    def __init__(self, rt: Runtime, link: SignerLink) -> None:
        self._rt, self._link = rt, link
        self._scripts = LoopScripts(rt.db)
        self._waiting: dict[str, int] = {}
        self._files: list[int] = []
        self._threaded = rt.db.dialect != "sqlite"  # SQLite answers quicker than a thread begins, and waits for nobody

    async def look(self, read: Do[R]) -> R:
        """Read the database."""
        return await asyncio.to_thread(self._rt.db.glance, read) if self._threaded else self._rt.db.glance(read)

    def hold(self, device_id: str) -> AbstractAsyncContextManager[bool]:
        """Be the only one, and let the others go on while waiting for it."""
        return _Hold(self._waiting, self._files, self._rt.settings.data, device_id)

    async def sign(self, *, sender: str, profile: str, device_id: str, spki: bytes) -> dict[str, Any]:
        """Ask the signer, with others in one message."""
        return await self._link.request("issue", sender=sender, profile=profile, device_id=device_id, spki=spki)

    async def ask(self, make: Make[R]) -> R:
        """Read the database by a script, without a thread."""
        return await self._scripts.look(make)

    async def tell(self, make: Make[R]) -> R:
        """Run a script as a unit of work, on SQLite with others in one transaction, on PostgreSQL without a thread."""
        return await self._scripts.unit(make)

    async def record(self, unit: Do[R]) -> R:
        """Run a unit of work, with others in one transaction on SQLite."""
        return await self._rt.db.arun(unit)

    async def close(self) -> None:
        """Hang up on the signer."""
        await self._link.close()
        self._scripts.close()
        while self._files:
            os.close(self._files.pop())


class _Hold(AbstractAsyncContextManager[bool]):
    """The hold of one issue on a loop.

    Args:
        waiting: how many issues of each device hold or wait.
        files: open files without a lock; they are used again, since opening costs more than locking.
        data: the data folder.
        device_id: whose issue it is.
    """

    def __init__(self, waiting: dict[str, int], files: list[int], data: Path, device_id: str) -> None:
        self._waiting, self._files, self._data, self._device_id = waiting, files, data, device_id
        self._place = _place(device_id)
        self._file = -1

    async def __aenter__(self) -> bool:
        """Wait for the hold; tell whether that took waiting."""
        before = self._waiting.get(self._device_id, 0)
        if before >= WAITING:
            raise IssueUnderWay(retry_after=1)
        self._waiting[self._device_id] = before + 1
        try:
            self._file = self._files.pop() if self._files else _open(self._data)
            if _locked(self._file, self._place):
                return False
            for pause in _pauses():
                await asyncio.sleep(pause)
                if _locked(self._file, self._place):
                    break
            return True
        except BaseException:
            self._end(broken=True)
            raise

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let go of it."""
        self._end(broken=kind is not None)

    def _end(self, *, broken: bool) -> None:
        left = self._waiting[self._device_id] - 1
        if left:
            self._waiting[self._device_id] = left
        else:
            del self._waiting[self._device_id]
        if self._file < 0:
            return
        if broken:
            os.close(self._file)  # whatever is still locked on it goes with it
        else:
            _unlock(self._file, self._place)
            self._files.append(self._file)


@contextmanager
def _opened(data: Path) -> Iterator[int]:
    """Give an open file of its own, so that the lock is of this issue and not of the process (fcntl(2): F_OFD_SETLK)."""
    file = _open(data)
    try:
        yield file
    finally:
        os.close(file)


def _open(data: Path) -> int:
    return os.open(data / "issuing.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locked(file: int, place: int) -> bool:
    """Take a device's byte if nobody has it."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlock(file: int, place: int) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, place, 1, 0))


def _place(device_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(device_id.encode(), digest_size=8).digest(), "big") >> 2


def _pauses() -> Iterator[float]:
    """Pauses between two tries, longer and longer.

    Raises:
        IssueUnderWay: `WAIT` is over.
    """
    pause, end = FIRST, time.monotonic() + WAIT
    while time.monotonic() < end:
        yield pause
        pause = min(LONGEST, 2 * pause)
    raise IssueUnderWay(retry_after=1)
