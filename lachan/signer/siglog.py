"""The signer's own append-only log: every signature and every refusal, durable before its answer leaves.

One JSON object per line in ``signatures.log``: ``n`` (counts from 1), ``id``, ``time``, ``kind``, ``subject``, ``digest``
(SHA-256 of what was signed, hex), ``outcome`` (`SignatureOutcome`), ``reason`` of a refusal, ``device_id`` of a signature for a device,
``authority`` of one in an authority's name, and the asking process (``pid``, ``uid``). Requests that arrive together share one fsync: the first of them becomes the leader and writes for all. A line
that a crash cut short is ended by the next start and never counted; its answer was never sent. When the disk refuses a
line, nothing is signed until the next start. Limits: one writer; the file grows until an operator archives it.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from lachan import clock
from lachan.ids import new_id

WINDOW = 1 << 20


class SignatureOutcome(StrEnum):
    """How a request ended."""

    SIGNED = "signed"
    REFUSED = "refused"
    FAILED = "failed"


class SignatureLog:
    """The log of one signer; threads may append at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
        self._state = threading.Lock()  # guards what follows
        self._pending: list[bytes] = []
        self._n = self._last_number()
        self._queued = self._durable = 0
        self._broken: OSError | None = None
        self._writing = threading.Lock()
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def append(self, kind: str, lines: Sequence[Mapping[str, Any]], *, pid: int = 0, uid: int = 0) -> int:
        """Write lines and return when they are durable.

        Args:
            kind: of the request.
            lines: ``subject``, ``digest``, ``outcome``, ``reason``, ``device_id`` of each.
            pid: process that asked.
            uid: user that asked.

        Returns:
            The number of the last line.

        Raises:
            OSError: the disk refused this line or an earlier one; no answer may leave.
        """
        time = clock.iso(clock.now())
        with self._state:
            for line in lines:
                self._n += 1
                record = {"n": self._n, "id": new_id(), "time": time, "kind": kind, **line, "pid": pid, "uid": uid}
                self._pending.append(_written(record))
            self._queued += len(lines)
            number, mine = self._n, self._queued
        with self._writing:  # whoever waits here is usually served by the leader before it
            with self._state:
                if self._durable >= mine:
                    return number
                if self._broken:
                    raise OSError(f"the signer's log could not be written: {self._broken}")
                batch, self._pending, upto = b"".join(self._pending), [], self._queued
            try:
                _write_all(self._file, batch)
                os.fdatasync(self._file)
            except OSError as error:
                self._broken = error  # those who wait behind us must not believe that their lines are there
                raise
            with self._state:
                self._durable = upto
        return number

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _last_number(self) -> int:
        size = os.fstat(self._file).st_size
        window = 1 << 16
        while True:
            start = max(0, size - window)
            numbers = [line["n"] for _, line in _parse(os.pread(self._file, size - start, start), start)]
            if numbers or start == 0:
                return max(numbers, default=0)
            window *= 4


def read(path: Path, *, after: int = 0, limit: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Whole lines from byte ``after`` on, each with the byte position behind it; at most about ``limit`` bytes."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(after)
        position = after
        for raw in file:
            if not raw.endswith(b"\n") or (limit is not None and position - after > limit):
                return
            position += len(raw)
            for _, line in _parse(raw, 0):
                yield position, line


def since(path: Path, moment: datetime) -> Iterator[dict[str, Any]]:
    """Whole lines that were written at ``moment`` or later; read from the end, so the cost is theirs and not the file's."""
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        rest = b""
        while start and (not rest or _moment(rest) is None or (_moment(rest) or moment) >= moment):
            step = min(start, WINDOW)
            start -= step
            file.seek(start)
            rest = file.read(step) + rest
    for _, line in _parse(rest, 0):
        if clock.parse(line["time"]) >= moment:
            yield line


def _moment(data: bytes) -> datetime | None:
    """When the first whole line was written; None if there is none."""
    for _, line in _parse(data[:4096], 0):
        return clock.parse(line["time"])
    return None


def _parse(data: bytes, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    position = start
    for raw in data.splitlines(keepends=True):
        position += len(raw)
        if not raw.endswith(b"\n"):
            continue
        try:
            line = json.loads(raw)
        except ValueError:
            continue  # cut short by a crash, or the middle of a line at the window's edge
        if isinstance(line, dict) and "n" in line:
            yield position, line


def _written(record: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a lone surrogate in a caller's word, which JSON can say only escaped
        return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
