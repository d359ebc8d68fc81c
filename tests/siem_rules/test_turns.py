"""Whose turn it is, who holds how much, and where everybody stands after a crash: one sender delays and displaces nobody."""

import random
from collections import Counter
from pathlib import Path

import pytest

from lachan import clock
from lachan.identity.principal import PrincipalKind
from lachan.runtime import Runtime
from siem_rules import backlog, rebuild
from siem_rules.backlog import Backlog, Behind, Position
from siem_rules.delivery import PIECE_BYTES, PIECE_LINES, Delivery, Sender, sender_of
from siem_rules.fair import CREDIT, Turns
from siem_rules.holders import Holders, Holding, Ranking
from siem_rules.segments import SegmentLog
from tests.siem_rules.support import EXPECTED, RECORDING, collector, detect, device, documents, raised, send, shifted


def sender(name: str, vendor: str | None = None) -> Sender:
    """A device of a vendor, or a collector."""
    kind = PrincipalKind.DEVICE if vendor else PrincipalKind.COLLECTOR
    return Sender(f"{kind}:{name}", kind, name, name, vendor=vendor)


def put(log: SegmentLog, who: Sender, *lines: bytes, stream: str = "bulk-0") -> None:
    """Write one delivery into a stream."""
    writer = log.writer(stream)
    writer.append(Delivery(who, clock.now(), "", (None,) * len(lines), lines).pack())
    writer.close()


def taken(waiting: Backlog, turns: int) -> list[tuple[str, bytes]]:
    """Do some turns of one line each; give who and what."""
    found = []
    for _ in range(turns):
        flow, delivery = waiting.next()
        found.append((flow.label, delivery.lines[flow.line]))
        waiting.reached(flow, flow.line + 1, whole=flow.line + 1 == len(delivery.lines))
        waiting.charge(flow, CREDIT)
    return found


def test_time_is_shared_equally_and_a_newcomer_is_served_at_once() -> None:
    turns = Turns[str]()
    for who in "abc":
        turns.wait(who)
    served = Counter[str]()
    for _ in range(300):
        who = turns.next()
        served[who] += 1
        turns.charge(who, {"a": 0.1, "b": 0.01, "c": 0.01}[who])
    assert abs(served["a"] * 10 - served["b"]) <= 20
    assert abs(served["b"] - served["c"]) <= 2
    turns.wait("d")
    assert turns.next() == "d"
    turns.charge("d", CREDIT / 10)
    assert turns.next() == "d", "a few lines do not use up its credit"
    turns.leave("d")
    assert turns.next() != "d"


def test_ranking_tells_a_largest_after_any_changes() -> None:
    chance, ranking, counts = random.Random(1), Ranking[int](), Counter[int]()
    for _ in range(20_000):
        key = chance.randrange(30)
        by = 1 if not counts[key] or chance.random() < 0.5 else -1
        counts[key] += by
        ranking.change(key, by)
        top, most = ranking.top(), max(counts.values())
        assert (top is None) == (most == 0)
        assert top is None or counts[top] == most
    assert len(ranking) == sum(count > 0 for count in counts.values())


def test_the_largest_holder_is_of_the_largest_account_and_floors_are_kept() -> None:
    held = Holders(floor=2)
    for number in range(5):
        held.add(Holding("vendor:a", "device:1", "d1"))
        held.add(Holding("vendor:b", f"device:b{number}", f"b{number}"))
        held.add(Holding("vendor:b", f"device:b{number}", f"b{number}"))
    assert held.largest() == Holding("vendor:a", "device:1", "d1")
    for _ in range(3):
        held.remove(Holding("vendor:a", "device:1", "d1"))
    assert held.largest() is None
    assert held.total == 12


