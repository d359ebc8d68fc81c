"""SharedMemory that several processes of one door share, so that a limit is the door's, whatever their number.

Steps: ``lachan serve`` makes a `SharedMemory` (no file has a name) and hands its descriptor down → each process asks for regions by
name, made by the first who asks → `SharedCounts` and `SharedTokens` keep what they count there, under a lock of the kernel's that a
killed process lets go of. Each process counts in a column of its own; who starts in a dead one's place clears it.

Limits: Linux. Keys are hashed, 16 bytes by a key that nobody outside knows; eight keys whose hashes fall together share
a *set*, and a ninth finds no place (`SharedCounts` refuses it, `SharedTokens` forgets the one used longest ago). One machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import secrets
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PROCESSES = 16  # most processes of one door
ENV = "LACHAN_SHARED"  # descriptor, own place
_HEADER, _ENTRIES = 4096, 32
Change = Callable[[float | None, float, float], tuple[float, float]]
_PLACE = struct.Struct("<40sQQ")
_SET = 8
_TOKEN = struct.Struct("<16sdd")


class SharedMemory:
    """The memory of one door.

    Attributes:
        place: of this process among the door's, from 0.

    Args:
        descriptor: of the memory; the caller keeps it.
        place: of this process.
    """

    def __init__(self, descriptor: int, *, place: int) -> None:
        if not 0 <= place < PROCESSES:
            raise ValueError(f"a door has at most {PROCESSES} processes")
        self.place = place
        # Opened anew: flock(2) excludes those who opened, and whoever inherits a descriptor has not.
        self._descriptor = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._inside = threading.Lock()
        with self.locked():
            if os.fstat(descriptor).st_size < _HEADER:
                os.ftruncate(descriptor, _HEADER)
            self._header = mmap.mmap(descriptor, _HEADER)
            if self._header[:32] == bytes(32):
                self._header[:32] = secrets.token_bytes(32)
            self._secret = self._header[:32]

    @classmethod
    def alone(cls) -> SharedMemory:
        """SharedMemory for a process that has no others beside it."""
        made = create()
        try:
            return cls(made, place=0)
        finally:
            os.close(made)

    @classmethod
    def inherited(cls) -> SharedMemory:
        """Give the memory that ``lachan serve`` handed down; one of its own without."""
        words = os.environ.get(ENV, "").split(",")
        return cls(int(words[0]), place=int(words[1])) if len(words) > 1 else cls.alone()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one, among all threads of all processes; a process that dies lets go."""
        with self._inside:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def region(self, name: str, size: int) -> mmap.mmap:
        """Give a region by name, all zero at first.

        Raises:
            ValueError: somebody asked for the same name with another size, or there are too many.
        """
        wanted = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        with self.locked():
            for entry in range(_ENTRIES):
                at = 64 + entry * _PLACE.size
                known, offset, length = _PLACE.unpack_from(self._header, at)
                if not length:
                    offset, length = os.fstat(self._descriptor).st_size, wanted
                    os.ftruncate(self._descriptor, offset + length)
                    _PLACE.pack_into(self._header, at, name.encode(), offset, length)
                elif known.rstrip(b"\0") != name.encode():
                    continue
                if length != wanted:
                    raise ValueError(f"{name} has {length} bytes, not {wanted}: the processes have other settings")
                return mmap.mmap(self._descriptor, length, offset=offset)
        raise ValueError("too many regions")

    def hashed(self, key: object) -> bytes:
        """Give the 16 bytes that stand for a key; never zero in all."""
        return hashlib.blake2b(repr(key).encode(), digest_size=16, key=self._secret).digest()


def create() -> int:
    """Make the memory of a door; gives its descriptor, which children inherit by ``pass_fds``."""
    return os.memfd_create("lachan-door")


