"""Checks an export offline: needs the export and a public key, and nothing of the server.

Steps: 1. the checkpoint's signature; 2. every event's hash and inclusion proof; 3. every leaf of the tree stands exactly
once, in order, as an event or under a hash, and all together give the signed root; 4. the table of contents and the scope
agree with the events; 5. with an earlier checkpoint: this tree extends that one. Every event that was changed, removed or
reordered is named with index, id and name. Limits: what one export cannot show is said in `Verified.cannot_know`.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from lachan.ledger import document, merkle
from lachan.ledger.document import EventLine, HashLine, Header, Malformed, Scope
from lachan.ledger.errors import ExportRefused, NoteRefused, ProofRefused
from lachan.ledger.note import Checkpoint, Verifier, open_checkpoint

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
class Finding:
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


@dataclass(frozen=True)
class Verified:
    """What a sound export shows, and what it cannot."""

    origin: str
    size: int
    root: bytes
    events: int
    erased: int
    scope: Scope
    since: int | None
    cannot_know: tuple[str, ...]


def verify(lines: Iterable[bytes], key: Verifier, *, since: str | None = None) -> Verified:
    """Check an export.

    Args:
        lines: its lines, with their newlines.
        key: the ledger's public key, had from elsewhere than the export.
        since: an earlier signed checkpoint of the same ledger, kept from before.

    Raises:
        ExportRefused: something was changed, removed, reordered, cut or rewritten; ``fields['findings']`` names all of it.
    """
    check = _Check(key)
    try:
        check.read(lines)
        check.events()
        check.order()
        check.contents()
        check.root()
        if since is not None:
            check.extends(since)
    except _Stop:
        pass
    check.findings.sort(key=lambda finding: finding.index is None)  # events first
    if check.findings:
        raise ExportRefused(
            _summary(check.findings), findings=[asdict(finding) for finding in check.findings[:MOST_FINDINGS]],
            count=len(check.findings),
        )  # fmt: skip
    return check.verified(since is not None)


class _Stop(Exception):
    """What is wrong makes everything behind it meaningless."""


class _Check:
    """The state of one check."""

    def __init__(self, key: Verifier) -> None:
        self.key = key
        self.findings: list[Finding] = []
        self.header = Header("", Scope(), [])
        self.point = Checkpoint(key.name, 0, merkle.EMPTY_ROOT)
        self.entries: list[EventLine | HashLine] = []
        self.listed: dict[int, tuple[str, str]] = {}
        self.own: dict[int, tuple[str, str]] = {}
        self.pieces: dict[merkle.Range, bytes] = {}
        self.proven: dict[merkle.Range, bytes] = {}
        self.sound: set[int] = set()
        self.since: Checkpoint | None = None

    def found(self, fault: Fault, detail: str, *, index: int | None = None, line: int | None = None) -> None:
        """Keep a finding, with the names that the contents or the event give it."""
        event_id, name = ("", "") if index is None else self.listed.get(index) or self.own.get(index, ("", ""))
        self.findings.append(Finding(fault, detail, index, event_id, name, line))

    def stop(self, fault: Fault, detail: str, *, line: int | None = None) -> None:
        """Keep a finding and end."""
        self.found(fault, detail, line=line)
        raise _Stop

    def read(self, lines: Iterable[bytes]) -> None:
        """Lines to entries; the checkpoint's signature; the digest at the end."""
        digest, ended, number = hashlib.sha256(), False, 0
        for number, raw in enumerate(lines, 1):
            try:
                value = document.parse_line(raw)
                if ended:
                    raise Malformed("a line after the end")
                if number == 1:
                    self._begin(document.header(value), value)
                elif value.get("type") == "end":
                    ended = True
                    if value != {"type": "end", "lines": number - 1, "sha256": digest.hexdigest()}:
                        self.found(
                            Fault.MALFORMED, "the digest at the end does not fit: some line was changed", line=number
                        )
                else:
                    self._take(document.entry(value, number))
            except Malformed as error:
                self.found(Fault.MALFORMED, f"line {number}: {error}", line=number)
                if number == 1:
                    raise _Stop from error
            digest.update(raw)
        if not ended:
            self.found(Fault.MALFORMED, "the export has no end: it was cut", line=number)
        if number == 0:
            raise _Stop

    def _begin(self, head: Header, value: dict[str, Any]) -> None:
        self.header = head
        self.listed = {index: (event_id, name) for index, event_id, name in head.contents}
        try:
            self.point = open_checkpoint(head.checkpoint, self.key)
        except NoteRefused as error:
            self.stop(Fault.CHECKPOINT, error.detail, line=1)
        if (value["origin"], value["size"]) != (self.point.origin, self.point.size):
            self.found(Fault.MALFORMED, "the header's origin and size are not those of its checkpoint", line=1)

    def _take(self, entry: EventLine | HashLine) -> None:
        if isinstance(entry, EventLine):
            own = (str(entry.data.get("id", entry.id)), str(entry.data.get("name", entry.name)))
            self.own.setdefault(entry.index, own)
        self.entries.append(entry)

    def events(self) -> None:
        """Every event's hash and proof; those that hold vouch for the hashes beside their way to the root."""
        for entry in self.entries:
            if not isinstance(entry, EventLine):
                continue
            leaf = entry.leaf if entry.body is None else merkle.leaf_hash(entry.body.encode())
            self.pieces[entry.span] = leaf
            try:
                merkle.verify_inclusion(
                    leaf=leaf, index=entry.index, size=self.point.size, path=entry.proof, root=self.point.root
                )
            except ProofRefused:
                detail = "its text, its place or its proof is not what was sealed"
                self.found(Fault.CHANGED, detail, index=entry.index, line=entry.line)
                continue
            self.sound.add(entry.index)
            self.proven.update(zip(merkle.inclusion_ranges(entry.index, self.point.size), entry.proof, strict=True))
            if entry.body is not None and not self.header.scope.holds(entry.data):
                self.found(
                    Fault.OUT_OF_SCOPE, "it does not belong to the scope that the header names",
                    index=entry.index, line=entry.line,
                )  # fmt: skip

    def order(self) -> None:
        """Every leaf exactly once, in the order of the tree."""
        highest = 0
        for entry in self.entries:
            start, end = entry.span
            if start < highest:
                what = (
                    "stands after a later one, or twice"
                    if isinstance(entry, EventLine)
                    else "hashes stand out of order"
                )
                self.found(
                    Fault.REORDERED,
                    f"it {what}",
                    index=start if isinstance(entry, EventLine) else None,
                    line=entry.line,
                )
            highest = max(highest, end)
        reached = 0
        for start, end in sorted(entry.span for entry in self.entries):
            if start > reached:
                self._gap(reached, start)
            reached = max(reached, end)
        if reached < self.point.size:
            self._gap(reached, self.point.size)
        if reached > self.point.size:
            self.found(Fault.MALFORMED, f"there are leaves beyond the {self.point.size} of the checkpoint")

    def _gap(self, start: int, end: int) -> None:
        for index in range(start, min(end, start + MOST_FINDINGS)):
            self.found(Fault.REMOVED, "the ledger has an event here, the export does not", index=index)

    def contents(self) -> None:
        """The table of contents against the events; a full export has no hashes in the place of events."""
        listed = [index for index, _, _ in self.header.contents]
        if listed != sorted(set(listed)):
            self.found(Fault.CONTENTS, "the table of contents is out of order", line=1)
        for piece in (entry for entry in self.entries if isinstance(entry, HashLine)):
            inside = listed[bisect_left(listed, piece.start) : bisect_left(listed, piece.end)]
            if self.header.scope.whole:
                inside = list(range(piece.start, min(piece.end, piece.start + MOST_FINDINGS)))
            for index in inside:
                self.found(Fault.REMOVED, "only its hash is there", index=index, line=piece.line)
        for entry in self.entries:
            if not isinstance(entry, EventLine):
                continue
            if entry.index not in self.listed:
                self.found(Fault.CONTENTS, "the table of contents does not list it", index=entry.index, line=entry.line)
            elif entry.index in self.sound and self.listed[entry.index] != self.own[entry.index]:
                claimed, own = " ".join(self.listed[entry.index][::-1]), self.own[entry.index]
                detail = f"the table of contents calls it {claimed}"
                self.findings.append(Finding(Fault.CONTENTS, detail, entry.index, *own, entry.line))

    def root(self) -> None:
        """All hashes together give the signed root; a wrong one is shown where a sound proof knows better."""
        for entry in self.entries:
            if isinstance(entry, HashLine):
                self.pieces[entry.span] = entry.hash
                if self.proven.get(entry.span, entry.hash) != entry.hash:
                    detail = f"the hash over leaves {entry.start} to {entry.end - 1} is not the sealed one"
                    self.found(Fault.HASHES, detail, line=entry.line)
        if not self.findings and self._computed(self.point.size) != self.point.root:
            self.found(Fault.HASHES, "the hashes outside the scope do not lead to the signed root")

    def _computed(self, size: int) -> bytes | None:
        """The root over the first ``size`` leaves from the pieces; None when a piece spans its edge."""

        def over(lo: int, hi: int) -> bytes:
            if (lo, hi) in self.pieces:
                return self.pieces[lo, hi]
            if hi - lo == 1:
                raise LookupError
            middle = lo + (1 << (hi - lo - 1).bit_length() - 1)
            return merkle.node_hash(over(lo, middle), over(middle, hi))

        try:
            return over(0, size) if size else merkle.EMPTY_ROOT
        except LookupError:
            return None

    def extends(self, note: str) -> None:
        """This tree against an earlier checkpoint."""
        try:
            old = self.since = open_checkpoint(note, self.key)
        except NoteRefused as error:
            self.stop(Fault.CHECKPOINT, f"the earlier checkpoint: {error.detail}")
            return
        if old.size > self.point.size:
            detail = f"the ledger had {old.size} events at the earlier checkpoint and has {self.point.size} here: its tail was cut"
            self.found(Fault.TRUNCATED, detail)
            return
        computed = self._computed(old.size) if not self.findings else None
        if computed is not None:
            if computed != old.root:
                self.found(Fault.REWRITTEN, f"history before event #{old.size} was rewritten and signed again")
            return
        proof = self.header.since
        if proof is None or proof[0] != note:
            if not self.findings:
                self.found(Fault.UNPROVEN, "the export has no proof from that checkpoint; export again with --since")
            return
        try:
            merkle.verify_consistency(
                old_size=old.size, old_root=old.root, new_size=self.point.size, new_root=self.point.root, path=proof[1]
            )
        except ProofRefused as error:
            self.found(Fault.REWRITTEN, error.detail)

    def verified(self, compared: bool) -> Verified:
        """The result of a check that found nothing."""
        events = [entry for entry in self.entries if isinstance(entry, EventLine)]
        erased = sum(entry.body is None for entry in events)
        unknown = []
        if not compared:
            unknown.append(
                f"whether events after #{self.point.size - 1} were cut off, or all history was rewritten and signed again: "
                "only an earlier checkpoint shows that (--since)"
            )
        if not self.header.scope.whole:
            unknown.append(
                f"whether more events of this scope are among the {self.point.size - len(events)} that are only hashed: "
                "only a full export shows that"
            )
        if erased:
            unknown.append(f"what the {erased} erased events said: their hashes are in place, their texts are gone")
        return Verified(
            self.point.origin, self.point.size, self.point.root, len(events), erased, self.header.scope,
            self.since.size if self.since else None, tuple(unknown),
        )  # fmt: skip


def _summary(findings: list[Finding]) -> str:
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return f"{findings[0]}{more}"
