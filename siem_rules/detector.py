"""The detector process: tail the log, find, and write alerts, facts and the place in the log in one transaction.

Steps of one round: read what is new in every stream; parse, drop repetitions, run the engine; if anything was found, one
unit of work writes the alerts, their facts and the checkpoint, and moves nothing if another detector has moved it. Without
news (a known episode that goes on is none) this waits up to a second, so that a storm is not one of transactions. What is
found is written in slices of at most `SLICE` episodes, so that no flood holds the database; the checkpoint tells the line.

After a restart the engine's memory is rebuilt: the log from `rebuild_from` to the checkpoint runs through the engine and
its findings are thrown away, for they are rows already. A kill at any place loses nothing and doubles nothing.

Limits: one detector per installation; a round reads at most `ROUND` bytes of each stream.
"""

import contextlib
import logging
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from lachan import clock
from lachan.database import insert_ignore
from lachan.errors import DatabaseAway
from lachan.runtime import Runtime
from siem_rules import alerts, ruleset, segments, stream
from siem_rules import syslog as udp
from siem_rules.binding import Registry, bind
from siem_rules.dedupe import Seen
from siem_rules.delivery import Delivery
from siem_rules.engine import Engine, Finding
from siem_rules.errors import DetectorReplaced
from siem_rules.models import checkpoints
from siem_rules.schema.event import Place, parse
from siem_rules.settings import SiemSettings

ROUND = 1 << 20
#: Most episodes that one unit of work writes; about 1 ms each.
SLICE = 32
#: Seconds between looks at the log when no wake-up comes.
POLL = 0.025
#: Seconds between two tries to reach a database that is away.
PAUSE = 0.5
#: The log keeps at least this long and at most so many bytes per stream beyond what the detector needs.
KEEP_SECONDS = 30 * 86_400
KEEP_BYTES = 2 << 30
_CHECKPOINT_EVERY = 1.0
_HOUSEKEEPING = 30.0
_LATENESS = 120.0
_TOLD = 50_000  # episodes remembered as told
_log = logging.getLogger(__name__)


def main(
    rt: Runtime,
    stop: threading.Event,
    *,
    ready: Callable[[], None] | None = None,
    syslog: socket.socket | None = None,
) -> None:
    """Run until told to stop.

    Args:
        rt: the installation.
        stop: set by whoever wants the end.
        ready: called once the memory is rebuilt and lines are looked at.
        syslog: a bound UDP socket for unauthenticated syslog; None listens to none.

    Raises:
        DetectorReplaced: another detector took over.
    """
    detector = Detector(rt, ruleset.ours().without(SiemSettings.of(rt.settings).siem_rules_off))
    waiter = rt.waker.waiter("detect")
    listener = None if syslog is None else udp.listen(rt, stop, syslog)
    if ready is not None:
        ready()
    try:
        while not stop.is_set():
            detector, busy = _go_on(detector, stop)
            if not busy:
                waiter.wait(POLL)
        with contextlib.suppress(DatabaseAway):  # the next one reads again what is not written
            detector.commit()
    finally:
        waiter.close()
        if listener is not None:
            listener.join()


def _go_on(detector: "Detector", stop: threading.Event) -> tuple["Detector", bool]:
    """Do a round; give who does the next one, and whether there was anything to read."""
    try:
        return detector, detector.round()
    except DatabaseAway:  # it was said, once; findings wait
        stop.wait(PAUSE)
        return detector, False
    except DetectorReplaced:
        if not detector.doubt:
            raise
        return Detector(detector._rt, detector.rules), True  # replaced by its own commit: go on from what stands


class Reached(NamedTuple):
    """How far a stream is read: everything before the record at ``offset``, and its first ``line`` lines."""

    offset: int
    line: int


BEGIN = Reached(0, 0)


