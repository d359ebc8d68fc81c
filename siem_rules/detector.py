"""The detector process: take the log's lines by turns, find, and write alerts, facts and the place in the log in one transaction.

A round is a bounded slice of work. Steps: sort what is new in every stream into the senders' queues; for `SLICE_SECONDS` take
turns of `TURN_SECONDS` (`siem_rules.backlog` says whose), parse, drop repetitions, run the engine; if anything new was found, one unit of
work writes the alerts, their facts and the checkpoint, and moves nothing if another detector has moved it. Without news (a
known episode that goes on is none) this waits up to a second, so that a storm is not one of transactions. One unit writes
at most `SLICE` episodes, so that no flood holds the database. Whose lines found them pays for writing them with later turns.

After a restart the engine's memory is rebuilt (`siem_rules.rebuild`). A kill at any place loses nothing and doubles nothing.

Limits: one detector per installation.
"""

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.errors import DatabaseAway
from lachan.runtime import Runtime
from siem_rules import alerts, ruleset, segments
from siem_rules import syslog as udp
from siem_rules.backlog import Backlog
from siem_rules.binding import Registry, bind
from siem_rules.checkpoint import LogPlaces
from siem_rules.dedupe import Seen
from siem_rules.delivery import Delivery
from siem_rules.engine import Engine, Finding
from siem_rules.errors import DetectorReplaced
from siem_rules.forgotten import Forgotten
from siem_rules.rebuild import past
from siem_rules.schema.event import Place, parse
from siem_rules.schema.times import Clocks
from siem_rules.settings import SiemSettings
from siem_rules.stream import LogStream

#: Seconds of one slice, and of one sender's turn in it.
SLICE_SECONDS = 0.03
TURN_SECONDS = 0.01
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


