"""A view follows changes: none is missed whatever the order of commit, and what it costs is what changed."""

import random
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from lachan import clock, trust
from lachan.database import Database
from lachan.trust import Answer, CertificateKeys, Horizon, Signal
from lachan.trust_view import PAGE, SLICE, Changes, View
from tests.support import statements
from tests.support.view import view_of

KEYS = [CertificateKeys(f"{n:064x}", f"{n + 2**32:064x}") for n in range(8)]


def signal(device_id: str, answer: Answer = Answer.DENY, *, ref: str = "1", since=timedelta(0), until=None) -> Signal:
    now = clock.now()
    return Signal(
        device_id=device_id, source="test", answer=answer, reason="why", ref=ref, since=now + since,
        until=until and now + until,
    )  # fmt: skip


def contain(db: Database, *device_ids: str, **more) -> None:
    db.run(lambda connection: [trust.set_signal(connection, signal(each, **more)) for each in device_ids])


def release(db: Database, device_id: str) -> None:
    db.run(lambda connection: trust.clear_signal(connection, device_id=device_id, source="test", ref="1"))


def refuse(db: Database, keys: CertificateKeys, device_id: str = "d", days: float = 1) -> None:
    until = clock.now() + timedelta(days=days)
    db.run(lambda c: trust.refuse_certificate(c, keys=keys, device_id=device_id, reason="revoked", until=until))


class Follower:
    """A view and the eye that it looks with; keeps what it is told."""

    def __init__(self, db: Database) -> None:
        self.eye, self.view, self.told = db.glances(), View(), list[Changes]()
        for _ in self.view.load(self.eye):
            pass
        self.look()
        self.told.clear()

    def look(self) -> "Follower":
        self.view.look(self.eye, self.told.append)
        return self

    def kept_out(self) -> set[str]:
        return set(self.view._against)


@pytest.fixture
def follower(db: Database):
    made = Follower(db)
    yield made
    made.eye.close()


def test_a_follower_sees_what_was_set_cleared_refused_and_accepted(db: Database, follower: Follower) -> None:
    contain(db, "a", "b")
    refuse(db, KEYS[0])
    follower.look()
    assert follower.kept_out() == {"a", "b"}
    assert follower.view.refusal(KEYS[0]) == "revoked"
    assert follower.view.refusal(CertificateKeys(KEYS[1].tbs_sha256, KEYS[0].issuer_serial)) == "revoked"
    release(db, "a")
    db.run(lambda c: trust.accept_certificate(c, keys=KEYS[0], device_id="d"))
    follower.look()
    assert follower.kept_out() == {"b"}
    assert follower.view.refusal(KEYS[0]) is None
    assert len(follower.view) == 1


def test_two_certificates_of_one_issuer_and_serial_are_told_apart(db: Database, follower: Follower) -> None:
    """An authority that numbers twice: accepting the one must not forget the other."""
    twin = CertificateKeys(KEYS[1].tbs_sha256, KEYS[0].issuer_serial)
    refuse(db, KEYS[0], "d")
    refuse(db, twin, "e")
    db.run(lambda c: trust.accept_certificate(c, keys=KEYS[0], device_id="d"))
    follower.look()
    assert follower.view.refusal(twin) == "revoked"
    assert follower.view.refusal(CertificateKeys(KEYS[2].tbs_sha256, KEYS[0].issuer_serial)) == "revoked"


def test_the_worst_reason_stands_first(db: Database, follower: Follower) -> None:
    for ref, answer in (("1", Answer.LIMITED), ("2", Answer.QUARANTINE), ("3", Answer.ALLOW)):
        contain(db, "a", ref=ref, answer=answer)
    for view in (follower.look().view, view_of(db)):
        standing = view.standing("a")
        assert standing is not None
        assert standing.answer is Answer.QUARANTINE
        assert [each.ref for each in standing.reasons] == ["2", "1", "3"]


def test_signals_begin_and_end_with_time(db: Database, follower: Follower) -> None:
    contain(db, "ends", until=timedelta(hours=1))
    contain(db, "begins", since=timedelta(hours=1), until=timedelta(hours=2))
    assert follower.look().kept_out() == {"ends"}
    for hours, expected in ((1.5, {"begins"}), (3.0, set())):
        with clock.travel(timedelta(hours=hours)):
            assert follower.look().kept_out() == expected
    assert len(follower.view._heap) == len(follower.view._ends) == 0


