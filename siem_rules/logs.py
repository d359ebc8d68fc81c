"""Look at the newest lines of the log, for timelines and ``lachan logs tail``.

Reads the log backwards, newest first, and stops after `LOOK` bytes per stream: this is for looking, search is
Elasticsearch's part.
"""

from dataclasses import dataclass
from datetime import datetime

from lachan.runtime import Runtime
from siem_rules import segments
from siem_rules.delivery import Delivery

LOOK = 32 << 20
_LINE = 2000


@dataclass(frozen=True)
class Line:
    """One line as it lies in the log; ``line`` may be an attacker's words."""

    received: datetime
    sender: str
    line: str


def newest(rt: Runtime, *, limit: int = 50, sender: str = "") -> list[Line]:
    """Give the newest lines, newest first.

    Args:
        rt: the installation.
        limit: most lines.
        sender: only this sender's label; empty for all.
    """
    found: list[Line] = []
    log = segments.opened(rt)
    for name in log.names():
        lines: list[Line] = []
        end = log.position(name)
        oldest = end - LOOK
        for start in reversed(log.starts(name)):
            if len(lines) >= limit or end < oldest:
                break
            part: list[Line] = []
            for record in log.read(name, start, limit=max(1, end - start)):
                delivery = Delivery.unpack(record.payload)
                if not sender or delivery.sender.label == sender:
                    part += [
                        Line(delivery.received, delivery.sender.label, line.decode("utf-8", "replace")[:_LINE])
                        for line in delivery.lines
                    ]
            lines += reversed(part)
            end = start
        found += lines[:limit]
    return sorted(found, key=lambda line: line.received, reverse=True)[:limit]
