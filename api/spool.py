"""Where bodies wait until they are whole: a little in memory, the rest in a file without a name in the data folder.

A slow sender's body costs disk, not memory, and only as long as its connection lives: nothing is left by a crash. One sender
may have `OF_ONE` octets waiting, all together `OF_ALL`; beyond it the sender is told to come again. How long a body may take
is the connection's affair (`api.limits`). Limits: of one process.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

from lachan.errors import TooMany

IN_MEMORY = 64 << 10  # octets of a body that are not worth a file
OF_ONE = 128 << 20
OF_ALL = 1 << 30


class SpoolFull(TooMany):
    """No more of this sender's bodies can wait here."""


class Spool:
    """The bodies that wait.

    Args:
        folder: where files are made; made with mode 0700.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: Counter[str] = Counter()
        self._all = 0

    async def take(self, label: str, stream: AsyncIterator[bytes]) -> Body:
        """Take a body in until it is whole.

        Args:
            label: of the sender.
            stream: the body.

        Raises:
            SpoolFull: too much waits here.
            OSError: the disk is full.
        """
        body = Body(self, label)
        try:
            async for piece in stream:
                if piece:
                    body.add(piece)
        except BaseException:
            body.close()
            raise
        return body

    def opened(self) -> int:
        """Open a file that has no name."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # this file system has no such files
            descriptor, name = tempfile.mkstemp(dir=self._folder)
            os.unlink(name)
            return descriptor

    def count(self, label: str, size: int) -> None:
        """Count octets in, or with a negative size out.

        Raises:
            SpoolFull: there is no room for them.
        """
        if size > 0 and (self._taken[label] + size > OF_ONE or self._all + size > OF_ALL):
            raise SpoolFull("Too many bytes of bodies wait here at once.", retry_after=1)
        self._all += size
        self._taken[label] += size
        if not self._taken[label]:
            del self._taken[label]


class Body:
    """One body.

    Attributes:
        size: octets so far.
    """

    def __init__(self, spool: Spool, label: str) -> None:
        self._spool, self._label = spool, label
        self._start = b""
        self._file = -1
        self.size = 0

    def add(self, piece: bytes) -> None:
        """Put a piece behind the others.

        Raises:
            SpoolFull: there is no room for it.
            OSError: the disk is full.
        """
        self._spool.count(self._label, len(piece))
        self.size += len(piece)
        if self._file < 0 and self.size <= IN_MEMORY:
            self._start = self._start + piece if self._start else piece
            return
        if self._file < 0:
            self._file = self._spool.opened()
            _write(self._file, self._start)
            self._start = b""
        _write(self._file, piece)

    def read(self) -> bytes:
        """Give all of it."""
        if self._file < 0:
            return self._start
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            return file.read()

    def close(self) -> None:
        """Give everything back."""
        self._spool.count(self._label, -self.size)
        self.size, self._start = 0, b""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        """Use it until the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give everything back."""
        self.close()


def _write(descriptor: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