class Detector:
    """The engine and its place in the log.

    Args:
        rt: the installation.
        rules: what to look for.
    """

    def __init__(self, rt: Runtime, rules: ruleset.RuleSet) -> None:
        self._rt, self._log, self.rules = rt, segments.opened(rt), rules
        self.doubt = False  # whether a commit had no answer: it may stand all the same
        self._registry = Registry(rt.db)
        self.engine = Engine(rules, partial(_bind, self._registry))
        self._horizon = rules.horizon + _LATENESS
        self._seen = Seen()
        self._positions: dict[str, Reached] = {}
        self._committed: dict[str, Reached] = {}
        self._marks: dict[str, deque[tuple[float, int]]] = {}
        self._findings: list[Finding] = []
        self._told: dict[tuple[str, ...], tuple[float, frozenset[str]]] = {}
        self._episodes: set[tuple[str, ...]] = set()  # of the findings that are not written yet
        self._judged = 0  # how many of the findings were asked whether they are urgent
        self._saved = self._kept_house = time.monotonic()
        self.counters: Counter[str] = Counter()
        self._rebuild()

    def round(self) -> bool:
        """Read what is new and act on it; tell whether there was anything."""
        busy = False
        for name in self._log.names():
            for record in self._log.read(name, self._positions.get(name, BEGIN).offset, limit=ROUND):
                while not self._take(name, record):
                    self.commit()
                busy = True
        if self._urgent() or time.monotonic() - self._saved > _CHECKPOINT_EVERY:
            self.commit()
        if time.monotonic() - self._kept_house > _HOUSEKEEPING:
            self._keep_house()
        return busy

    def commit(self) -> None:
        """Write findings and place in one transaction.

        Raises:
            DetectorReplaced: another detector moved the checkpoint; nothing was written.
        """
        if not self._findings and self._positions == self._committed:
            return
        findings, positions = alerts.deduplicated(self._findings), dict(self._positions)
        lines = {place: self._evidence(place) for finding in findings for place in finding.places}

        def unit(connection: sa.Connection) -> None:
            self._move(connection, positions)
            for finding in findings:
                self._record(connection, finding, lines.get)

        try:
            self._rt.db.run(unit, urgent=True)
        except DatabaseAway:
            self.doubt = True
            raise
        self.doubt = False
        raised = bool(self._findings)
        self.counters["findings"] += len(self._findings)
        self._findings, self._judged = [], 0
        self._episodes.clear()
        self._committed = positions
        self._saved = time.monotonic()
        if raised:
            self._rt.wake()

    def _record(self, connection: sa.Connection, finding: Finding, fetch: alerts.Fetch) -> None:
        """Write one finding; one that the database cannot keep is counted and must not stop those beside it."""
        try:
            with connection.begin_nested():
                alerts.record(connection, finding, fetch)
        except (sa.exc.DataError, sa.exc.StatementError, ValueError, OverflowError) as error:
            if isinstance(error, sa.exc.OperationalError):  # the database does not answer: all of it again, later
                raise
            self.counters["unrecorded"] += 1
            _log.exception("a finding of rule %s cannot be recorded", finding.rule.id)

    def _urgent(self) -> bool:
        """Tell whether a finding says something new; that a known episode goes on may wait a second."""
        urgent = False
        for finding in self._findings[self._judged :]:
            key = (finding.rule.id, *finding.group)
            last, senders = self._told.get(key, (float("-inf"), frozenset()))
            urgent = urgent or finding.first > last + finding.rule.span or not finding.senders <= senders
            self._told[key] = (max(last, finding.last), senders | finding.senders)
        self._judged = len(self._findings)
        if len(self._told) > _TOLD:
            self._told.clear()
        return urgent

    def _take(self, name: str, record: stream.StreamRecord) -> bool:
        """Read a record from the line on that was reached; tell whether it is done, or a slice is full before its end."""
        delivery = Delivery.unpack(record.payload)
        received = delivery.received.timestamp()
        marks = self._marks.setdefault(name, deque())
        if not marks or received - marks[-1][0] > 10:
            marks.append((received, record.offset))
        reached = self._positions.get(name, BEGIN)
        begin = reached.line if reached.offset == record.offset else 0
        keys = delivery.line_keys()
        for number in range(begin, len(keys)):
            if len(self._episodes) >= SLICE:
                self._positions[name] = Reached(record.offset, number)
                return False
            try:
                found = self._line(delivery, number, keys[number], received, Place(name, record.offset, number))
            except (
                sa.exc.OperationalError,
                DatabaseAway,
            ):  # the registry does not answer: from this line on again, later
                self._positions[name] = Reached(record.offset, number)
                raise
            self._findings += found
            self._episodes.update((finding.rule.id, *finding.group) for finding in found)
        self._positions[name] = Reached(record.end, 0)
        return True

    def _line(self, delivery: Delivery, number: int, key: bytes | None, received: float, place: Place) -> list[Finding]:
        if key is not None and not self._seen.add(key):
            self.counters["repeated"] += 1
            return []
        self.counters["events"] += 1
        try:
            event = parse(delivery, number, stream=place.stream, offset=place.offset)
            return self.engine.process(event, received=received)
        except (sa.exc.OperationalError, DatabaseAway):
            if key is not None:
                self._seen.forget(key)
            raise
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            # A line that our code does not understand must not blind the detector to the next one.
            self.counters["unreadable"] += 1
            _log.exception("line %d of the record at %s:%d is skipped", number, place.stream, place.offset)
            return []

    def _move(self, connection: sa.Connection, positions: dict[str, "Reached"]) -> None:
        for name, reached in positions.items():
            before = self._committed.get(name)
            if reached == before:
                continue
            values: dict[str, Any] = {
                "position": reached.offset,
                "line": reached.line,
                "rebuild_from": self._rebuild_from(name),
            }
            values["updated_at"] = clock.now()
            if before is None:
                fresh = insert_ignore(connection, checkpoints, {"stream": name, **values}, index=("stream",))
                if not fresh:
                    raise DetectorReplaced(f"Stream {name} has a checkpoint already.")
                continue
            c = checkpoints.c
            here = sa.and_(c.stream == name, c.position == before.offset, c.line == before.line)
            if connection.execute(checkpoints.update().where(here).values(**values)).rowcount != 1:
                raise DetectorReplaced(f"The checkpoint of {name} is no longer at {before.offset}:{before.line}.")

    def _rebuild_from(self, name: str) -> int:
        marks, oldest = self._marks[name], clock.now().timestamp() - self._horizon
        while len(marks) > 1 and marks[1][0] < oldest:
            marks.popleft()
        return marks[0][1]

    def _rebuild(self) -> None:
        with self._rt.db.read() as connection:
            rows = connection.execute(sa.select(checkpoints)).mappings().all()
        for row in rows:
            name, reached = str(row["stream"]), Reached(int(row["position"]), int(row["line"]))
            self._marks[name] = deque([(clock.now().timestamp(), int(row["rebuild_from"]))])
            self._remember(name, int(row["rebuild_from"]), reached)
            self._positions[name] = self._committed[name] = reached
        self.counters.clear()

    def _remember(self, name: str, start: int, reached: "Reached") -> None:
        """Run what was read before through the engine again; its findings are rows already."""
        for record in self._log.read(name, start, limit=1 << 40):
            whole = record.end <= reached.offset
            if not whole and (record.offset != reached.offset or not reached.line):
                return
            delivery = Delivery.unpack(record.payload)
            keys = delivery.line_keys()
            for number in range(len(keys) if whole else reached.line):
                place = Place(name, record.offset, number)
                self._line(delivery, number, keys[number], delivery.received.timestamp(), place)

    def _evidence(self, place: Place) -> dict[str, Any] | None:
        payload = self._log.record_at(place.stream, place.offset)
        if payload is None:
            return None
        delivery = Delivery.unpack(payload)
        return {
            "sender": delivery.sender.label, "received": clock.iso(delivery.received),
            "line": delivery.lines[place.line].decode("utf-8", "replace"),
            "stream": place.stream, "offset": place.offset, "number": place.line,
        }  # fmt: skip

    def _keep_house(self) -> None:
        self._kept_house = time.monotonic()
        self.engine.expire(clock.now().timestamp())
        for name in self._committed:
            self._log.expire(
                name, before=self._marks[name][0][1], keep_bytes=KEEP_BYTES,
                older_than=clock.now().timestamp() - KEEP_SECONDS,
            )  # fmt: skip


def _bind(registry: Registry, event: Any, subject: str) -> Any:
    return bind(event, subject, registry.resolve)
