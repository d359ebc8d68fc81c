"""Lanes: none holds another, senders take turns, leases are renewed, who hangs is abandoned, and no clock delays anything."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import clock, wiring
from lachan.program import jobs as jobs_cli
from lachan.runtime import Runtime
from lachan.wiring import Every, Lane, Rank, Wiring, Work
from lachan.work import health, jobs, lanes, queue
from lachan.work.worker import Worker, plan
from tests.support.wait import until

DONE: list[tuple[str, str]] = []
GO = threading.Event()
LOCK = threading.Lock()


def note(_rt: Runtime, job: jobs.Job) -> None:
    with LOCK:
        DONE.append((job.kind, job.sender))


def hang(_rt: Runtime, job: jobs.Job) -> None:
    with LOCK:
        DONE.append((job.kind, "begun"))
    GO.wait(60)
    with LOCK:
        DONE.append((job.kind, "ended"))


def work(name: str, lane: Lane, **more: object) -> Work:
    return Work(f"{__name__}:{name}", lane=lane, **{"deadline": 60.0, **more})  # type: ignore[arg-type]


WIRED = Wiring(
    jobs={
        "cut": work("note", Lane.URGENT), "fact": work("note", Lane.ORDINARY), "hook": work("hang", Lane.SLOW),
        "stuck": work("hang", Lane.URGENT, deadline=0.5), "held": work("hang", Lane.URGENT), "first": work("note", Lane.URGENT, rank=Rank.FIRST),
    },
    recurring={"tick": Every(5.0, f"{__name__}:tick", lane=Lane.ORDINARY, deadline=60.0)},
)  # fmt: skip


def tick(_rt: Runtime) -> None:
    with LOCK:
        DONE.append(("tick", ""))


@pytest.fixture
def town(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """A runtime whose rooms bring only what stands here."""
    DONE.clear()
    GO.clear()
    monkeypatch.setattr(wiring, "load", lambda: WIRED)
    yield replace(rt, wiring=WIRED)
    GO.set()


def due(rt: Runtime, kind: str, *, sender: str = "", count: int = 1, **more: object) -> None:
    with rt.db.write() as connection:
        for _ in range(count):
            jobs.enqueue(connection, kind, {}, sender=sender, **more)  # type: ignore[arg-type]


@contextmanager
def served(rt: Runtime) -> Iterator[Callable[[], None]]:
    """The role at work in this process."""
    stop = threading.Event()
    thread = threading.Thread(target=lanes.work, args=(rt, stop))
    thread.start()
    try:
        yield lambda: rt.wake("work")
    finally:
        GO.set()
        stop.set()
        rt.wake("work")
        thread.join(30)
        assert not thread.is_alive()


def kinds() -> list[str]:
    with LOCK:
        return [kind for kind, _ in DONE]


def rows(rt: Runtime) -> list[sa.RowMapping]:
    with rt.db.read() as connection:
        return list(connection.execute(sa.select(jobs.jobs).order_by(jobs.jobs.c.id)).mappings())


def test_what_hangs_in_one_lane_holds_no_other(town: Runtime) -> None:
    """The right value of the queue with one worker: silent peers under it delay no cut."""
    due(town, "hook", count=20)
    with served(town) as wake:
        until(lambda: kinds().count("hook") == town.settings.work_slow, timeout=20, what="all slow threads hang")
        due(town, "cut", sender="a")
        due(town, "fact")
        wake()
        until(lambda: {"cut", "fact"} <= set(kinds()), timeout=20, what="the other lanes go on")
        assert ("hook", "ended") not in DONE


def test_a_senders_many_stand_behind_anothers_one(town: Runtime) -> None:
    due(town, "cut", sender="flood", count=300, severity=4)
    due(town, "cut", sender="quiet")
    due(town, "first", sender="flood")
    assert Worker(town).run_due(limit=32) == 32
    assert DONE[0] == ("first", "flood"), "a human's act and enforcement go first"
    assert ("cut", "quiet") in DONE[:3]


def test_a_batch_does_one_of_each_vendor_before_a_second_of_any(town: Runtime) -> None:
    """Its jobs are done one after the other: behind twelve of a vendor with many devices another's cut took seconds."""
    for number in range(40):
        due(town, "cut", sender=f"evil-{number:02}", vendor="Evil", severity=4)
    due(town, "cut", sender="honest", vendor="Honest")
    Worker(town).run_due(limit=40)
    assert ("cut", "honest") in DONE[:18], "in the first batch that sees it, the second at most, and there first"
    place = DONE.index(("cut", "honest"))
    assert place % 16 == 0, place


