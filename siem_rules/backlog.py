"""What waits to be looked at: every sender's records apart, taken by turns, and the places that a crash leaves behind.

A stream on disk is one file with the lines of many senders. `Backlog.scan` reads on in every stream and sorts the records into
*flows*, one per stream and sender; `Backlog.next` tells whose turn it is: accounts first (a vendor's devices together), then
the flows of the account (`siem_rules.fair`). So two hours of one sender's lines, or fifty thousand at once, stand in a queue
of their own and delay nobody else's.

The place in a stream is therefore more than one number: how far it is scanned, and where those senders stand that are behind.
Every record before the scanned offset whose sender is not behind is done; of a sender that is behind, those before its own
place are. Within a flow lines stay in order.

Limits: `READ` bytes of each stream at a time; records that wait cost eight bytes each, and `KEPT` bytes of them stay in
memory, the others are read again at their turn.
"""

from array import array
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from siem_rules.delivery import UNAUTHENTICATED, Delivery, Sender, sender_of
from siem_rules.fair import Turns
from siem_rules.stream import LogStream

READ = 2 << 20
KEPT = 16 << 20
_NOTHING = Delivery(UNAUTHENTICATED, datetime.fromtimestamp(0, UTC), "", (), ())  # retention has removed it


class Behind(NamedTuple):
    """Where a sender stands: all before its record at ``offset`` is done, and that record's first ``line`` lines.

    ``size`` bytes of its records wait, that one included.
    """

    offset: int
    line: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """How far a stream is done.

    Attributes:
        offset: how far it is scanned.
        behind: label of each sender that is behind → its own place; it has nothing undone before that.
    """

    offset: int = 0
    behind: dict[str, Behind] = field(default_factory=dict)

    @property
    def oldest(self) -> int:
        """Offset of the first record that is not done."""
        return min([self.offset, *(reached.offset for reached in self.behind.values())])

    def done(self, label: str, offset: int) -> int | None:
        """Tell how many lines of a sender's record are done; None for all of them."""
        reached = self.behind.get(label)
        if offset >= self.offset:
            return 0
        if reached is None or offset < reached.offset:
            return None
        return reached.line if offset == reached.offset else 0


@dataclass(slots=True, eq=False)
class Flow:
    """The records of one sender in one stream that wait; ``line`` lines of the first are done."""

    stream: str
    account: str
    label: str
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    sizes: "array[int]" = field(default_factory=lambda: array("L"))
    size: int = 0
    begin: int = 0
    line: int = 0
    head: tuple[int, Delivery] | None = None

    def __len__(self) -> int:
        """How many records wait."""
        return len(self.offsets) - self.begin

    @property
    def offset(self) -> int:
        """Offset of the first record that waits."""
        return self.offsets[self.begin]

    def advance(self) -> None:
        """Note that the first record is done."""
        self.size -= self.sizes[self.begin]
        self.begin += 1
        self.line = 0
        if self.begin > 1024 and self.begin * 2 > len(self.offsets):
            del self.offsets[: self.begin], self.sizes[: self.begin]
            self.begin = 0

    def add(self, offset: int, size: int) -> None:
        """One more record waits."""
        self.offsets.append(offset)
        self.sizes.append(size)
        self.size += size


class Backlog:
    """All flows of all streams.

    Args:
        log: the streams.
        positions: how far each is done.
    """

    def __init__(self, log: LogStream, positions: dict[str, Position]) -> None:
        self._log = log
        self._scanned: dict[str, int] = {}
        self._flows: dict[str, dict[str, Flow]] = {}
        self._kept: dict[tuple[str, int], bytes] = {}
        self._kept_bytes = 0
        self._accounts = Turns[str]()
        self._turns: dict[str, Turns[tuple[str, str]]] = {}
        self._head: Flow | None = None
        for name, position in positions.items():
            self._resume(name, position)

    def __bool__(self) -> bool:
        """Tell whether anything waits."""
        return bool(self._accounts)

    def scan(self) -> bool:
        """Sort what is new in every stream into flows, a bounded amount; tell whether there was anything."""
        found = False
        for name in self._log.names():
            start = self._scanned.get(name, 0)
            for record in self._log.read(name, start, limit=READ):
                self._put(name, record.offset, record.payload)
                self._scanned[name] = record.end
                found = True
        return found

    def next(self) -> tuple[Flow, Delivery]:
        """Give whose turn it is, and the record to go on with.

        Raises:
            IndexError: nothing waits.
        """
        stream, label = self._turns[self._accounts.next()].next()
        flow = self._flows[stream][label]
        if flow is not self._head and self._head is not None:
            self._head.head = None  # one unpacked record at a time is enough
        self._head = flow
        if flow.head is None or flow.head[0] != flow.offset:
            payload = self._payload(flow)
            flow.head = (flow.offset, _NOTHING if payload is None else Delivery.unpack(payload))
        return flow, flow.head[1]

    def reached(self, flow: Flow, line: int, *, whole: bool) -> None:
        """Note how far the first record of a flow is done.

        Args:
            flow: whose record.
            line: how many of its lines are done.
            whole: whether that is all of it.
        """
        flow.line = line
        if not whole:
            return
        payload = self._kept.pop((flow.stream, flow.offset), None)
        self._kept_bytes -= len(payload or b"")
        flow.advance()
        if not len(flow):
            self._end(flow)

    def charge(self, flow: Flow, seconds: float) -> None:
        """Count what a turn has cost."""
        self._accounts.charge(flow.account, seconds)
        if flow.account in self._turns:
            self._turns[flow.account].charge((flow.stream, flow.label), seconds)

    def charge_account(self, account: str, seconds: float) -> None:
        """Count what was done for an account outside of its turns, as writing what its lines found."""
        self._accounts.charge(account, seconds)

    def positions(self) -> dict[str, Position]:
        """Tell how far each stream is done."""
        return {
            name: Position(
                offset,
                {one.label: Behind(one.offset, one.line, one.size) for one in self._flows.get(name, {}).values()},
            )
            for name, offset in self._scanned.items()
        }

    def _resume(self, name: str, position: Position) -> None:
        self._scanned[name] = position.offset
        if not position.behind:
            return
        for record in self._log.read(name, position.oldest, limit=max(1, position.offset - position.oldest)):
            if record.offset >= position.offset:
                return
            sender = sender_of(record.payload)
            done = position.done(sender.label, record.offset)
            if done is not None:
                flow = self._put(name, record.offset, record.payload, sender)
                flow.line = done if len(flow) == 1 else flow.line

    def _put(self, name: str, offset: int, payload: bytes, sender: Sender | None = None) -> Flow:
        sender = sender or sender_of(payload)
        flows = self._flows.setdefault(name, {})
        flow = flows.get(sender.label)
        if flow is None:
            flow = flows[sender.label] = Flow(name, sender.account, sender.label)
        flow.add(offset, len(payload))
        if self._kept_bytes + len(payload) <= KEPT:
            self._kept[name, offset] = payload
            self._kept_bytes += len(payload)
        self._turns.setdefault(flow.account, Turns()).wait((name, flow.label))
        self._accounts.wait(flow.account)
        return flow

    def _end(self, flow: Flow) -> None:
        del self._flows[flow.stream][flow.label]
        flow.head = None
        turns = self._turns[flow.account]
        turns.leave((flow.stream, flow.label))
        if not turns:
            self._accounts.leave(flow.account)

    def _payload(self, flow: Flow) -> bytes | None:
        payload = self._kept.get((flow.stream, flow.offset))
        return self._log.record_at(flow.stream, flow.offset) if payload is None else payload