def test_a_flow_of_one_record_goes_before_the_rest_of_ten_thousand(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    for number in range(300):
        put(log, sender(f"loud-{number % 3}", "evil"), *[b"%d" % number] * 4)
    put(log, sender("quiet", "honest"), b"1", b"2")
    waiting = Backlog(log, {})
    while waiting.scan():
        pass
    assert taken(waiting, 3)[-1][0] in ("device:quiet", "device:loud-1", "device:loud-0", "device:loud-2")
    assert ("device:quiet", b"2") in taken(waiting, 2)


@pytest.mark.parametrize("kept", [0, 1 << 20], ids=["read again", "kept"])
def test_places_survive_a_crash_at_any_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """What was looked at and noted is not looked at again, and nothing is left out, whoever is behind."""
    monkeypatch.setattr(backlog, "KEPT", kept)
    monkeypatch.setattr(backlog, "READ", 300)
    log, chance = SegmentLog(tmp_path), random.Random(7)
    wanted = []
    for number in range(120):
        who = sender(f"s{chance.randrange(4)}", chance.choice(["a", None]))
        lines = tuple(b"%d/%d" % (number, place) for place in range(chance.randint(1, 5)))
        put(log, who, *lines, stream=f"bulk-{number % 2}")
        wanted += [(who.label, line) for line in lines]
    positions: dict[str, Position] = {}
    found: list[tuple[str, bytes]] = []
    while True:
        waiting = Backlog(log, positions)
        busy = waiting.scan()
        for _ in range(chance.randint(0, 12)):
            if not waiting:
                break
            found += taken(waiting, 1)
        positions = waiting.positions()
        if not busy and not waiting:
            break
    assert Counter(found) == Counter(wanted)
    for label in {label for label, _ in wanted}:
        for stream in (0, 1):
            mine = [line for who, line in found if who == label and int(line.split(b"/")[0]) % 2 == stream]
            there = [line for who, line in wanted if who == label and int(line.split(b"/")[0]) % 2 == stream]
            assert mine == there, "lines of one sender stay in order"


def test_a_place_tells_what_is_done() -> None:
    place = Position(100, {"a": Behind(40, 3, 60)})
    assert [place.done("a", offset) for offset in (39, 40, 41, 100)] == [None, 3, 0, 0]
    assert [place.done("b", offset) for offset in (40, 100)] == [None, 0]
    assert place.oldest == 40


def test_big_batches_become_pieces_of_one_turn() -> None:
    lines = (b"x" * 3 * PIECE_BYTES, *[b"y"] * (2 * PIECE_LINES), b"z" * PIECE_BYTES)
    whole = Delivery(sender("a", "v"), clock.now(), "k", tuple(map(str, range(len(lines)))), lines)
    pieces = list(whole.pieces())
    assert [len(piece.lines) for piece in pieces] == [1, PIECE_LINES, PIECE_LINES, 1]
    assert tuple(line for piece in pieces for line in piece.lines) == lines
    assert tuple(key for piece in pieces for key in piece.ids) == whole.ids
    assert {(piece.sender, piece.received, piece.batch) for piece in pieces} == {(whole.sender, whole.received, "k")}


def test_the_sender_is_read_without_the_rest_and_cannot_be_forged() -> None:
    evil = Sender('x"],"at":1', PrincipalKind.DEVICE, "id", '],"at":', None, "v")
    assert sender_of(Delivery(evil, clock.now(), '],"at":', ('"who":[',), (b"{}",)).pack()) == evil
    old = Delivery(sender("a"), clock.now(), "", (), ()).pack().replace(b",null,null]", b",null]")
    assert sender_of(old) == sender("a")


def test_a_restart_shares_its_time_out_as_memory_is(open_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood before the restart: the newest of its lines are run again, and all of everybody else's."""
    assert [rebuild.level(counts, 10) for counts in ([], [3], [20], [1, 20], [1, 2, 20, 20])] == [0, 3, 10, 9, 3]
    monkeypatch.setattr(rebuild, "LINES", 400)
    attack, camera = shifted(RECORDING).splitlines(keepends=True), device(open_rt, "cam-a")
    cut = next(number for number, line in enumerate(attack) if b"auth succeeded" in line) - 1
    send(open_rt, camera, b"".join(attack[:cut]))
    for _ in range(10):
        send(open_rt, collector("loud"), documents(*[{"message": "x"}] * 300))
    detect(open_rt)
    assert 2600 < detect(open_rt).counters["rebuild_skipped"] <= 3000
    send(open_rt, camera, b"".join(attack[cut:]))
    detect(open_rt)
    assert raised(open_rt) == Counter(EXPECTED)