def test_one_thread_is_left_to_whoever_is_of_another_vendor(town: Runtime) -> None:
    """A vendor's thousand devices take turns among themselves on the others."""
    for number in range(100):
        due(town, "held", sender=f"evil-{number:02}", vendor="Evil", severity=4)
    with served(town) as wake:
        until(lambda: kinds().count("held") == town.settings.work_urgent - 1, timeout=20, what="its threads hang")
        for sender, vendor in (("honest", "Honest"), ("nobody's", ""), ("honest-2", "Honest")):
            due(town, "cut", sender=sender, vendor=vendor)
            wake()
            until(lambda sender=sender: ("cut", sender) in DONE, timeout=20, what="another one is served")  # type: ignore[misc]
        assert kinds().count("held") == town.settings.work_urgent - 1
        GO.set()
        wake()
        until(lambda: DONE.count(("held", "ended")) == 100, timeout=20, what="and nothing of the vendor's is lost")


def effort(rt: Runtime, what: Callable[[sa.Connection], object]) -> int:
    """What a database does for some statements: SQLite's steps, a hundred each; rows of the queue that PostgreSQL looked at."""
    seen = sa.text("SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE relname = 'jobs'")
    steps: list[None] = []
    with rt.db.read() as connection:
        if rt.db.dialect == "postgresql":
            what(connection)
            return int(connection.execute(seen).scalar_one())
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: steps.append(None), 100)
        what(connection)
        driver.set_progress_handler(None, 0)
    return len(steps)


@pytest.mark.parametrize("senders", [1, 1000])
def test_what_waits_makes_a_look_no_dearer(town: Runtime, senders: int) -> None:
    def look(connection: sa.Connection) -> None:
        assert Lane.URGENT in queue.look(connection).lanes
        first = queue.heads(connection, Lane.URGENT, {Rank.TURN: ("", "")}, most=8)[Rank.TURN]
        assert first
        assert queue.rest(connection, Lane.URGENT, Rank.TURN, [("", row.sender) for row in first], most=8)

    cost = []
    for _ in range(2):
        for number in range(8):
            due(town, "cut", sender=f"s{number % min(senders, 8):03}")
        cost.append(effort(town, look))
        many = [{"id": f"{n:08}", "kind": "cut", "key": f"{n}", "payload": {}, "lane": "urgent", "rank": 1, "turn_at": clock.now(),
                 "sender": f"s{n % senders:03}", "due_at": clock.now(), "set_at": clock.now()} for n in range(3000)]  # fmt: skip
        if len(cost) == 1:
            with town.db.engine.begin() as connection:
                connection.execute(jobs.jobs.insert(), many)
                connection.exec_driver_sql("ANALYZE")  # as autovacuum does
    assert cost[1] <= 2 * cost[0] + 20, cost


def test_of_one_sender_the_gravest_and_each_five_seconds_are_a_step(town: Runtime) -> None:
    with clock.travel(timedelta(seconds=-11)):
        due(town, "cut", sender="old", severity=1)
    for severity in (2, 4, 1):
        due(town, "cut", sender="old", severity=severity)
    with town.db.read() as connection:
        order = connection.execute(
            sa.select(jobs.jobs.c.severity).order_by(jobs.jobs.c.sender, jobs.jobs.c.turn_at)
        ).scalars()
        assert list(order) == [4, 1, 2, 1], "eleven seconds of waiting are worth two steps and more"


def test_leases_are_renewed_while_work_goes_on(town: Runtime) -> None:
    due(town, "hook")
    with served(town):
        until(lambda: "hook" in kinds(), timeout=20, what="it is at work")
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 1.5 * jobs.LEASE.total_seconds(), timeout=30, every=0.2)
        assert Worker(town).run_due() == 0, "another worker does not take what is renewed"
        GO.set()
        until(lambda: rows(town) == [] or all(row["key"].startswith("every:") for row in rows(town)), timeout=20)
    assert kinds().count("hook") == 2, "begun and ended once"


def test_who_goes_on_past_the_deadline_is_abandoned_and_holds_no_lane(town: Runtime) -> None:
    due(town, "stuck", count=town.settings.work_urgent)
    with served(town) as wake:
        until(lambda: kinds().count("stuck") >= 1, timeout=20, what="they hang")
        until(lambda: any(row["failures"] for row in rows(town)), timeout=20, what="one is abandoned")
        due(town, "cut")
        wake()
        until(lambda: "cut" in kinds(), timeout=20, what="the lane goes on")
        (told, *_) = (row for row in rows(town) if row["failures"])
        assert "past its deadline of 0.5 s" in told["last_error"]
        assert told["fence"] >= 2, "whoever still goes on with it has an old fence"


