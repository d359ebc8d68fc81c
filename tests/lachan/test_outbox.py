"""Facts and their handlers: one transaction, one job per handler, at least once."""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import rfc8785
import sqlalchemy as sa

from lachan import clock, wiring
from lachan.database import after_commit, insert_ignore
from lachan.enforcement import Level
from lachan.events import DeviceRetired
from lachan.identity import system
from lachan.runtime import Runtime
from lachan.work import jobs, outbox, worker
from lachan.work.worker import Worker

SEEN: list[str] = []
TOGETHER: list[list[int]] = []


@jobs.batched
def count_together(_rt: Runtime, found: list[jobs.Job]) -> dict[str, datetime]:
    TOGETHER.append([job.payload["number"] for job in found])
    return {found[0].id: clock.now() + timedelta(hours=1)}


def remember(_rt: Runtime, stored: outbox.StoredEvent) -> None:
    SEEN.append(stored.id)


def fail(_rt: Runtime, _stored: outbox.StoredEvent) -> None:
    raise RuntimeError("broken handler")


def ordinary(name: str) -> wiring.Work:
    return wiring.Work(f"{__name__}:{name}", lane=wiring.Lane.ORDINARY, deadline=60.0)


@pytest.fixture
def subscribed(monkeypatch: pytest.MonkeyPatch) -> None:
    wired = wiring.Wiring(handlers={"DeviceRetired": (ordinary("remember"), ordinary("fail"))})
    monkeypatch.setattr(wiring, "load", lambda: wired)
    SEEN.clear()


def test_a_fact_and_its_jobs_commit_or_vanish_together(rt: Runtime, subscribed: None) -> None:
    with pytest.raises(KeyError), rt.db.write() as c:
        outbox.append(c, DeviceRetired(device_id=None, reason="x"), actor=system("t"))
        raise KeyError
    with rt.db.read() as c:
        assert outbox.read(c) == []
        assert c.execute(sa.select(sa.func.count()).select_from(jobs.jobs)).scalar_one() == 0


def test_a_fact_of_a_savepoint_that_rolled_back_vanishes_alone(rt: Runtime, subscribed: None) -> None:
    def unit(c: sa.Connection) -> None:
        outbox.append(c, DeviceRetired(device_id=None, reason="before"), actor=system("t"))
        with pytest.raises(KeyError), c.begin_nested():
            outbox.append(c, DeviceRetired(device_id=None, reason="inside"), actor=system("t"))
            raise KeyError
        with pytest.raises(sa.exc.DBAPIError), c.begin_nested():
            outbox.append(c, DeviceRetired(device_id=None, reason="broken"), actor=system("t"))
            c.execute(sa.text("SELECT * FROM no_such_table"))
        outbox.append(c, DeviceRetired(device_id=None, reason="after"), actor=system("t"))

    rt.db.run(unit)
    with rt.db.read() as c:
        assert [stored.event.reason for stored in outbox.read(c)] == ["before", "after"]
        assert c.execute(sa.select(sa.func.count()).select_from(jobs.jobs)).scalar_one() == 4


def test_a_failing_handler_is_tried_again_and_does_not_stop_the_other(rt: Runtime, subscribed: None) -> None:
    with rt.db.write() as c:
        event_id = outbox.append(c, DeviceRetired(device_id=None, reason="x"), actor=system("t"))
    worker = Worker(rt)
    assert worker.run_due() == 2
    assert SEEN == [event_id]
    for _ in range(jobs.TRIES - 1):
        with clock.travel(timedelta(hours=1)):
            worker.run_due()
        with rt.db.write() as c:
            c.execute(jobs.jobs.update().where(jobs.jobs.c.state == "open").values(due_at=clock.now()))
    with rt.db.read() as c:
        row = c.execute(sa.select(jobs.jobs)).mappings().one()
        assert jobs.poisoned(c) == 1
    assert row["state"] == "poisoned"
    assert "broken handler" in row["last_error"]


def test_what_is_hashed_is_what_is_stored(rt: Runtime) -> None:
    with rt.db.write() as c:
        outbox.append(c, DeviceRetired(device_id="d", reason="x"), actor=system("t"))
        row = c.execute(sa.select(outbox.events)).mappings().one()
    import hashlib

    assert hashlib.sha256(b"\0" + row["body"]).digest() == row["leaf_hash"]
    assert json.loads(row["body"])["data"]["reason"] == "x"


def test_after_commit_runs_after_a_commit_only(rt: Runtime) -> None:
    ran: list[int] = []
    with pytest.raises(KeyError), rt.db.write() as c:
        after_commit(c, lambda: ran.append(1))
        raise KeyError
    with rt.db.write() as c:
        after_commit(c, lambda: ran.append(2))
        assert ran == []
    assert ran == [2]


def test_one_open_job_per_key(rt: Runtime) -> None:
    with rt.db.write() as c:
        assert jobs.enqueue(c, "x", {}, key="k")
        assert jobs.enqueue(c, "x", {}, key="k") is None


