"""Exactly one signs checkpoints: two machines over one database, each with a copy of the key and a signer of its own."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from lachan import clock
from lachan.ledger import lease, merkle, sealer, tree
from lachan.ledger.errors import LeaseHeld, LedgerDiverged
from lachan.ledger.lease import Lease
from lachan.ledger.models import lease as lease_table
from lachan.ledger.models import leaves
from lachan.ledger.models import state as tree_state
from lachan.ledger.signing import name_of
from lachan.runtime import Runtime
from lachan.settings import Settings
from lachan.signer import siglog
from lachan.signer.errors import SignerRefused
from lachan.signer.siglog import SignatureOutcome
from tests.ledger.test_sealer import check, happen
from tests.support.signer import run_init, running_signer
from tests.support.wait import until

ROOT = bytes(32)
MACHINE = """
import sys
from datetime import timedelta
from pathlib import Path
from lachan.ledger import lease, sealer
from lachan.runtime import Runtime
from lachan.settings import Settings
from lachan.signer.server import SignerServer
lease.TERM = timedelta(seconds=2)
rt = Runtime.open(Settings.load(sys.argv[1], database_url=sys.argv[2], signer_socket=Path(sys.argv[3])))
server = SignerServer(rt.settings, rt.db)
server.start()
print("ready", flush=True)
for line in sys.stdin:
    sealer.seal(rt)
    print("sealed", flush=True)
