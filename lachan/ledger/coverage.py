"""Which leaves the parts of an export cover, and the root that they give together: in the memory of one path.

Parts come in the order in which they are read. While each begins where the last one ended, the tree is computed as it would
grow. What is left out is kept as a gap until it turns up out of order, or does not. Limits: `MOST_GAPS` gaps are kept;
when there are more, the oldest is told at once, though it may turn up later.
"""

from collections.abc import Callable

from lachan.ledger.merkle import EMPTY_ROOT, Frontier, Range

MOST_GAPS = 1000


class Coverage:
    """The leaves covered so far.

    Args:
        size: of the signed tree.
        old: size of an earlier tree whose root is wanted, too.
        missing: told of each range that no part covers.

    Attributes:
        reached: everything below is covered or in ``gaps``.
        edge: the tree as far as the parts came without a gap; its last peak ends at ``edge.size``.
        old_root: root of the first ``old`` leaves; None when a part spans that edge.
    """

    def __init__(self, size: int, old: int | None, missing: Callable[[int, int], None]) -> None:
        self.size, self._old, self._missing = size, old, missing
        self.reached = 0
        self.edge = Frontier()
        self.gaps: list[Range] = []
        self.old_root = EMPTY_ROOT if old == 0 else None
        self._tail = b""
        self._whole = True

    def leaf(self, index: int, leaf: bytes) -> bool:
        """Cover one leaf; tell whether it stood in order."""
        if index == self.reached and self._whole:
            self.edge.append(leaf)
            self.reached += 1
            if self.reached == self._old:
                self.old_root = self.edge.root()
            return True
        return self.add(index, index + 1, leaf)

    def add(self, start: int, end: int, digest: bytes) -> bool:
        """Cover a subtree; tell whether it stood in order."""
        if start < self.reached:
            self._whole = False
            self._fill(start, end)
            self.reached = max(self.reached, end)
            return False
        if start > self.reached:
            self._whole = False
            self._open_gap(start)
        self.reached = end
        if self._whole:
            self._grow(start, end, digest)
        if end == self._old and self._whole:
            self.old_root = self.edge.root(self._tail)
        return True

    def root(self) -> bytes | None:
        """Compute the root of all parts; None when they are not the subtrees of one tree."""
        return self.edge.root(self._tail) if self._whole and self.reached == self.size else None

    def end(self) -> None:
        """Tell of all that is missing."""
        if self.reached < self.size:
            self._open_gap(self.size)
        for gap in self.gaps:
            self._missing(*gap)

    def lacks(self, index: int) -> bool:
        """Tell whether this leaf was not covered yet."""
        return index >= self.reached or any(lo <= index < hi for lo, hi in self.gaps)

    def _grow(self, start: int, end: int, digest: bytes) -> None:
        count = end - start
        if count > 0 and count & (count - 1) == 0 and start & (count - 1) == 0:
            self.edge.add(count.bit_length() - 1, digest)
        elif end == self.size and count > 0 and (start & -start or end) >= count:
            self._tail = digest
        else:
            self._whole = False

    def _open_gap(self, end: int) -> None:
        self.gaps.append((self.reached, min(end, self.size)))
        self.reached = end
        if len(self.gaps) > MOST_GAPS:
            self._missing(*self.gaps.pop(0))

    def _fill(self, start: int, end: int) -> None:
        left = []
        for lo, hi in self.gaps:
            left += [(lo, min(hi, start)), (max(lo, end), hi)]
        self.gaps = [(lo, hi) for lo, hi in left if lo < hi]
