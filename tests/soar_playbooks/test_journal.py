"""Lease and fence: one worker at a time has a run, and whoever was taken over writes nothing more."""

from datetime import timedelta

import pytest

from lachan import clock
from lachan.runtime import Runtime
from lachan.work import jobs
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
        values = {"state": RunState.READY, "step": start, "mode": Mode.ENFORCE, "waiting_for": "", "guard": ""}
        connection.execute(runs.update().values(**values))
    return str(one_run(rt)["id"])


def test_a_claimed_run_is_nobody_elses_until_the_lease_is_over(rt: Runtime, ready: str) -> None:
    assert journal.claim(rt, ready) is not None
    assert journal.claim(rt, ready) is None
    with pytest.raises(jobs.Again):
        executor.run_job(rt, jobs.Job("j", "soar.run", {"run_id": ready}, 1, 1))
    with clock.travel(timedelta(seconds=31)):
        taken = journal.claim(rt, ready)
    assert taken is not None
    assert taken.fence == 3  # the first life of the run was 1


def test_whoever_was_taken_over_writes_nothing(rt: Runtime, ready: str) -> None:
    slow = journal.claim(rt, ready)
    assert slow is not None
    with clock.travel(timedelta(seconds=31)):
        executor.advance(rt, ready)
        assert one_run(rt)["outcome"] == "succeeded"
        before = (rows(rt, run_journal), rows(rt, containments), one_run(rt))
        for write in (
            lambda c: journal.move(c, slow, step="elsewhere"),
            lambda c: journal.finish(c, slow, RunOutcome.FAILED),
            lambda c: journal.move(c, journal.enter(c, slow, "x", Phase.INTENT, {}), step="x"),
        ):
            with pytest.raises(LostFence), rt.db.write() as connection:
                write(connection)
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

    assert "db.write(" not in inspect.getsource(executor)
    assert "db.write(" not in inspect.getsource(journal)