"""


def take(rt: Runtime, holder: str, size: int, seen: Lease | None = None) -> Lease:
    with rt.db.read() as connection:
        stands = lease.read(connection)
    return rt.db.run(lambda c: lease.take(c, seen=seen or stands, holder=holder, size=size, root=ROOT))


def ends(rt: Runtime, **until) -> None:
    with rt.db.write() as connection:
        connection.execute(lease_table.update().values(until=clock.now() + timedelta(**until)))


def test_a_lease_is_taken_in_turn(rt: Runtime):
    first = take(rt, "a", 3)
    assert (first.fence, first.size) == (1, 3)
    with pytest.raises(LeaseHeld, match="a signs checkpoints until"):
        take(rt, "b", 4)
    again = take(rt, "a", 4)
    with pytest.raises(LeaseHeld, match="faster"):
        take(rt, "a", 5, seen=first)
    ends(rt, seconds=-1)
    other = take(rt, "b", 5)
    assert (again.fence, other.fence) == (2, 3)
    with pytest.raises(LeaseHeld):
        take(rt, "a", 6)
    ends(rt, hours=1)  # nobody can have a lease that long: a clock was wrong
    assert take(rt, "a", 6).fence == 4


def test_the_signer_signs_what_was_written_down_and_nothing_else(ledger_rt: Runtime):
    rt = ledger_rt
    happen(rt, 4)
    sealer.seal_now(rt)
    with rt.db.read() as connection:
        edge, stands = tree.frontier(connection), lease.read(connection)
        leaf = merkle.leaf_hash(b"next")
    old, root = edge.size, edge.root()
    edge.append(leaf)
    proof = [leaf] if old & (old - 1) == 0 else None
    if proof is None:
        with rt.db.read() as connection:
            nodes = tree.StoredNodes(connection)
            proof = [
                leaf if (lo, hi) == (old, old + 1) else merkle.range_hash(lo, hi, nodes)
                for lo, hi in merkle.consistency_ranges(old, old + 1)
            ]
    merkle.verify_consistency(old_size=old, old_root=root, new_size=old + 1, new_root=edge.root(), path=proof)
    asked = {"size": old + 1, "root": edge.root(), "old_size": old, "proof": proof}
    for fence in (stands.fence, stands.fence + 1):
        with pytest.raises(SignerRefused, match="nobody wrote down"):
            rt.signer.request("checkpoint", **asked, fence=fence)
    assert rt.signer.request("checkpoint", **asked, fence=stands.fence - 1)["unsigned"] is True
    name = name_of(rt.settings.signer_home)
    taken = rt.db.run(lambda c: lease.take(c, seen=stands, holder=name, size=old + 1, root=edge.root()))
    with rt.db.write() as connection:
        connection.execute(lease_table.update().values(holder="somebody else"))
    assert rt.signer.request("checkpoint", **asked, fence=taken.fence)["unsigned"] is True
    with rt.db.write() as connection:
        connection.execute(lease_table.update().values(holder=name))
    assert rt.signer.request("checkpoint", **asked, fence=taken.fence)["size"] == old + 1


@pytest.fixture
def machines(rt: Runtime, tmp_path: Path, short_folder: Path) -> list[Runtime]:
    """Two installations over one database; the second is a copy of the first, keys and all."""
    url = rt.db.url.render_as_string(hide_password=False)
    run_init(rt, tmp_path / "offline", rooms=("lachan.ledger",))
    shutil.copytree(rt.settings.data, tmp_path / "copy", ignore=shutil.ignore_patterns("*.db*", "*.sqlite*"))
    return [
        Runtime(Settings.load(data, database_url=url, signer_socket=short_folder / name), rt.db, rt.wiring)
        for name, data in (("a", rt.settings.data), ("b", tmp_path / "copy"))
    ]


def signed(rt: Runtime) -> dict[int, str]:
    """What the signer of a machine signed: size to digest."""
    return {
        int(line["subject"]): line["digest"]
        for _, line in siglog.read(rt.settings.signer_home / "signatures.log")
        if line["outcome"] == SignatureOutcome.SIGNED
    }


@contextmanager
def running(rt: Runtime) -> Iterator[subprocess.Popen[str]]:
    url = rt.db.url.render_as_string(hide_password=False)
    words = [sys.executable, "-c", MACHINE, str(rt.settings.data), url, str(rt.settings.signer_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def turn(*processes: subprocess.Popen[str]) -> None:
    """Have all of them seal at once, and wait until all have done."""
    for process in processes:
        process.stdin.write("seal\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout.readline() == "sealed\n"


def test_two_machines_race_and_one_signs(machines: list[Runtime]):
    a, b = machines
    with running(a) as first, running(b) as second:
        for _ in range(25):
            happen(a, 3)
            turn(first, second)
        winner, loser = (a, b) if signed(a) else (b, a)
        assert len(signed(winner)) > 10
        assert signed(loser) == {}, "only the holder of the lease signs"
        (first if winner is a else second).kill()
        survivor = second if winner is a else first
        happen(a, 2)
        until(
            lambda: turn(survivor) or signed(loser), every=0.2
        )  # until the lease of the dead ends; a signer has a rate
        turn(survivor)
    both = {size: {s[size] for s in (signed(a), signed(b)) if size in s} for size in {**signed(a), **signed(b)}}
    assert all(len(digests) == 1 for digests in both.values()), "two checkpoints of one size"
    shutil.rmtree(loser.settings.data / "ledger" / "tile")
    (loser.settings.data / "ledger" / "checkpoint").unlink()
    with running_signer(loser):
        happen(a, 1)
        sealer.seal_now(loser)
        check(loser)
        loser.signer.close()


def test_a_history_that_another_signer_signed_is_not_signed_anew(
    machines: list[Runtime], monkeypatch: pytest.MonkeyPatch
):
    """The first signs and dies; the database goes on with another history; the second has never heard of the first's."""
    a, b = machines
    happen(a, 5)
    with running_signer(a), monkeypatch.context() as patch:

        def die(step: str) -> None:
            if step == "ledger.signed":
                raise KeyboardInterrupt

        patch.setattr(sealer, "reached", die)
        with pytest.raises(KeyboardInterrupt):
            sealer.seal_now(a)
        a.signer.close()
    (size,) = signed(a)
    with a.db.write() as connection:  # as a replica that took over without the last commits
        hashes = list(connection.execute(sa.select(leaves.c.leaf_hash).order_by(leaves.c.leaf_index)).scalars())
        edge = merkle.Frontier()
        for leaf in [*map(bytes, hashes[:-1]), merkle.leaf_hash(b"other")]:
            edge.append(leaf)
        last = {"leaf_hash": merkle.leaf_hash(b"other")}
        connection.execute(leaves.update().where(leaves.c.leaf_index == size - 1).values(**last))
        connection.execute(tree_state.update().values(peaks=b"".join(edge.peaks)))
        connection.execute(lease_table.update().values(until=clock.now() - timedelta(seconds=1)))
    with running_signer(b):
        with pytest.raises(LedgerDiverged, match="not of this tree"):
            sealer.seal_now(b)
        b.signer.close()
    assert signed(b) == {}