class SharedCounts:
    """How many of something each key has, in all processes, and how many there are in all.

    Args:
        memory: of the door.
        name: of the region.
        most: of keys that may have some at once.
    """

    def __init__(self, memory: SharedMemory, name: str, *, most: int) -> None:
        self._memory = memory
        self._sets = _power_of_two(4 * most // _SET)
        rooms = self._sets * _SET
        self._raw = memory.region(name, 16 * rooms + 4 * PROCESSES * rooms + 8 * PROCESSES)
        view = memoryview(self._raw)
        self._keys = view[: 16 * rooms]
        counts = view[16 * rooms : 16 * rooms + 4 * PROCESSES * rooms].cast("I")
        self._columns = [counts[place * rooms : (place + 1) * rooms] for place in range(PROCESSES)]
        totals = 16 * rooms + 4 * PROCESSES * rooms
        self._totals = view[totals : totals + 8 * PROCESSES].cast("Q")
        with memory.locked():  # what a dead process in this place had is gone with it
            self._columns[memory.place][:] = memoryview(bytes(4 * rooms)).cast("I")
            self._totals[memory.place] = 0

    def add(self, key: object, *, of_one: int, of_all: int) -> bool:
        """Count one more; False, and nothing counted, when the key or all have as many as they may."""
        name, place = self._memory.hashed(key), self._memory.place
        with self._memory.locked():
            room = self._room(name)
            if room is None or self._sum(room) >= of_one or sum(self._totals) >= of_all:
                return False
            self._keys[16 * room : 16 * room + 16] = name
            self._columns[place][room] += 1
            self._totals[place] += 1
        return True

    def take_back(self, key: object) -> None:
        """Count one less, which this process added."""
        name, place = self._memory.hashed(key), self._memory.place
        with self._memory.locked():
            room = self._room(name)
            if room is not None and self._columns[place][room]:
                self._columns[place][room] -= 1
                self._totals[place] -= 1

    def total(self) -> int:
        """Tell how many there are in all processes."""
        return sum(self._totals)

    def of(self, key: object) -> int:
        """Tell how many a key has in all processes."""
        name = self._memory.hashed(key)
        with self._memory.locked():
            room = self._room(name)
            return 0 if room is None else self._sum(room)

    def _sum(self, room: int) -> int:
        return sum(column[room] for column in self._columns)

    def _room(self, name: bytes) -> int | None:
        """Find the key's room, or a free one; its key may be an old one's, whose count is zero."""
        first, free = _set_of(name, self._sets), None
        for room in range(first, first + _SET):
            if self._keys[16 * room : 16 * room + 16] == name:
                return room
            if free is None and not self._sum(room):
                free = room
        if free is not None:
            self._keys[16 * free : 16 * free + 16] = name
        return free


class SharedTokens:
    """Token buckets by key (`lachan.buckets`), the same for all processes.

    Args:
        memory: of the door.
        name: of the region.
        most: of keys that are remembered.
    """

    def __init__(self, memory: SharedMemory, name: str, *, most: int) -> None:
        self._memory = memory
        self._sets = _power_of_two(2 * most // _SET)
        self._raw = memory.region(name, self._sets * _SET * _TOKEN.size)

    def change(self, key: object, change: Change) -> float:
        """Have a bucket's content replaced, under the lock.

        Args:
            key: whose bucket.
            change: given what was left (None: it is full), when, and the time now, gives the wait and what is left.

        Returns:
            The wait.
        """
        name = self._memory.hashed(key)
        with self._memory.locked():
            now = time.monotonic()  # the machine's, not the process's
            at, left, since = self._found(name)
            wait, rest = change(left, since, now)
            _TOKEN.pack_into(self._raw, at, name, rest, now)
        return wait

    def _found(self, name: bytes) -> tuple[int, float | None, float]:
        first = _set_of(name, self._sets)
        oldest, oldest_at = float("inf"), first * _TOKEN.size
        for room in range(first, first + _SET):
            at = room * _TOKEN.size
            known, left, since = _TOKEN.unpack_from(self._raw, at)
            if known == name:
                return at, left, since
            if since < oldest:
                oldest, oldest_at = since, at
        return oldest_at, None, 0.0


def _set_of(name: bytes, sets: int) -> int:
    return int.from_bytes(name[:8], "little") % sets * _SET


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 1).bit_length()
