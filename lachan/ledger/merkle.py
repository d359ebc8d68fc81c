"""Merkle trees as RFC 9162 section 2.1 hashes them: roots, proofs, and their verification. Pure.

A tree of n leaves is thought of as ranges ``[lo, hi)`` of leaf indexes. A perfect range (2^k leaves, aligned) is a *node*
``(level k, index)``; whoever can give the hash of every node (`Nodes`) can give every root and proof. Verifying raises
`ProofRefused`. The hashing itself, which rooms below the ledger use too, is `lachan.merkle`. Limits: SHA-256 only; proofs are
lists of 32-byte hashes, leaf to root.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from lachan.ledger.errors import ProofRefused
from lachan.merkle import EMPTY_ROOT, HASH_SIZE, Frontier, leaf_hash, node_hash, root

Nodes: TypeAlias = Callable[[int, int], bytes]
Range: TypeAlias = tuple[int, int]
__all__ = [
    "EMPTY_ROOT",
    "HASH_SIZE",
    "Frontier",
    "Nodes",
    "Range",
    "consistency_path",
    "consistency_ranges",
    "inclusion_path",
    "inclusion_ranges",
    "leaf_hash",
    "node_hash",
    "range_hash",
    "root",
    "subtrees",
    "tree_root",
    "verify_consistency",
    "verify_inclusion",
]


def range_hash(lo: int, hi: int, nodes: Nodes) -> bytes:
    """Compute the hash of the subtree over ``[lo, hi)`` as RFC 9162 cuts it; ``lo`` is aligned as every subtree's is."""
    count = hi - lo
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return nodes(level, lo >> level)
    half = _split(count)
    return node_hash(range_hash(lo, lo + half, nodes), range_hash(lo + half, hi, nodes))


def tree_root(size: int, nodes: Nodes) -> bytes:
    """Compute the root of the first ``size`` leaves."""
    return range_hash(0, size, nodes) if size else EMPTY_ROOT


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """List the sibling ranges on the way from leaf ``index`` to the root (RFC 9162 2.1.3.1).

    Raises:
        ValueError: the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    found, lo, hi = [], 0, size
    while hi - lo > 1:
        middle = lo + _split(hi - lo)
        if index < middle:
            found.append((middle, hi))
            hi = middle
        else:
            found.append((lo, middle))
            lo = middle
    return found[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """List the ranges whose hashes prove that the first ``old`` of ``new`` leaves are unchanged (RFC 9162 2.1.4.1).

    Raises:
        ValueError: ``old`` is larger than ``new``, or negative.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves does not extend one of {old}")
    if old in (0, new):
        return []
    found, lo, hi, whole = [], 0, new, True
    while old < hi:
        middle = lo + _split(hi - lo)
        if old <= middle:
            found.append((middle, hi))
            hi = middle
        else:
            found.append((lo, middle))
            lo, whole = middle, False
    if not whole:
        found.append((lo, hi))
    return found[::-1]


def subtrees(lo: int, hi: int, size: int) -> Iterator[Range]:
    """Cut ``[lo, hi)`` into the largest subtrees of a tree of ``size`` leaves, in order."""
    while lo < hi:
        if hi == size and (lo & -lo or size) >= hi - lo:  # the right edge, which need not be perfect
            yield lo, hi
            return
        width = 1 << (hi - lo).bit_length() - 1
        if lo:
            width = min(width, lo & -lo)
        yield lo, lo + width
        lo += width


def inclusion_path(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """Prove that leaf ``index`` is in the tree of ``size`` leaves."""
    return [range_hash(lo, hi, nodes) for lo, hi in inclusion_ranges(index, size)]


def consistency_path(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """Prove that the tree of ``new`` leaves extends that of ``old``."""
    return [range_hash(lo, hi, nodes) for lo, hi in consistency_ranges(old, new)]


def verify_inclusion(*, leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf hash stands at ``index`` under ``root`` (RFC 9162 2.1.3.2).

    Raises:
        ProofRefused: it does not, or the path has the wrong length.
    """
    if not 0 <= index < size or any(len(step) != HASH_SIZE for step in path):
        raise ProofRefused(f"No proof can place leaf {index} in a tree of {size}.")
    fn, sn, found = index, size - 1, leaf
    for step in path:
        if sn == 0:
            raise ProofRefused(f"The inclusion proof of leaf {index} is too long.")
        if fn & 1 or fn == sn:
            found = node_hash(step, found)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = node_hash(found, step)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or found != root:
        raise ProofRefused(f"The inclusion proof of leaf {index} does not lead to the root of {size} leaves.")


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Check that the newer tree only adds leaves to the older (RFC 9162 2.1.4.2).

    Raises:
        ProofRefused: it does not, the newer is smaller, or the path has the wrong length.
    """
    if not 0 <= old_size <= new_size:
        raise ProofRefused(f"A tree of {new_size} leaves cannot extend one of {old_size}.")
    if old_size in (0, new_size):
        if path or old_root != (new_root if old_size else EMPTY_ROOT):
            raise ProofRefused(f"The trees of {old_size} and {new_size} leaves do not fit.")
        return
    first, *rest = [old_root, *path] if old_size & (old_size - 1) == 0 else list(path) or [b""]
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    older = newer = first
    for step in rest:
        if sn == 0:
            raise ProofRefused("The consistency proof is too long.")
        if fn & 1 or fn == sn:
            older, newer = node_hash(step, older), node_hash(step, newer)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            newer = node_hash(newer, step)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or older != old_root or newer != new_root:
        raise ProofRefused(f"The tree of {new_size} leaves does not extend that of {old_size}: history was rewritten.")


def _split(count: int) -> int:
    """Find the largest power of two smaller than ``count`` (at least 2)."""
    return 1 << (count - 1).bit_length() - 1
