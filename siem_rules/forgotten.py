"""What the detector forgot for want of room is told: a number for everybody, and a fact about whoever's lines it was.

Groups and matches of a correlation that go can hide an attack (design decision 8 says from whom they are taken); ids that go
can only show a line twice. `Forgotten.tell` adds what went since the last time to the rows that ``/metrics`` reads, and records
`EvidenceForgotten` about a sender of whose groups or matches more than the setting ``siem_forgotten_told`` went within an hour:
one fact an hour for each, the `MOST` worst. Limits: what a detector that is killed had not told yet is not told.
"""

from __future__ import annotations

import time
from collections import Counter

import sqlalchemy as sa

from lachan.database import insert_ignore
from lachan.errors import DatabaseAway
from lachan.events import EvidenceForgotten
from lachan.identity import system
from lachan.runtime import Runtime
from lachan.work import outbox
from siem_rules.models import forgotten
from siem_rules.settings import SiemSettings

HIDES = ("groups", "matches")  # what can hide something when it goes
MOST = 20  # facts in an hour
HOUR = 3600.0
ACTOR = system("detector")


class Forgotten:
    """What was told of what went, and of whom in this hour."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._most = SiemSettings.of(rt.settings).siem_forgotten_told
        self._known: Counter[tuple[str, str]] = Counter()
        self._begin(time.monotonic())

    def _begin(self, now: float) -> None:
        self._since, self._hour = now, Counter[tuple[str, str]]()
        self._told = set[tuple[str, str]]()

    def tell(self, went: Counter[tuple[str, str]]) -> None:
        """Write what went since the last time.

        Args:
            went: (what, label of the sender) → how much, since the detector began.
        """
        if time.monotonic() - self._since > HOUR:
            self._begin(time.monotonic())
        new = went - self._known
        if not new:
            return
        hour = self._hour + new
        facts = [
            EvidenceForgotten(what=what, sender=sender, count=count)
            for (what, sender), count in hour.most_common()
            if what in HIDES and count >= self._most and (what, sender) not in self._told
        ][: max(0, MOST - len(self._told))]

        def unit(connection: sa.Connection) -> None:
            for what in {what for what, _ in new}:
                count = sum(some for (kind, _), some in new.items() if kind == what)
                insert_ignore(connection, forgotten, {"what": what, "count": 0}, index=("what",))
                more = forgotten.update().where(forgotten.c.what == what).values(count=forgotten.c.count + count)
                connection.execute(more)
            for fact in facts:
                outbox.append(connection, fact, actor=ACTOR)

        try:
            self._rt.db.run(unit)
        except DatabaseAway:  # told the next time
            return
        self._known, self._hour = Counter(went), hour
        self._told |= {(fact.what, fact.sender) for fact in facts}


def counts(connection: sa.Connection) -> dict[str, int]:
    """Give what → how much of it went since the installation began."""
    return {str(row.what): int(row[1]) for row in connection.execute(sa.select(forgotten.c.what, forgotten.c["count"]))}
