"""The fence: one worker at a time has a run or its job, and whoever was taken over writes nothing more."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import clock
from lachan.runtime import Runtime
from lachan.work import jobs
from soar_playbooks.containment import service
from soar_playbooks.errors import LostFence, UnknownRun
from soar_playbooks.faults import Boundary, Effect, Record
from soar_playbooks.models import containments, run_journal, runs
from soar_playbooks.playbooks import Mode
from soar_playbooks.runs import executor, journal, triggers
from soar_playbooks.states import Phase, RunOutcome, RunState
from tests.soar_playbooks.support import load, new_device, one_run, raise_alert, rows, told, work


@pytest.fixture
def ready(rt: Runtime) -> str:
    """The id of a run that is ready at its start."""
    load(rt, mode=Mode.PROPOSE)
    raise_alert(rt, new_device(rt))
    work(rt)
    with rt.db.write() as connection:
        start = next(row["step_id"] for row in rows(rt, run_journal) if row["step_id"].startswith("start"))
        connection.execute(run_journal.delete())
        values = {"state": RunState.READY, "step": start, "mode": Mode.ENFORCE, "waiting_for_kind": None, "guard": ""}
        connection.execute(runs.update().values(**values))
    return str(one_run(rt)["id"])


def claim(rt: Runtime, run_id: str) -> journal.Run | None:
    return rt.db.run(lambda connection: journal.claim(connection, run_id))


def test_whoever_was_taken_over_writes_nothing_while_the_other_still_works(rt: Runtime, ready: str) -> None:
    """The state alone does not tell the two apart: only the fence does."""
    slow, quick = claim(rt, ready), claim(rt, ready)
    assert slow is not None and quick is not None
    with pytest.raises(LostFence):
        rt.db.run(lambda connection: journal.save(connection, journal.at(slow, "elsewhere")))
    rt.db.run(lambda connection: journal.save(connection, quick))
    assert one_run(rt)["step"] == quick.step


def test_a_step_that_is_done_again_has_an_occurrence_of_its_own(rt: Runtime, ready: str) -> None:
    run = claim(rt, ready)
    assert run is not None
    rt.db.run(lambda connection: journal.save(connection, journal.enter(run, "x", Phase.OUTCOME, {"n": 1})))
    (first,) = [row for row in rows(rt, run_journal) if row["step_id"] == "x"]
    with rt.db.write() as connection:
        connection.execute(run_journal.insert().values(**first | {"occurrence": 2, "position": 9, "body": {"n": 2}}))
    with rt.db.read() as connection:
        found = journal.entries(connection, run.id)
    assert (found["x", 1, "outcome"], found["x", 2, "outcome"]) == ({"n": 1}, {"n": 2})


def test_a_job_that_was_taken_over_goes_on_with_no_run(rt: Runtime, ready: str) -> None:
    """An older fence is refused: whoever holds it changes nothing, not even the run's fence."""
    job_id = rt.db.run(lambda c: jobs.enqueue(c, "soar.run", {"run_id": ready}))
    assert job_id is not None
    with rt.db.write() as connection:
        connection.execute(jobs.jobs.update().where(jobs.jobs.c.id == job_id).values(fence=7))
    before = one_run(rt)
    executor.run_job(rt, jobs.Job(job_id, "soar.run", {"run_id": ready}, 1, 6))
    assert one_run(rt) == before
    executor.run_job(rt, jobs.Job(job_id, "soar.run", {"run_id": ready}, 1, 7))
    assert one_run(rt)["outcome"] == "succeeded"
    assert [row["id"] for row in rows(rt, jobs.jobs) if row["id"] == job_id] == []  # it ended in the run's own unit


def test_whoever_was_taken_over_writes_nothing(rt: Runtime, ready: str) -> None:
    slow = claim(rt, ready)
    assert slow is not None
    executor.advance(rt, ready)
    assert one_run(rt)["outcome"] == "succeeded"
    before = (rows(rt, run_journal), rows(rt, containments), one_run(rt))
    for write in (
        lambda c: journal.save(c, journal.at(slow, "elsewhere")),
        lambda c: journal.finish(c, slow, RunOutcome.FAILED),
        lambda c: journal.save(c, journal.at(journal.enter(slow, "x", Phase.INTENT, {}), "x")),
    ):
        with pytest.raises(LostFence):
            rt.db.run(write)
    assert (rows(rt, run_journal), rows(rt, containments), one_run(rt)) == before
    assert len(told(rt, "RunFinished")) == 1


def test_a_run_whose_job_was_lost_is_swept_up(rt: Runtime, ready: str) -> None:
    assert work(rt) == 0
    triggers.sweep(rt)
    assert work(rt) == 0  # touched a moment ago
    with clock.travel(timedelta(seconds=61)):
        triggers.sweep(rt)
        triggers.sweep(rt)
        work(rt)
    assert one_run(rt)["outcome"] == "succeeded"


def test_an_unknown_run_is_an_error(rt: Runtime) -> None:
    with pytest.raises(UnknownRun):
        executor.advance(rt, "nothing")


def test_every_record_and_effect_has_its_boundaries() -> None:
    assert len(Boundary) == 2 * len(Record) + len(Effect)
    assert {str(boundary).rpartition("-")[0] for boundary in Boundary} == {*map(str, Record), *map(str, Effect)}


def test_the_engine_opens_its_transactions_through_the_journal_only() -> None:
    """A new transaction of the executor is a new boundary, or this test says so."""
    import inspect

    for module in (executor, journal):
        assert "db.write(" not in inspect.getsource(module)
        assert "db.run(" not in inspect.getsource(module)


def test_who_decides_on_a_containment_finds_its_runs_by_index(rt: Runtime) -> None:
    seen: list[tuple[str, Any]] = []
    listen = sa.event.listens_for(rt.db.engine, "before_cursor_execute")
    listen(lambda _c, _cursor, text, given, _context, _many: seen.append((text, given)))
    with rt.db.write() as connection:
        service.resume_runs(connection, "nothing")
    (text, given) = next(found for found in seen if "runs" in found[0])
    with rt.db.read() as connection:
        if rt.db.dialect == "postgresql":  # of a small table it reads all, unless that is forbidden
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN" if rt.db.dialect == "sqlite" else "EXPLAIN"
        plan = connection.exec_driver_sql(f"{explain} {text}", given).all()
    assert "ix_runs_waiting_for" in str(plan)


def test_the_sweep_finds_idle_runs_by_index_in_their_order(rt: Runtime) -> None:
    with rt.db.read() as connection:
        found = triggers._IDLE.compiled(connection)
        if rt.db.dialect == "sqlite":
            given = tuple(found.parameters({"before_": clock.now(), "state_": "ready"}))
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {found.text}", given).all()
            assert [row[3] for row in plan] == ["SEARCH runs USING INDEX ix_runs_idle (state=? AND updated_at<?)"]
    assert "ORDER BY runs.updated_at" in found.text
