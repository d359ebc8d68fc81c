"""The detector's place in the log: read at its start, moved in the transaction that writes what it found.

A row per stream: how far it is scanned, which senders are behind and where they stand (`siem_rules.backlog.Position`), and from
where the memory of the engine is rebuilt. That last one follows the time at which records were looked at, never what the
lines say of their times. ``round`` fences: a second detector that moves the row makes the first one stop.

Limits: ``behind`` grows with the number of senders that wait at this moment.
"""

import time
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import insert_ignore
from siem_rules.backlog import Behind, Position
from siem_rules.delivery import sender_of
from siem_rules.errors import DetectorReplaced
from siem_rules.models import checkpoints
from siem_rules.stream import LogStream

_BUCKET = 10.0  # seconds


class Lookback:
    """The lowest offset that was looked at in each of the last stretches of time: from there the memory is rebuilt.

    Args:
        horizon: seconds that any memory looks back over.
    """

    def __init__(self, horizon: float) -> None:
        self._horizon = horizon
        self._lowest: dict[int, int] = {}

    def note(self, offset: int) -> None:
        """Note that a record at this offset is looked at now."""
        bucket = int(time.monotonic() / _BUCKET)
        if offset < self._lowest.get(bucket, offset + 1):
            self._lowest[bucket] = offset

    def start(self, reached: int) -> int:
        """Tell from where on memory counts; ``reached`` when nothing was looked at for that long."""
        oldest = int((time.monotonic() - self._horizon) / _BUCKET)
        self._lowest = {bucket: offset for bucket, offset in self._lowest.items() if bucket >= oldest}
        return min([reached, *self._lowest.values()])


class LogPlaces:
    """The rows as this detector knows them.

    Args:
        connection: for reading.
        log: the streams.
        horizon: seconds that any memory looks back over.
    """

    def __init__(self, connection: sa.Connection, log: LogStream, *, horizon: float) -> None:
        self._horizon = horizon
        self.positions: dict[str, Position] = {}
        self.rebuild_from: dict[str, int] = {}
        self.marks: dict[str, Lookback] = {}
        self._rounds: dict[str, int] = {}
        for row in connection.execute(sa.select(checkpoints)).mappings():
            name = str(row["stream"])
            self.positions[name] = _position(row, log)
            self.rebuild_from[name] = int(row["rebuild_from"])
            self._rounds[name] = int(row["round"])
            self.mark(name, self.rebuild_from[name])

    def mark(self, name: str, offset: int) -> None:
        """Note that a record is looked at now."""
        marks = self.marks.get(name)
        if marks is None:
            marks = self.marks[name] = Lookback(self._horizon)
        marks.note(offset)

    def needed(self, name: str) -> int:
        """Offset of the oldest record that is still needed."""
        position = self.positions.get(name, Position())
        return min(position.oldest, self.start(name, position))

    def start(self, name: str, position: Position) -> int:
        """Offset from which the memory of a stream would be rebuilt."""
        return self.marks[name].start(position.offset) if name in self.marks else position.offset

    def move(self, connection: sa.Connection, positions: dict[str, Position]) -> None:
        """Write the places that have changed; `moved` when the transaction stands.

        Raises:
            DetectorReplaced: another detector moved one of them; nothing must be written.
        """
        c = checkpoints.c
        for name, position in positions.items():
            if position == self.positions.get(name):
                continue
            number = self._rounds.get(name, 0)
            values: dict[str, Any] = {
                "position": position.offset, "line": 0, "behind": {k: list(v) for k, v in position.behind.items()},
                "rebuild_from": self.start(name, position), "round": number + 1, "updated_at": clock.now(),
            }  # fmt: skip
            if name not in self._rounds:
                if not insert_ignore(connection, checkpoints, {"stream": name, **values}, index=("stream",)):
                    raise DetectorReplaced(f"Stream {name} has a checkpoint already.")
                continue
            here = sa.and_(c.stream == name, c.round == number)
            if connection.execute(checkpoints.update().where(here).values(**values)).rowcount != 1:
                raise DetectorReplaced(f"The checkpoint of {name} was moved by another detector.")

    def moved(self, positions: dict[str, Position]) -> None:
        """Note that what `move` wrote stands."""
        for name, position in positions.items():
            if position != self.positions.get(name):
                self._rounds[name] = self._rounds.get(name, 0) + 1
        self.positions = positions


def _position(row: Any, log: LogStream) -> Position:
    offset, line = int(row["position"]), int(row["line"])
    behind = {label: Behind(*reached) for label, reached in (row["behind"] or {}).items()}
    if line:  # written by a version that knew one place per stream: the record there was begun
        for record in log.read(str(row["stream"]), offset, limit=1):
            return Position(record.end, behind | {sender_of(record.payload).label: Behind(offset, line)})
    return Position(offset, behind)
