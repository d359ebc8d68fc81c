"""Inclusion proofs of events that follow one another, and what they say about the hashes between them.

Two neighbours share most of their way to the root. When the last event's proof held, the next one needs only what differs:
its own subtree must be the sibling that the last proof names, the subtree before it must be its sibling, and above that both
proofs must read the same. That says exactly what the full computation would. A sound proof also names the hashes of the
subtrees beside it, so a wrong ``hash`` line is known by its neighbours. Limits: `MOST_WAITING` hash lines wait for the event
that vouches for them; an honest export never has more than twice the tree's height.
"""

import base64
import binascii

from lachan.ledger import document, merkle
from lachan.ledger.coverage import Coverage
from lachan.ledger.document import EventLine, HashLine, Malformed
from lachan.ledger.errors import ProofRefused
from lachan.ledger.note import Checkpoint

MOST_WAITING = 256


class Proofs:
    """Check proofs under one checkpoint."""

    def __init__(self, point: Checkpoint, cover: Coverage) -> None:
        self._point, self._cover = point, cover
        self._last: EventLine | None = None  # the last event whose proof held
        self._known: dict[merkle.Range, str] | None = None  # what its proof says of its siblings
        self._waiting: list[tuple[HashLine, int]] = []

    def check(self, entry: EventLine, leaf: bytes, *, exact: bool) -> bool:
        """Tell whether an event is what was sealed at its place.

        Args:
            entry: the event's line.
            leaf: its leaf hash.
            exact: something was wrong before, so the leaves read so far prove nothing: compute the whole way.
        """
        if exact or not self._follows(entry, leaf):
            try:
                merkle.verify_inclusion(
                    leaf=leaf, index=entry.index, size=self._point.size, path=document.hashes(entry.proof),
                    root=self._point.root,
                )  # fmt: skip
            except (ProofRefused, Malformed):
                return False
        self._last, self._known = entry, None
        return True

    def _follows(self, entry: EventLine, leaf: bytes) -> bool:
        """Tell whether the proof continues the last one; if not, it may hold all the same."""
        last, index, proof = self._last, entry.index, entry.proof
        if last is None or index != last.index + 1 or index != self._cover.edge.size:
            return False
        level = (index & -index).bit_length() - 1  # of the subtree that begins here; the one before it has just ended
        if len(proof) != len(last.proof):  # at the right edge the ways may be of different shapes
            return False
        if proof[level + 1 :] != last.proof[level + 1 :] or proof[level] != document.b64(self._cover.edge.peaks[-1]):
            return False
        node = leaf
        for step in proof[:level]:
            try:
                sibling = base64.b64decode(step, validate=True)
            except (binascii.Error, ValueError):
                return False
            if len(sibling) != merkle.HASH_SIZE:
                return False
            node = merkle.node_hash(node, sibling)
        return document.b64(node) == last.proof[level]

    def vouched(self) -> list[tuple[HashLine, int]]:
        """List the waiting hash lines, each with its line, that the last sound event knows to be wrong."""
        if not self._waiting:
            return []
        known, waiting, self._waiting = self._siblings(), self._waiting, []
        return [found for found in waiting if not _agrees(found[0], known)]

    def note(self, part: HashLine, line: int) -> list[tuple[HashLine, int]]:
        """Compare a hash line with what the last sound event knows; else it waits for the next."""
        known = self._siblings()
        if (part.start, part.end) in known:
            return [] if _agrees(part, known) else [(part, line)]
        self._waiting = [*self._waiting[-MOST_WAITING:], (part, line)]
        return []

    def _siblings(self) -> dict[merkle.Range, str]:
        if self._last is None:
            return {}
        if self._known is None:
            ranges = merkle.inclusion_ranges(self._last.index, self._point.size)
            self._known = dict(zip(ranges, self._last.proof, strict=True))
        return self._known


def _agrees(part: HashLine, known: dict[merkle.Range, str]) -> bool:
    wanted = known.get((part.start, part.end))
    return wanted is None or document.hashes([wanted]) == [part.hash]