def test_a_heap_does_not_grow_with_what_is_said_again(db: Database, follower: Follower) -> None:
    for n in range(3 * SLICE):
        follower.view._remind("a", float(n))
    assert len(follower.view._heap) <= SLICE + 2
    follower.view._remind("a", None)
    contain(db, "a", until=timedelta(hours=1))
    follower.look()
    with clock.travel(timedelta(hours=2)):
        assert follower.look().kept_out() == set()


def test_refusals_are_forgotten_after_the_certificates_last_day(db: Database, follower: Follower) -> None:
    refuse(db, KEYS[0], days=1)
    refuse(db, KEYS[1], days=30)
    follower.look()
    with clock.travel(timedelta(days=3)):
        follower.look()
        assert follower.view.refusal(KEYS[0]) is None
        assert follower.view.refusal(KEYS[1]) == "revoked"
        assert len(follower.view) == 2


def test_a_clock_that_is_put_back_is_noticed(db: Database, follower: Follower) -> None:
    assert not follower.view.went_back()
    with clock.travel(timedelta(days=36)):
        assert not follower.view.went_back()
    assert follower.view.went_back()
    assert not follower.view.went_back()


def test_whom_it_was_about_is_told_once_it_is_in_place(db: Database, follower: Follower) -> None:
    refuse(db, KEYS[0], "a")
    db.run(trust.touch)
    follower.look()
    (told,) = follower.told
    assert (told.devices, told.anchors) == ({"a"}, True)
    assert told.certificates == {KEYS[0].tbs_sha256, KEYS[0].issuer_serial}
    assert told.position == follower.view.position
    follower.look()
    assert len(follower.told) == 1, "nothing changed, nobody is told"


@pytest.mark.parametrize("number", [SLICE - 1, SLICE, SLICE + 1, 2 * SLICE])
def test_a_storm_comes_in_slices_and_the_last_one_tells_the_position(
    db: Database, follower: Follower, number: int
) -> None:
    contain(db, *(f"d{n}" for n in range(number)))
    follower.look()
    assert len(follower.kept_out()) == number
    assert all(len(each.devices) <= SLICE for each in follower.told)
    assert [each.position is None for each in follower.told] == [True] * (len(follower.told) - 1) + [False]
    with db.read() as connection:
        assert follower.view.position.covers(trust.last_number(connection, "d0"))


def test_loading_reads_more_than_a_page(db: Database) -> None:
    """A device whose signals lie on two pages, and certificates beside it."""
    rows = [{**signal(f"d{n // 2:06}", ref=str(n)).__dict__, "answer": "deny"} for n in range(PAGE - 1)]
    rows += [{**signal("d999999", ref=str(n)).__dict__, "answer": "limited"} for n in range(3)]
    certificates = [
        {"tbs_sha256": f"{n:064x}", "issuer_serial": f"{n + 2**32:064x}", "device_id": "d", "reason": "revoked",
         "until": clock.now() + timedelta(days=1)}
        for n in range(PAGE + 1)
    ]  # fmt: skip
    db.run(lambda c: c.execute(trust.trust_signals.insert(), rows))
    db.run(lambda c: c.execute(trust.trust_refused_certificates.insert(), certificates))
    view = view_of(db)
    assert len(view) == PAGE // 2 + 1 + 2 * (PAGE + 1)
    last = view.standing("d999999")
    assert last is not None
    assert len(last.reasons) == 3


def test_what_changes_while_a_view_is_loaded_is_in_it(db: Database) -> None:
    contain(db, *(f"d{n:06}" for n in range(PAGE + 1)))
    eye, view = db.glances(), View()
    pages = view.load(eye)
    next(pages)
    release(db, "d000000")  # of a page that was read
    contain(db, "a")  # sorts before it
    for _ in pages:
        pass
    view.look(eye)
    eye.close()
    assert view.standing("d000000") is None
    assert view.standing("a") is not None


