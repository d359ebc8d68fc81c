"""What is wrong with an export: the closed list of faults, and a collection that keeps the first of them and counts all."""

from dataclasses import dataclass
from enum import StrEnum

MOST_FINDINGS = 100


class Fault(StrEnum):
    """What is wrong with an export."""

    MALFORMED = "malformed"
    CHECKPOINT = "checkpoint"
    CHANGED = "changed"
    REMOVED = "removed"
    REORDERED = "reordered"
    OUT_OF_SCOPE = "out-of-scope"
    CONTENTS = "contents"
    HASHES = "hashes"
    TRUNCATED = "truncated"
    REWRITTEN = "rewritten"
    UNPROVEN = "unproven"


@dataclass(frozen=True)
class LedgerFinding:
    """One thing that is wrong; ``index``, ``id`` and ``name`` of the event where it concerns one."""

    fault: Fault
    detail: str
    index: int | None = None
    id: str = ""
    name: str = ""
    line: int | None = None

    def __str__(self) -> str:
        which = f"event #{self.index} {self.name or '(name unknown)'} {self.id or '(id unknown)'}: "
        return f"{self.fault}: {'' if self.index is None else which}{self.detail}"


class Findings:
    """Findings, events first; memory for `MOST_FINDINGS` of each kind, however many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._events: list[LedgerFinding] = []
        self._others: list[LedgerFinding] = []

    def add(self, finding: LedgerFinding) -> None:
        """Count a finding, and keep it if it is among the first."""
        self.count += 1
        kept = self._others if finding.index is None else self._events
        if len(kept) < MOST_FINDINGS:
            kept.append(finding)

    def first(self) -> list[LedgerFinding]:
        """List the first ones, those that name an event before the others."""
        return [*self._events, *self._others][:MOST_FINDINGS]

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        return f"{self.first()[0]}" + (f" (and {self.count - 1} more)" if self.count > 1 else "")