class Detector:
    """The engine and its place in the log.

    Args:
        rt: the installation.
        rules: what to look for.
    """

    def __init__(self, rt: Runtime, rules: ruleset.RuleSet) -> None:
        self._rt, self._log, self.rules = rt, segments.opened(rt), rules
        self.doubt = False  # whether a commit had no answer: it may stand all the same
        self.engine = Engine(rules, partial(_bind, Registry(rt.db)))
        self._seen, self._clocks, self._forgotten = Seen(), Clocks(), Forgotten(rt)
        with rt.db.read() as connection:
            self._checkpoint = LogPlaces(connection, self._log, horizon=rules.horizon + _LATENESS)
        self._backlog = Backlog(self._log, self._checkpoint.positions)
        self._findings: list[Finding] = []
        self._told: dict[tuple[str, ...], tuple[float, frozenset[str]]] = {}
        self._episodes: set[tuple[str, ...]] = set()  # of the findings that are not written yet
        self._accounts: Counter[str] = Counter()  # whose lines found them
        self._judged = 0  # how many of the findings were asked whether they are urgent
        self._saved = self._kept_house = time.monotonic()
        self.counters: Counter[str] = Counter()
        self._rebuild()

    def round(self) -> bool:
        """Do one slice of what waits; tell whether there was anything."""
        busy = self._backlog.scan()
        until = time.monotonic() + SLICE_SECONDS
        while self._backlog and time.monotonic() < until:
            busy = True
            self._turn()
            if len(self._episodes) >= SLICE:
                self.commit()
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
        positions = self._backlog.positions()
        if not self._findings and positions == self._checkpoint.positions:
            return
        began = time.perf_counter()
        findings = alerts.deduplicated(self._findings)
        evidence = Quotes(self._log)
        lines = {place: evidence.line(place) for finding in findings for place in finding.places}

        def unit(connection: sa.Connection) -> None:
            self._checkpoint.move(connection, positions)
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
        self._checkpoint.moved(positions)
        self._saved = time.monotonic()
        self._settle(time.perf_counter() - began)
        if raised:
            self._rt.wake()

    def _settle(self, seconds: float) -> None:
        """Charge those whose lines found something with what writing it has cost, and begin anew."""
        total = self._accounts.total()
        for account, count in self._accounts.items():
            self._backlog.charge_account(account, seconds * count / total)
        self._findings, self._judged = [], 0
        self._episodes.clear()
        self._accounts.clear()

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
            urgent = urgent or finding.received > last + alerts.QUIET or not finding.heard.keys() <= senders
            self._told[key] = (max(last, finding.received), senders | finding.heard.keys())
        self._judged = len(self._findings)
        if len(self._told) > _TOLD:
            self._told.clear()
        return urgent

    def _turn(self) -> None:
        """Look at lines of one sender, for a moment; the next turn is that of whoever waited longest."""
        flow, delivery = self._backlog.next()
        began = time.perf_counter()
        keys, number, offset, now = delivery.ids, flow.line, flow.offset, clock.now().timestamp()
        self._checkpoint.mark(flow.stream, offset)
        try:
            while number < len(keys) and len(self._episodes) < SLICE:
                found = self._line(delivery, number, now, Place(flow.stream, offset, number))
                number += 1
                if found:
                    self._findings += found
                    self._episodes.update((finding.rule.id, *finding.group) for finding in found)
                    self._accounts[flow.account] += len(found)
                if time.perf_counter() - began > TURN_SECONDS:
                    break
        finally:  # when the registry does not answer: from this line on again, later
            self._backlog.reached(flow, number, whole=number >= len(keys))
            self._backlog.charge(flow, time.perf_counter() - began)

    def _line(self, delivery: Delivery, number: int, now: float, place: Place) -> list[Finding]:
        key = delivery.ids[number]
        if key is not None and not self._seen.add(delivery.sender, key):
            self.counters["repeated"] += 1
            return []
        self.counters["events"] += 1
        try:
            event = parse(delivery, number, clocks=self._clocks, place=place)
            return self.engine.process(event, received=now)
        except (sa.exc.OperationalError, DatabaseAway):
            if key is not None:
                self._seen.forget(delivery.sender, key)
            raise
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            # A line that our code does not understand must not blind the detector to the next one.
            self.counters["unreadable"] += 1
            _log.exception("line %d of the record at %s:%d is skipped", number, place.stream, place.offset)
            return []

    def _rebuild(self) -> None:
        """Run what was looked at before through the engine again; its findings are rows already."""
        records, skipped = past(self._log, self._checkpoint.positions, self._checkpoint.rebuild_from)
        now = clock.now().timestamp()
        for record in records:
            delivery = Delivery.unpack(record.payload)
            for number in range(len(delivery.ids) if record.lines is None else record.lines):
                key = delivery.ids[number]
                if record.again:
                    self._line(delivery, number, now, Place(record.stream, record.offset, number))
                elif key is not None:
                    self._seen.add(delivery.sender, key)
        self.counters.clear()
        self.counters["rebuild_skipped"] = skipped

    def _keep_house(self) -> None:
        self._kept_house = time.monotonic()
        self.engine.expire(clock.now().timestamp())
        self._forgotten.tell(
            self.engine.forgotten + Counter({("ids", who): n for who, n in self._seen.forgotten.items()})
        )
        for name in self._checkpoint.positions:
            self._log.expire(
                name, before=self._checkpoint.needed(name), keep_bytes=KEEP_BYTES,
                older_than=clock.now().timestamp() - KEEP_SECONDS,
            )  # fmt: skip


class Quotes:
    """Lines of evidence from the log; each record is read once."""

    def __init__(self, log: LogStream) -> None:
        self._log = log
        self._read: dict[tuple[str, int], Delivery | None] = {}

    def line(self, place: Place) -> dict[str, Any] | None:
        """Give a line with who delivered it and when; None if retention has removed it."""
        key = place.stream, place.offset
        if key not in self._read:
            payload = self._log.record_at(*key)
            self._read[key] = None if payload is None else Delivery.unpack(payload)
        delivery = self._read[key]
        if delivery is None:
            return None
        return {
            "sender": delivery.sender.label, "received": clock.iso(delivery.received),
            "line": delivery.lines[place.line].decode("utf-8", "replace"),
            "stream": place.stream, "offset": place.offset, "number": place.line,
        }  # fmt: skip


def _bind(registry: Registry, event: Any, subject: str) -> Any:
    return bind(event, subject, registry.resolve)