def test_one_look_reads_one_moment(db: Database, follower: Follower) -> None:
    """A device whose refusal is replaced by a signal is at no look without both."""
    refuse(db, KEYS[0], "d")
    follower.look()
    stop, free = threading.Event(), []

    def swap(connection: sa.Connection, *, contained: bool) -> None:
        if contained:
            trust.set_signal(connection, signal("d"))
            trust.accept_certificate(connection, keys=KEYS[0], device_id="d")
        else:
            day = clock.now() + timedelta(days=1)
            trust.refuse_certificate(connection, keys=KEYS[0], device_id="d", reason="revoked", until=day)
            trust.clear_signal(connection, device_id="d", source="test", ref="1")

    def swapping() -> None:
        for turn in range(60):
            db.run(lambda connection, turn=turn: swap(connection, contained=turn % 2 == 0))
        stop.set()

    thread = threading.Thread(target=swapping)
    thread.start()
    while not stop.is_set():
        follower.look()
        if follower.view.standing("d") is None and follower.view.refusal(KEYS[0]) is None:
            free.append(follower.view.position)
    thread.join()
    assert free == []


def test_at_rest_a_look_is_one_statement_and_a_change_one_more(db: Database) -> None:
    contain(db, *(f"d{n}" for n in range(50)))
    with statements.recorder() as heard:
        follower = Follower(db)
        assert len(heard.during(follower.look)) == 1
        contain(db, "d1", "d2")
        assert len(heard.during(follower.look)) == 2
        follower.eye.close()


def test_followers_and_the_database_agree_after_any_order_of_commits(db: Database) -> None:
    """Many write at once, in transactions of different length; whoever followed knows what whoever loads anew knows."""
    follower, ended = Follower(db), threading.Event()

    def writing(seed: int) -> None:
        random_ = random.Random(seed)

        def unit(connection: sa.Connection) -> None:
            for _ in range(random_.randint(1, 4)):
                device_id, keys = f"d{seed}-{random_.randint(0, 9)}", KEYS[seed]
                day = clock.now() + timedelta(days=1)
                match random_.randint(0, 3):
                    case 0:
                        trust.set_signal(connection, signal(device_id, random_.choice(list(Answer))))
                    case 1:
                        trust.clear_signal(connection, device_id=device_id, source="test", ref="1")
                    case 2:
                        trust.refuse_certificate(connection, keys=keys, device_id="d", reason="held", until=day)
                    case 3:
                        trust.accept_certificate(connection, keys=keys, device_id="d")

        for _ in range(40):
            db.run(unit)

    writers = [threading.Thread(target=writing, args=(seed,)) for seed in range(4)]
    for writer in writers:
        writer.start()
    looks = 0
    while any(writer.is_alive() for writer in writers):
        follower.look()
        looks += 1
    ended.set()
    follower.look()
    anew = view_of(db)
    assert looks > 3
    assert (follower.view._against, follower.view._refused) == (anew._against, anew._refused)
    follower.eye.close()


# -- pruning -----------------------------------------------------------------------------------------------------------


def left(db: Database) -> int:
    with db.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(trust.trust_changes)).scalar_one()


def test_what_was_there_at_the_last_turn_is_pruned_and_no_follower_is_behind(db: Database, follower: Follower) -> None:
    contain(db, "a", "b", "c")
    trust.prune(db)
    assert left(db) == 3, "the first turn only takes note"
    follower.look()
    contain(db, "d")
    trust.prune(db)
    assert left(db) == 1
    follower.look()
    assert not follower.view.behind
    assert follower.kept_out() == {"a", "b", "c", "d"}
    trust.prune(db)
    assert left(db) == 1, "the newest stays, or the version would go back"
    assert db.run(trust.version) == 4


def test_who_was_pruned_past_knows_it_and_goes_on(db: Database, follower: Follower) -> None:
    contain(db, "a", "b")
    trust.prune(db)
    contain(db, "c")
    trust.prune(db)
    follower.look()
    assert follower.view.behind
    assert "c" in follower.kept_out(), "what is left of the changes is applied all the same"
    contain(db, "d")
    assert "d" in follower.look().kept_out()
    assert not Follower(db).view.behind


def test_a_position_is_written_and_read_as_the_database_does() -> None:
    for text in ("5:5:", "3:9:3,7"):
        assert str(Horizon.parse(text)) == text
    seen = Horizon.parse("3:9:3,7")
    assert [number for number in range(2, 11) if not seen.covers(number)] == [3, 7, 9, 10]