def test_a_lost_lease_is_taken_over_and_the_late_worker_settles_nothing(rt: Runtime) -> None:
    with rt.db.write() as c:
        jobs.enqueue(c, "x", {}, key="k")
    first, second = Worker(rt), Worker(rt)
    (job,) = first._claim(1)
    assert second._claim(1) == []
    with clock.travel(jobs.LEASE + timedelta(seconds=1)):
        (again,) = second._claim(1)
    assert again.fence == job.fence + 1
    first._settle([(job, None)])
    with rt.db.read() as c:
        assert c.execute(sa.select(sa.func.count()).select_from(jobs.jobs)).scalar_one() == 1


def test_a_worker_settles_at_once_what_was_slow_and_gives_back_what_it_has_no_time_for(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rt.db.write() as c:
        for number in range(3):
            jobs.enqueue(c, "x", {"number": number})
    left: list[int] = []

    def slow(_rt: Runtime, together: list[jobs.Job]) -> dict[str, object]:
        with rt.db.read() as c:
            left.append(c.execute(sa.select(sa.func.count()).select_from(jobs.jobs)).scalar_one())
        return {}

    monkeypatch.setattr(worker, "run", slow)
    monkeypatch.setattr(worker, "SLOW", -1.0)
    assert Worker(rt).run_due() == 3
    assert left == [3, 2, 1]
    monkeypatch.setattr(worker, "SHARE", -1.0)
    with rt.db.write() as c:
        for number in range(3):
            jobs.enqueue(c, "x", {"number": number})
    one = Worker(rt)
    assert one._work(one._claim(3)) == 1
    assert len(Worker(rt)._claim(3)) == 2


def test_jobs_of_a_batched_kind_are_done_together(rt: Runtime) -> None:
    TOGETHER.clear()
    batched = replace(rt, wiring=replace(rt.wiring, jobs={"b": ordinary("count_together")}))
    with rt.db.write() as c:
        for number in range(3):
            jobs.enqueue(c, "b", {"number": number})
    assert Worker(batched).run_due() == 3
    assert TOGETHER == [[0, 1, 2]]
    with rt.db.read() as c:
        (left,) = c.execute(sa.select(jobs.jobs)).mappings()
    assert (left["payload"], left["lease_until"], left["due_at"] > clock.now()) == ({"number": 0}, None, True)


def test_insert_ignore_tells_whether_it_inserted(rt: Runtime) -> None:
    values = {"id": "1", "kind": "x", "key": "same", "payload": {}, "due_at": clock.now()}
    with rt.db.write() as c:
        assert insert_ignore(c, jobs.jobs, values, index=("key",))
        assert not insert_ignore(c, jobs.jobs, {**values, "id": "2"}, index=("key",))


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": {"z": "ü", "A": None}, "t": ['\x00\x1f"\\/\x7f\u2028', True, -(2**53) + 1], "e": Level.ISOLATE},
        {"\U0001f600": 1, "\ufb33": 2},  # sorts otherwise in UTF-16
        {"f": 1.0, "g": [1e30]},
    ],
)
def test_the_quick_way_writes_the_same_canonical_bytes(value: dict[str, object]) -> None:
    assert outbox.canonical(value) == rfc8785.dumps(json.loads(json.dumps(value)))


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": [True, None, '\u0007\b\n\t"\\\u007f\u2028é\U0001f512'], "": {}},
        {"n": -(2**53) + 1, "m": 2**53 - 1, "deep": [{"z": "", "A": 0, "_": [[]]}]},
        {"float": 1.0, "tiny": 1e-7, "é": 1, "\U0001f512": 2, "\uffff": 3},
        {"tuple": ("a", 1)},
    ],
)
def test_the_quick_way_writes_the_same_canonical_json(value: dict) -> None:

    assert outbox.canonical(value) == rfc8785.dumps(json.loads(json.dumps(value)))


def test_a_job_that_was_given_up_has_no_claim_to_its_key(rt: Runtime) -> None:
    with rt.db.write() as connection:
        first = jobs.enqueue(connection, "posture.rejudge", {"device_id": "x"}, key="posture.rejudge:x")
        assert jobs.enqueue(connection, "posture.rejudge", {"device_id": "x"}, key="posture.rejudge:x") is None
        connection.execute(jobs.jobs.update().values(state="poisoned", failures=10, last_error="it broke"))
        again = jobs.enqueue(connection, "posture.rejudge", {"device_id": "x", "n": 2}, key="posture.rejudge:x")
        assert again not in (None, first)
        row = connection.execute(sa.select(jobs.jobs)).mappings().one()
    assert (row["id"], row["state"], row["failures"], row["payload"]) == (again, "open", 0, {"device_id": "x", "n": 2})
    assert row["fence"] == 1, "whoever still works on the old one has lost it"
