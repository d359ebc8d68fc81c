"""Look at the newest lines of the log, for timelines and ``lachan logs tail``.

Reads segments backwards, newest first, and stops after `LOOK` bytes per stream: this is for looking, search is
Elasticsearch's part.
"""

from dataclasses import dataclass
from datetime import datetime

from lachan.runtime import Runtime
from siem_rules import ingest, segments
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
    """The newest lines, newest first.

    Args:
        rt: the installation.
        limit: most lines.
        sender: only this sender's label; empty for all.
    """
    found: list[Line] = []
    root = ingest.folder(rt)
    for stream in segments.streams(root):
        lines: list[Line] = []
        looked = 0
        for base, path in reversed(segments.segment_files(root / stream)):
            if len(lines) >= limit or looked > LOOK:
                break
            size = path.stat().st_size
            looked += size
            part: list[Line] = []
            for record in segments.read(root / stream, base, limit=max(1, size)):
                delivery = Delivery.unpack(record.payload)
                if not sender or delivery.sender.label == sender:
                    part += [
                        Line(delivery.received, delivery.sender.label, line.decode("utf-8", "replace")[:_LINE])
                        for line in delivery.lines
                    ]
            lines += reversed(part)
        found += lines[:limit]
    return sorted(found, key=lambda line: line.received, reverse=True)[:limit]