def test_a_dead_workers_jobs_and_leases_of_a_wrong_clock_are_free(town: Runtime) -> None:
    due(town, "cut", sender="a")
    due(town, "cut", sender="b")
    dead = Worker(town)._claim(10)
    assert len(dead) == 2
    assert Worker(town).run_due() == 0
    far = clock.now() + timedelta(days=36)
    with town.db.write() as connection:  # a clock that was ahead by weeks when this one was claimed
        connection.execute(jobs.jobs.update().where(jobs.jobs.c.sender == "b").values(lease_until=far))
    assert Worker(town).run_due() == 1
    assert DONE == [("cut", "b")]
    with clock.travel(jobs.LEASE + timedelta(seconds=1)):
        assert Worker(town).run_due() == 1


def test_a_clock_that_was_weeks_ahead_delays_nothing_by_more_than_a_period(town: Runtime) -> None:
    with clock.travel(timedelta(days=36)):
        plan(town)
        assert Worker(town).run_due() == 1
        due(town, "fact", due_at=clock.now() + timedelta(seconds=20))
    assert Worker(town).run_due() == 0
    plan(town)
    with clock.travel(timedelta(seconds=6)):
        assert Worker(town).run_due() >= 1
    assert kinds().count("tick") == 2
    assert "fact" not in kinds(), "twenty seconds are twenty seconds"
    with clock.travel(timedelta(seconds=22)):
        Worker(town).run_due()
    assert "fact" in kinds()


def test_recurring_work_put_off_for_weeks_by_whatever_clock_is_due(town: Runtime) -> None:
    plan(town)
    Worker(town).run_due()
    with town.db.write() as connection:
        later = {"due_at": clock.now() + timedelta(days=36), "set_at": clock.now() - timedelta(days=1)}
        connection.execute(jobs.jobs.update().values(**later))
    plan(town)
    assert Worker(town).run_due() == 1


def test_a_clock_that_goes_back_has_work_planned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    planned, wall = lanes.Planned(), [1e9]
    monkeypatch.setattr(lanes.time, "time", lambda: wall[0] + time.monotonic())
    assert planned.again()
    planned.done()
    assert not planned.again()
    wall[0] += 3600
    assert not planned.again()
    planned.done()
    wall[0] -= 5
    assert planned.again()


def test_what_was_given_up_is_listed_and_made_due_again(
    town: Runtime, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    due(town, "cut", sender="a", key="the-key")
    with town.db.write() as connection:
        connection.execute(
            jobs.jobs.update().values(state="poisoned", failures=10, last_error="Trace\nKeyError: 'x'\n")
        )
    assert "1 jobs were given up." in [found.what for found in health.check(town)]
    (town.settings.data / "initialised").touch()
    data = ["--data", str(town.settings.data), "--json"]
    if town.settings.database_url:
        monkeypatch.setenv("LACHAN_DATABASE_URL", town.settings.database_url)

    def told(*words: str) -> list[dict[str, object]]:
        assert jobs_cli.main([*words, *data]) == 0
        found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
        return found

    (row,) = told("list", "--state", "poisoned")
    assert (row["kind"], row["last error"], row["failures"]) == ("cut", "KeyError: 'x'", 10)
    assert told("list", "--lane", "slow") == []
    assert told("retry", str(row["id"]))[0]["state"] == "open"
    assert Worker(town).run_due() == 1
    assert DONE == [("cut", "a")]


def test_a_lane_whose_work_waits_is_told_of(town: Runtime) -> None:
    due(town, "cut")
    due(town, "hook")
    assert list(health.check(town)) == []
    with clock.travel(timedelta(seconds=30)):
        assert [found.what for found in health.check(town)] == ["Work of the urgent lane has waited for 30 s."]


def test_a_job_taken_over_meanwhile_is_not_settled_by_the_first(town: Runtime) -> None:
    due(town, "cut")
    (first,) = Worker(town)._claim(1)
    with clock.travel(jobs.LEASE + timedelta(seconds=1)):
        town.db.run(queue.free)
        (second,) = Worker(town)._claim(1)
    assert second.fence > first.fence
    assert town.db.run(lambda connection: queue.settle(connection, [(first, None)])) == [first]
    assert len(rows(town)) == 1
    assert town.db.run(lambda connection: queue.settle(connection, [(second, None)])) == []
    assert rows(town) == []
