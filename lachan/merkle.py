"""Merkle hashing as RFC 9162 section 2.1 has it: leaves, nodes, the growing edge of a tree, and its root.

Pure; needs only hashlib. `lachan.ledger.merkle` makes and verifies proofs with it; rooms below the ledger give their
batches a root by it. Limits: SHA-256 only.
"""

import hashlib
from collections.abc import Iterable

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(body: bytes) -> bytes:
    """Hash a leaf: SHA-256(0x00 ‖ body) (RFC 9162 2.1.1)."""
    return hashlib.sha256(b"\0" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash an interior node: SHA-256(0x01 ‖ left ‖ right) (RFC 9162 2.1.1)."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: enough to append and to tell the root, in O(log n) memory.

    Args:
        size: leaves so far.
        peaks: hashes of the perfect subtrees that ``size`` splits into, largest first.
    """

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)
        if len(self.peaks) != size.bit_count() or any(len(peak) != HASH_SIZE for peak in self.peaks):
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks of 32 bytes")

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add one leaf hash; give the interior nodes that became complete, as (level, index, hash)."""
        return self.add(0, leaf)

    def add(self, level: int, node: bytes) -> list[tuple[int, int, bytes]]:
        """Add a perfect subtree of 2^level leaves; give the nodes above it that became complete.

        Raises:
            ValueError: such a subtree cannot begin at the present size.
        """
        index, width = self.size >> level, 1 << level
        if self.size & (width - 1):
            raise ValueError(f"no subtree of {width} leaves begins at {self.size}")
        done = []
        while index & 1:
            node = node_hash(self.peaks.pop(), node)
            index >>= 1
            level += 1
            done.append((level, index, node))
        self.peaks.append(node)
        self.size += width
        return done

    def root(self, tail: bytes = b"") -> bytes:
        """Compute the tree's root hash; ``tail`` is the hash of an imperfect subtree that ends the tree."""
        peaks = [*self.peaks, tail] if tail else self.peaks
        if not peaks:
            return EMPTY_ROOT
        found = peaks[-1]
        for peak in reversed(peaks[:-1]):
            found = node_hash(peak, found)
        return found


def root(leaves: Iterable[bytes]) -> bytes:
    """Compute the root over some leaf hashes (for the batches that one event stands for)."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()
