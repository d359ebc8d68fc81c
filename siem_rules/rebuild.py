"""After a restart: which of the lines that were looked at before run through the engine again, so that it remembers them.

The log from ``rebuild_from`` to each sender's place holds what any window may still need; its findings are rows already and
are thrown away. A flood of one must not make the restart long for all, nor cost the others their memory: at most `LINES` lines
are run again, shared out as memory is (accounts first, then senders: `level`), and of each sender the newest.

Ids are remembered further back than that: of the records in the last `ID_BYTES` of a stream their keys alone are read.

Limits: not more than `BYTES` of each stream are looked through.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from siem_rules.backlog import Position
from siem_rules.delivery import Sender, sender_of
from siem_rules.stream import LogStream

LINES = 200_000
BYTES = 512 << 20
ID_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Past:
    """A record that was looked at before.

    Attributes:
        stream: its stream.
        offset: its place.
        payload: the packed delivery.
        lines: how many of its lines were looked at; None for all.
        again: whether it runs through the engine again; of the others the keys are remembered only.
    """

    stream: str
    offset: int
    payload: bytes
    lines: int | None
    again: bool


def past(log: LogStream, positions: dict[str, Position], rebuild_from: dict[str, int]) -> "tuple[Iterator[Past], int]":
    """Give the records in their order, stream by stream, and how many lines are left out for want of time."""
    counts = Counter[Sender]()
    for name, position in positions.items():
        start = _start(log, name, position, rebuild_from[name], BYTES)
        for offset, payload, _ in _done(log, name, position, start):
            if offset >= rebuild_from[name]:
                counts[sender_of(payload)] += payload.count(b"\n")
    allowed = _allowed(counts, LINES)
    skipped = {sender: counts[sender] - allowed[sender] for sender in counts}
    return _chosen(log, positions, rebuild_from, dict(skipped)), sum(skipped.values())


def level(counts: Iterable[int], total: int) -> int:
    """Give the largest share so that nobody has more, and all together not more than ``total``."""
    waiting = sorted(counts)
    left = total
    for place, count in enumerate(waiting):
        share = left // (len(waiting) - place)
        if count > share:
            return share
        left -= count
    return waiting[-1] if waiting else 0


def _allowed(counts: dict[Sender, int], total: int) -> dict[Sender, int]:
    accounts: dict[str, dict[Sender, int]] = defaultdict(dict)
    for sender, count in counts.items():
        accounts[sender.account][sender] = count
    share = level((sum(senders.values()) for senders in accounts.values()), total)
    allowed: dict[Sender, int] = {}
    for senders in accounts.values():
        each = level(senders.values(), share)
        allowed |= {sender: min(count, each) for sender, count in senders.items()}
    return allowed


def _chosen(
    log: LogStream, positions: dict[str, Position], rebuild_from: dict[str, int], skip: dict[Sender, int]
) -> Iterator[Past]:
    for name, position in positions.items():
        begin = rebuild_from[name]
        start = min(_start(log, name, position, begin, BYTES), _start(log, name, position, 0, ID_BYTES))
        for offset, payload, lines in _done(log, name, position, start):
            again = offset >= begin
            if again:
                sender = sender_of(payload)
                again = skip[sender] <= 0
                skip[sender] -= payload.count(b"\n")
            yield Past(name, offset, payload, lines, again)


def _start(log: LogStream, name: str, position: Position, wanted: int, most: int) -> int:
    """Give where to begin reading: not before ``wanted``, and not much more than ``most`` bytes back."""
    floor = position.offset - most
    before = [start for start in log.starts(name) if start <= floor]
    return max(wanted, before[-1]) if before else wanted


def _done(log: LogStream, name: str, position: Position, start: int) -> Iterator[tuple[int, bytes, int | None]]:
    """Give records that were looked at, with how many of their lines were (None: all)."""
    if start >= position.offset:
        return
    for record in log.read(name, start, limit=position.offset - start):
        if record.offset >= position.offset:
            return
        done = position.done(sender_of(record.payload).label, record.offset)
        if done != 0:
            yield record.offset, record.payload, done
