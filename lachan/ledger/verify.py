"""Check an export offline: needs the export and a public key, and nothing of the server.

One pass, each line once: 1. the checkpoint's signature; 2. every event's hash and inclusion proof; 3. every leaf of the
tree stands exactly once, in order, as an event or under a hash, and all together give the signed root; 4. the table of
contents and the scope agree with the events; 5. with an earlier checkpoint: this tree extends that one. Every event that
was changed, removed or reordered is named with index, id and name. Memory: one section of the export and one path of the
tree, however many events there are. Limits: what one export cannot show is said in `VerifiedExport.cannot_know`.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from lachan.ledger import document, merkle
from lachan.ledger.coverage import Coverage
from lachan.ledger.document import Contents, End, EventLine, ExportScope, HashLine, Header, Listed, Malformed
from lachan.ledger.errors import ExportRefused, NoteRefused, ProofRefused
from lachan.ledger.findings import MOST_FINDINGS, Fault, Findings, LedgerFinding
from lachan.ledger.note import Checkpoint, Verifier, open_checkpoint
from lachan.ledger.proofs import Proofs

MOST_NAMES = 10_000  # names of missing events that are remembered


@dataclass(frozen=True)
class VerifiedExport:
    """What a sound export shows, and what it cannot."""

    origin: str
    size: int
    root: bytes
    events: int
    erased: int
    scope: ExportScope
    since: int | None
    cannot_know: tuple[str, ...]


def verify(lines: Iterable[bytes], key: Verifier, *, since: str | None = None) -> VerifiedExport:
    """Check an export.

    Args:
        lines: its lines, with their newlines; a file, a pipe or a download (`document.lines`).
        key: the ledger's public key, had from elsewhere than the export.
        since: an earlier signed checkpoint of the same ledger, kept from before.

    Raises:
        ExportRefused: something was changed, removed, reordered, cut or rewritten; ``fields['findings']`` names the first
            `MOST_FINDINGS`, ``fields['count']`` says how many there are.
    """
    findings, stream = Findings(), iter(lines)
    check = _begin(next(stream, None), key, since, findings)
    if check is not None:
        check.read(stream)
        check.finish()
    if check is None or findings:
        first = [asdict(finding) for finding in findings.first()]
        raise ExportRefused(str(findings), findings=first, count=findings.count)
    return check.verified()


def _begin(raw: bytes | None, key: Verifier, since: str | None, findings: Findings) -> "_Check | None":
    """Read the header and open both checkpoints; None when what follows would mean nothing."""
    if raw is None:
        findings.add(LedgerFinding(Fault.MALFORMED, "the export has no end: it was cut", line=0))
        return None
    try:
        head = document.read(raw)
        if not isinstance(head, Header):
            raise Malformed("the first line is no header")
    except Malformed as error:
        findings.add(LedgerFinding(Fault.MALFORMED, f"line 1: {error}", line=1))
        return None
    try:
        point = open_checkpoint(head.checkpoint, key)
    except NoteRefused as error:
        findings.add(LedgerFinding(Fault.CHECKPOINT, error.detail, line=1))
        return None
    old = None
    try:
        old = open_checkpoint(since, key) if since is not None else None
    except NoteRefused as error:
        findings.add(LedgerFinding(Fault.CHECKPOINT, f"the earlier checkpoint: {error.detail}"))
    check = _Check(head, point, findings, old, since)
    check.digest.update(raw)
    return check


class _Check:
    """The state of one check: what was found, what is covered, and the section being read."""

    def __init__(
        self, head: Header, point: Checkpoint, findings: Findings, old: Checkpoint | None, since: str | None
    ) -> None:
        self.head, self.point, self.findings, self.old, self.since = head, point, findings, old, since
        self.digest, self.line, self.ended = hashlib.sha256(), 1, False
        self.events = self.erased = 0
        self.cover = Coverage(point.size, old.size if old else None, self._missing)
        self.proofs = Proofs(point, self.cover)
        self.listed: dict[int, tuple[str, str]] = {}
        self.late: dict[int, tuple[str, str]] = {}
        self.indexes: list[int] = []
        self.highest = -1  # index listed last
        if (head.origin, head.size) != (point.origin, point.size):
            self.found(Fault.MALFORMED, "the header's origin and size are not those of its checkpoint", line=1)
        if head.contents is not None:
            self._section(head.contents)

    def found(
        self, fault: Fault, detail: str, *, index: int | None = None, own: tuple[str, str] = ("", ""), line: int = 0
    ) -> None:
        """Keep a finding, with the names that the contents or the event give it."""
        names = ("", "") if index is None else self.listed.get(index) or self.late.get(index) or own
        self.findings.add(LedgerFinding(fault, detail, index, *names, line or self.line or None))

    def read(self, lines: Iterable[bytes]) -> None:
        """Take every line behind the header."""
        for raw in lines:
            self.line += 1
            try:
                part = document.read(raw)
                if self.ended:
                    raise Malformed("a line after the end")
                if isinstance(part, EventLine):
                    self._event(part)
                elif isinstance(part, HashLine):
                    self._hash(part)
                elif isinstance(part, Contents):
                    self._section(part.events)
                elif isinstance(part, End):
                    self._end(part)
                else:
                    raise Malformed("a second header")
            except Malformed as error:
                self.found(Fault.MALFORMED, f"line {self.line}: {error}")
            self.digest.update(raw)

    def _end(self, part: End) -> None:
        self.ended = True
        if (part.lines, part.sha256) != (self.line - 1, self.digest.hexdigest()):
            self.found(Fault.MALFORMED, "the digest at the end does not fit: some line was changed")

    def _event(self, entry: EventLine) -> None:
        """One event: its hash and proof, its place, its row of the contents, its scope."""
        index, cover = entry.index, self.cover
        leaf = entry.leaf if entry.body is None else merkle.leaf_hash(entry.body.encode())
        sound = self.proofs.check(entry, leaf, exact=bool(self.findings))
        own = entry.own
        if not sound:
            detail = "its text, its place or its proof is not what was sealed"
            self.found(Fault.CHANGED, detail, index=index, own=own)
        # What is not sound and far off says nothing about the leaves between.
        if (sound or index <= cover.reached) and not cover.leaf(index, leaf):
            self.found(Fault.REORDERED, "it stands after a later one, or twice", index=index, own=own)
        listed = self.listed.get(index) or self.late.get(index)
        if listed is None:
            if index == cover.reached - 1:
                self.found(Fault.CONTENTS, "the table of contents does not list it", index=index, own=own)
        elif sound and listed != own:
            detail = f"the table of contents calls it {' '.join(listed[::-1])}"
            self.findings.add(LedgerFinding(Fault.CONTENTS, detail, index, *own, self.line))
        if sound:
            self._vouch(self.proofs.vouched())
        if sound and entry.body is not None and not self.head.scope.holds(entry.data):
            detail = "it does not belong to the scope that the header names"
            self.found(Fault.OUT_OF_SCOPE, detail, index=index, own=own)
        self.events += 1
        self.erased += entry.body is None

    def _vouch(self, wrong: list[tuple[HashLine, int]]) -> None:
        for part, line in wrong:
            detail = f"the hash over leaves {part.start} to {part.end - 1} is not the sealed one"
            self.found(Fault.HASHES, detail, line=line)

    def _hash(self, part: HashLine) -> None:
        """Take the hash of a subtree: its place, what it may hide, and whether its neighbours vouch for it."""
        inside = self.indexes[bisect_left(self.indexes, part.start) : bisect_left(self.indexes, part.end)]
        if self.head.scope.whole:
            inside = list(range(part.start, min(part.end, part.start + MOST_FINDINGS)))
        for index in inside:
            self.found(Fault.REMOVED, "only its hash is there", index=index)
        if not self.cover.add(part.start, part.end, part.hash):
            self.found(Fault.REORDERED, "its hashes stand out of order")
        self._vouch(self.proofs.note(part, self.line))

    def _section(self, listed: Listed) -> None:
        """Take a part of the table of contents; what the last one listed and nobody saw keeps its name."""
        self._leave_section()
        self.listed = {index: (event_id, name) for index, event_id, name in listed}
        self.indexes = sorted(self.listed)
        if [index for index, _, _ in listed] != self.indexes:
            self.found(Fault.CONTENTS, "the table of contents is out of order")
        if not self.indexes:
            return
        if self.indexes[0] <= self.highest or self.indexes[0] < self.cover.reached:
            self.found(Fault.CONTENTS, "the table of contents stands behind what it lists")
        if self.indexes[-1] >= self.point.size:
            self.found(Fault.CONTENTS, "the table of contents lists events that the ledger does not have")
        self.highest = self.indexes[-1]

    def _leave_section(self) -> None:
        if self.indexes and (self.cover.gaps or self.indexes[-1] >= self.cover.reached):
            for index in self.indexes:
                if len(self.late) < MOST_NAMES and self.cover.lacks(index):
                    self.late[index] = self.listed[index]

    def _missing(self, start: int, end: int) -> None:
        for index in range(start, min(end, start + MOST_FINDINGS)):
            self.found(Fault.REMOVED, "the ledger has an event here, the export does not", index=index)

    def finish(self) -> None:
        """Judge what only the end can tell: what is missing, the root, the earlier checkpoint."""
        if not self.ended:
            self.found(Fault.MALFORMED, "the export has no end: it was cut")
        self.line = 0  # what follows stands in no line
        self._leave_section()
        self.cover.end()
        if self.cover.reached > self.point.size:
            self.found(Fault.MALFORMED, f"there are leaves beyond the {self.point.size} of the checkpoint")
        if not self.findings and self.cover.root() != self.point.root:
            self.found(Fault.HASHES, "the hashes outside the scope do not lead to the signed root")
        if self.old is not None:
            self._extends(self.old)

    def _extends(self, old: Checkpoint) -> None:
        """Check this tree against an earlier checkpoint."""
        size = self.point.size
        if old.size > size:
            detail = f"the ledger had {old.size} events at the earlier checkpoint and has {size} here: its tail was cut"
            self.found(Fault.TRUNCATED, detail)
            return
        computed = self.cover.old_root if not self.findings else None
        if computed is not None:
            if computed != old.root:
                self.found(Fault.REWRITTEN, f"history before event #{old.size} was rewritten and signed again")
            return
        proof = self.head.since
        if proof is None or proof[0] != self.since:
            if not self.findings:
                self.found(Fault.UNPROVEN, "the export has no proof from that checkpoint; export again with --since")
            return
        try:
            merkle.verify_consistency(
                old_size=old.size, old_root=old.root, new_size=size, new_root=self.point.root, path=proof[1]
            )
        except ProofRefused as error:
            self.found(Fault.REWRITTEN, error.detail)

    def verified(self) -> VerifiedExport:
        """Give the result of a check that found nothing."""
        unknown = []
        if self.since is None:
            unknown.append(
                f"whether events after #{self.point.size - 1} were cut off, or all history was rewritten and signed again: "
                "only an earlier checkpoint shows that (--since)"
            )
        if not self.head.scope.whole:
            unknown.append(
                f"whether more events of this scope are among the {self.point.size - self.events} that are only hashed: "
                "only a full export shows that"
            )
        if self.erased:
            unknown.append(
                f"what the {self.erased} erased events said: their hashes are in place, their texts are gone"
            )
        return VerifiedExport(
            self.point.origin, self.point.size, self.point.root, self.events, self.erased, self.head.scope,
            self.old.size if self.old else None, tuple(unknown),
        )  # fmt: skip
