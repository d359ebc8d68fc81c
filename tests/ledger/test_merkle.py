"""The tree against RFC 6962/9162's published values and against a naive second writing of its definition."""

import hashlib

import pytest

from lachan.ledger import merkle
from lachan.ledger.errors import ProofRefused
from lachan.ledger.merkle import Frontier, leaf_hash, node_hash

BODIES = [bytes.fromhex(h) for h in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = """
6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d
fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125
aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77
d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7
4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4
76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef
ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c
5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328
""".split()
MOST = 70
LEAVES = [leaf_hash(str(i).encode()) for i in range(MOST)]


def naive(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162 2.1.1, word for word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(naive(leaves[:k]), naive(leaves[k:]))


def nodes(level: int, index: int) -> bytes:
    return naive(LEAVES[index << level : (index + 1) << level])


NAIVE = [naive(LEAVES[:size]) for size in range(MOST + 1)]


def test_known_roots():
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for size, wanted in enumerate(ROOTS, 1):
        assert merkle.root(map(leaf_hash, BODIES[:size])).hex() == wanted


def test_known_proofs():
    leaves = [leaf_hash(body) for body in BODIES]

    def of(level: int, index: int) -> bytes:
        return naive(leaves[index << level : (index + 1) << level])

    path = [step.hex() for step in merkle.inclusion_path(5, 8, of)]
    assert path == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    path = [step.hex() for step in merkle.consistency_path(6, 8, of)]
    assert path == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_every_size_grows_to_the_same_root_and_completes_each_node_once():
    edge, seen = Frontier(), {}
    for size, leaf in enumerate(LEAVES, 1):
        for level, index, digest in edge.append(leaf):
            assert (level, index) not in seen
            seen[level, index] = digest
        assert edge.root() == NAIVE[size] == merkle.tree_root(size, nodes)
    assert all(digest == nodes(level, index) for (level, index), digest in seen.items())
    assert len(seen) == sum(MOST >> level for level in range(1, 8))


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_inclusion_of_every_leaf(size: int):
    root = NAIVE[size]
    for index in range(size):
        path = merkle.inclusion_path(index, size, nodes)
        merkle.verify_inclusion(leaf=LEAVES[index], index=index, size=size, path=path, root=root)
        wrong = [
            {"leaf": LEAVES[index - 1] if size > 1 else b"x" * 32},
            {"path": [*path, root]},
            {"root": NAIVE[size - 1]},
            {"index": index ^ 1} if size > 1 else {"index": 1},
        ]
        if path:
            wrong += [{"path": path[:-1]}, {"path": [*path[:-1], bytes(32)]}, {"path": [b"", *path[1:]]}]
        for change in wrong:
            with pytest.raises(ProofRefused):
                merkle.verify_inclusion(
                    **{"leaf": LEAVES[index], "index": index, "size": size, "path": path, "root": root, **change}
                )


def test_a_path_that_ends_too_early_places_nothing():
    """The last leaf of three shown at the place of the second: all hashes lead to the root, only the length gives it away."""
    a, b, c = LEAVES[:3]
    with pytest.raises(ProofRefused):
        merkle.verify_inclusion(leaf=c, index=1, size=3, path=[node_hash(a, b)], root=NAIVE[3])
    merkle.verify_inclusion(leaf=c, index=2, size=3, path=[node_hash(a, b)], root=NAIVE[3])


@pytest.mark.parametrize("size", range(2, MOST + 1))
def test_no_leaf_can_be_shown_at_the_place_of_another(size: int):
    """Every honest proof, tried at every other place: a path tells left from right, and how deep it is."""
    for index in range(size):
        path = merkle.inclusion_path(index, size, nodes)
        for other in range(size):
            if other != index:
                with pytest.raises(ProofRefused):
                    merkle.verify_inclusion(leaf=LEAVES[index], index=other, size=size, path=path, root=NAIVE[size])


@pytest.mark.parametrize("new", range(MOST + 1))
def test_consistency_from_every_earlier_size(new: int):
    for old in range(new + 1):
        good = {
            "old_size": old, "old_root": NAIVE[old], "new_size": new, "new_root": NAIVE[new],
            "path": merkle.consistency_path(old, new, nodes),
        }  # fmt: skip
        merkle.verify_consistency(**good)
        wrong = [{"old_root": bytes(32)}, {"path": [*good["path"], bytes(32)]}]
        if old:
            wrong += [{"new_root": bytes(32)}]
        if old < new:
            wrong += [{**good, "old_size": new, "old_root": NAIVE[new], "new_size": old, "new_root": NAIVE[old]}]
        if good["path"]:
            wrong += [{"path": good["path"][:-1]}, {"path": [bytes(32), *good["path"][1:]]}]
        for change in wrong:
            with pytest.raises(ProofRefused):
                merkle.verify_consistency(**{**good, **change})


def test_there_is_no_proof_for_what_is_not_there():
    for index, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(ValueError):
            merkle.inclusion_ranges(index, size)
    with pytest.raises(ValueError):
        merkle.consistency_ranges(4, 3)
    with pytest.raises(ValueError):
        Frontier(3, [bytes(32)])
