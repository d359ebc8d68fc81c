"""Sealing: every event once and in order, signed only as an extension, mended after a crash at any step."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from lachan import events
from lachan.identity.principal import system
from lachan.ledger import merkle, sealer, tiles, tree
from lachan.ledger.errors import LedgerDiverged
from lachan.ledger.models import checkpoints, leaves, nodes
from lachan.ledger.models import state as tree_state
from lachan.ledger.note import Verifier, open_checkpoint
from lachan.runtime import Runtime
from lachan.signer import siglog
from lachan.signer.client import SignerClient
from lachan.signer.errors import SignerRefused
from lachan.signer.siglog import SignatureOutcome
from lachan.work import outbox
from lachan.work.outbox import events as event_table
from tests.support.wait import until

STEPS = ("before-signing", "intended", "signed", "stored", "appended")


def happen(rt: Runtime, count: int, word: str = "an") -> None:
    """Record some events."""
    with rt.db.write() as connection:
        for i in range(count):
            outbox.append(connection, events.SignedIn(user=f"{word}{i}"), actor=system("test"))


def sealed(rt: Runtime) -> list[bytes]:
    with rt.db.read() as connection:
        query = sa.select(event_table.c.leaf_hash).join(leaves, leaves.c.event_seq == event_table.c.seq)
        return [bytes(h) for h in connection.execute(query.order_by(leaves.c.leaf_index)).scalars()]


def check(rt: Runtime) -> merkle.Frontier:
    """Everything that is stored and published fits together; gives the tree again, made from nothing."""
    hashes, edge, wanted = sealed(rt), merkle.Frontier(), {}
    for leaf in hashes:
        for level, index, digest in edge.append(leaf):
            wanted[level, index] = digest
    with rt.db.read() as connection:
        point, note = sealer.latest(connection)
        stored = {(r.level, r.node_index): bytes(r.hash) for r in connection.execute(sa.select(nodes))}
    assert stored == {key: digest for key, digest in wanted.items() if key[0] % 8 == 0}
    assert (point.size, point.root) == (len(hashes), edge.root())
    folder = rt.settings.data / "ledger"
    key = Verifier.parse((folder / "key").read_text())
    assert open_checkpoint(note, key) == point
    assert (folder / "checkpoint").read_text() == note
    for level in (0, 1):
        count = len(hashes) >> 8 * level
        row = hashes if level == 0 else [wanted[8, i] for i in range(count)]
        for index in range(-(-count // 256)):
            width = min(256, count - index * 256)
            tile = (folder / tiles.tile_path(level, index, width)).read_bytes()
            assert tile == b"".join(row[index * 256 : index * 256 + width])
    return edge


def unrecorded(rt: Runtime) -> list[int]:
    """List the sizes that the signer signed and the database does not know."""
    signed = {
        int(line["subject"])
        for _, line in siglog.read(rt.settings.signer_home / "signatures.log")
        if (line["kind"], line["outcome"]) == ("checkpoint", SignatureOutcome.SIGNED)
    }
    with rt.db.read() as connection:
        return sorted(signed - set(connection.execute(sa.select(checkpoints.c.size)).scalars()))


def test_sealing_grows_with_the_events(ledger_rt: Runtime):
    rt = ledger_rt
    before = sealer.seal_now(rt)  # what init recorded
    for count in (1, 1, 3, 250, 300, 0, 7):
        happen(rt, count)
        before += count
        assert sealer.seal_now(rt) == before
        check(rt)
    with rt.db.read() as connection:
        assert not tree.waiting(connection)
        names = [s.name for s in outbox.read(connection, limit=1000)]
        assert "Checkpoint" not in "".join(names)
        sizes = list(connection.execute(sa.select(checkpoints.c.size).order_by(checkpoints.c.size)).scalars())
    text = (rt.settings.data / "ledger" / "checkpoints").read_text()
    assert [int(block.split("\n")[1]) for block in text.split("\n\n")[:-1:2]] == sizes


def test_batches_are_one_tree(ledger_rt: Runtime, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sealer, "BATCH", 7)
    happen(ledger_rt, 40)
    sealer.seal_now(ledger_rt)
    check(ledger_rt)


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_after_any_step_is_mended(ledger_rt: Runtime, monkeypatch: pytest.MonkeyPatch, step: str):
    rt = ledger_rt
    happen(rt, 3)
    sealer.seal_now(rt)
    happen(rt, 5)

    class Crash(BaseException):
        pass

    def crash(reached: str) -> None:
        if reached == f"ledger.{step}":
            raise Crash

    monkeypatch.setattr(sealer, "reached", crash)
    with pytest.raises(Crash):
        sealer.seal_now(rt)
    monkeypatch.undo()
    assert bool(unrecorded(rt)) == (step == "signed")
    happen(rt, 2)
    sealer.seal_now(rt)
    check(rt)
    assert unrecorded(rt) == []
    text = (rt.settings.data / "ledger" / "checkpoints").read_text()
    sizes = [int(block.split("\n")[1]) for block in text.split("\n\n")[:-1:2]]
    assert sizes == sorted(set(sizes))


def test_the_steps_of_this_test_are_those_of_the_code():
    source = Path(sealer.__file__).read_text()
    assert [
        line.split('"ledger.')[1].split('"')[0] for line in source.splitlines() if 'reached("ledger.' in line
    ] == list(STEPS)


def test_a_lost_note_and_lost_files_are_made_again(ledger_rt: Runtime):
    rt = ledger_rt
    happen(rt, 300)
    sealer.seal_now(rt)
    with rt.db.write() as connection:  # the transaction that stored the checkpoint was lost after the signer had signed
        connection.execute(checkpoints.delete())
    folder = rt.settings.data / "ledger"
    (folder / "checkpoint").write_text("torn")
    with (folder / "checkpoints").open("a") as file:
        file.write("torn")
    sealer.seal_now(rt)
    check(rt)


def refusals(rt: Runtime) -> list:
    with rt.db.read() as connection:
        return [stored.event for stored in outbox.read(connection, names=("SignatureRefused",))]


def test_the_signer_refuses_a_smaller_tree_and_a_rewritten_one(ledger_rt: Runtime):
    rt = ledger_rt
    happen(rt, 9)
    size = sealer.seal_now(rt)
    hashes = sealed(rt)
    smaller = merkle.root(hashes[: size - 2])
    with pytest.raises(SignerRefused, match="a smaller tree"):
        rt.signer.request("checkpoint", size=size - 2, root=smaller, old_size=size, proof=[], fence=0)
    with pytest.raises(SignerRefused, match="do not fit"):
        rt.signer.request("checkpoint", size=size, root=bytes(32), old_size=size, proof=[], fence=0)
    forged = merkle.Frontier()
    for leaf in [*hashes[:-1], bytes(32), bytes(32)]:
        forged.append(leaf)
    with pytest.raises(SignerRefused, match="rewritten"):
        rt.signer.request(
            "checkpoint", size=size + 1, root=forged.root(), old_size=size, proof=[bytes(32)] * 3, fence=0
        )
    with pytest.raises(SignerRefused, match="does not know"):
        rt.signer.request(
            "checkpoint", size=size, root=forged.root(), old_size=size, proof=[], fence=0, text=b"sign me"
        )
    found = until(lambda: len(refusals(rt)) == 4 and refusals(rt))
    assert [event.kind for event in found] == ["checkpoint"] * 4
    assert found[0].subject == str(size - 2)
    assert sealer.seal_now(rt) == size + 4
    check(rt)


def test_a_rewritten_database_stops_the_seal_and_raises_one_event(ledger_rt: Runtime):
    rt = ledger_rt
    happen(rt, 5)
    sealer.seal_now(rt)
    with rt.db.write() as connection:  # an attacker cuts the tail and lets history go on from there
        connection.execute(leaves.delete())
        connection.execute(checkpoints.delete())
        connection.execute(tree_state.delete())
        connection.execute(event_table.delete().where(event_table.c.name == "SignedIn"))
    happen(rt, 1, "mallory")
    for _ in range(5):
        sealer.seal(rt)
    assert "smaller tree" in sealer.stopped(rt.settings.data)
    until(lambda: len(refusals(rt)) == 1)
    happen(rt, 20, "mallory")
    with pytest.raises(LedgerDiverged, match="rewritten"):
        sealer.seal_now(rt)


def test_without_the_signers_memory_nothing_is_signed(ledger_rt: Runtime):
    happen(ledger_rt, 2)
    (ledger_rt.settings.signer_home / "ledger.json").unlink()
    with pytest.raises(LedgerDiverged, match="cannot be read"):
        sealer.seal_now(ledger_rt)


def test_pages_are_bounded_and_a_turn_ends(ledger_rt: Runtime, monkeypatch: pytest.MonkeyPatch):
    """However much waits: a unit gives `BATCH` places, a turn ends after `TURN` seconds, and what has a place is signed."""
    rt, pages = ledger_rt, []
    start = sealer.seal_now(rt)
    happen(rt, 40)
    append = tree.append

    def counted(connection: sa.Connection, *, limit: int) -> int:
        pages.append(append(connection, limit=limit))
        return pages[-1]

    monkeypatch.setattr(tree, "append", counted)
    monkeypatch.setattr(sealer, "BATCH", 7)
    monkeypatch.setattr(sealer, "TURN", 0.0)
    for turns in range(1, 7):
        sealer.seal(rt)
        assert len(pages) == turns
        assert check(rt).size == start + sum(pages)
    assert pages == [7, 7, 7, 7, 7, 5]


def test_the_signer_is_asked_while_no_transaction_is_open(ledger_rt: Runtime, monkeypatch: pytest.MonkeyPatch):
    rt, asked = ledger_rt, []
    request = SignerClient.request

    def asking(self: SignerClient, kind: str, **fields):
        with closing(sqlite3.connect(str(rt.db.url.database), timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # fails at once when anybody writes
            other.execute("ROLLBACK")
        asked.append(kind)
        return request(self, kind, **fields)

    monkeypatch.setattr(SignerClient, "request", asking)
    happen(rt, 3)
    sealer.seal_now(rt)
    assert asked == ["checkpoint", "checkpoint"]


def test_a_database_that_is_away_is_waited_for(ledger_rt: Runtime, monkeypatch: pytest.MonkeyPatch):
    rt = ledger_rt
    happen(rt, 3)

    def away(*_: object, **__: object) -> int:
        raise sa.exc.OperationalError("INSERT", {}, Exception("database is locked"))

    monkeypatch.setattr(tree, "append", away)
    sealer.seal(rt)
    monkeypatch.undo()
    assert sealer.stopped(rt.settings.data) == ""
    sealer.seal(rt)
    check(rt)


def test_without_a_signer_places_are_given_and_signed_later(rt: Runtime):
    happen(rt, 2)
    sealer.seal(rt)
    assert len(sealed(rt)) == 2
    assert sealer.stopped(rt.settings.data) == ""
