"""Requests that leave the database: asked in the slow lane, so that no peer's silence holds a run's worker (job ``soar.http``).

Steps: a unit that writes down that the request goes out now (the attempt, under a new fence of the run); the request; a unit
that writes what came of it and makes the run due in the urgent lane. A crash between the two units, or a lease that ended
meanwhile: an idempotent request is repeated under the same Idempotency-Key, any other stops as *outcome unknown* and asks a
human. A worker that was taken over writes nothing more. The undo of a request goes the same way (`soar_playbooks.runs.undo`).
Limits: as of `soar_playbooks.runs.http_step`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import after_commit
from lachan.errors import LachanError
from lachan.events import ApprovalNeeded, RunOutcomeUnknown
from lachan.log import get as get_logger
from lachan.work import jobs, outbox
from soar_playbooks import faults, playbooks, webhooks
from soar_playbooks.cacao.model import Playbook, Step
from soar_playbooks.errors import LostFence, OutcomeUnknown
from soar_playbooks.models import runs
from soar_playbooks.runs import due, executor, http_step, journal, undo
from soar_playbooks.runs.http_step import HttpStepRequest
from soar_playbooks.runs.journal import Run
from soar_playbooks.states import ACTOR, Awaited, Phase, RunState, WaitingFor

if TYPE_CHECKING:
    from lachan.runtime import Runtime

TRIES = 4  # of an idempotent step whose peer does not answer
DIED = "the worker died between the request and its outcome"
log = get_logger(__name__)


@dataclass(frozen=True)
class Asking:
    """A request that goes out now; that it does is committed."""

    run: Run
    step: Step
    request: HttpStepRequest
    attempt: int


def run_job(rt: Runtime, job: jobs.Job) -> None:
    """Ask a peer what a run's step wants (job ``soar.http``).

    Raises:
        lachan.work.jobs.Again: an idempotent peer does not answer.
    """
    try:
        if job.payload["undo"]:
            undo.ask(rt, job)
        else:
            _ask(rt, job)
    except LostFence:
        log.info("taken over", job=job.id)


def _ask(rt: Runtime, job: jobs.Job) -> None:
    run_id = job.payload["run_id"]
    with rt.db.read() as connection:
        digest = connection.execute(sa.select(runs.c.digest).where(runs.c.id == run_id)).scalar_one()
        try:
            playbook = playbooks.verified(connection, digest, starting=False)
        except LachanError as error:
            playbook, problem = None, error
    if playbook is None:
        executor.refuse(rt, run_id, problem)
        return
    asking = faults.run(rt, faults.Record.ASK, partial(_begin, rt, job, playbook))
    if asking is None:
        return
    step, request = asking.step, asking.request
    try:
        result = http_step.send(rt, request, timeout=step.timeout.total_seconds())
    except OutcomeUnknown as error:
        if step.idempotent and asking.attempt < TRIES:
            faults.run(rt, faults.Record.OUTCOME, partial(_put_off, asking, error.detail))
            raise jobs.Again(clock.now() + http_step.pause(asking.attempt)) from error
        if not step.idempotent:
            faults.run(rt, faults.Record.OUTCOME, partial(_stop, rt, job, asking, error.detail))
            return
        failed: LachanError = error
    except LachanError as error:
        failed = error
    else:
        faults.done(rt, faults.Effect.HTTP)
        faults.run(rt, faults.Record.OUTCOME, partial(_answered, rt, job, playbook, asking, result))
        return
    faults.run(rt, faults.Record.OUTCOME, partial(_failed, rt, job, asking, failed))


def _begin(rt: Runtime, job: jobs.Job, playbook: Playbook, connection: sa.Connection) -> Asking | None:
    """Write down that the request goes out now; or stop, if it may have gone out before and must not go out twice."""
    step = playbook.steps[job.payload["step"]]
    run = journal.claim(connection, job.payload["run_id"], answered=True)
    due.held(connection, job)
    if run is None or run.waiting_for != Awaited(WaitingFor.ANSWER, step.id):
        raise LostFence("The run waits for no answer to this.", run=job.payload["run_id"])
    intent = run.entry(step.id, Phase.INTENT)
    assert intent is not None
    if intent["attempt"] and not step.idempotent:
        unknown(rt, connection, run, step, DIED)
        return None
    attempt = int(intent["attempt"]) + 1
    run = journal.save(connection, journal.enter(run, step.id, Phase.INTENT, {**intent, "attempt": attempt}))
    return Asking(run, step, http_step.again(intent), attempt)


def _answered(
    rt: Runtime, job: jobs.Job, playbook: Playbook, asking: Asking, result: dict[str, Any], connection: sa.Connection
) -> None:
    run = journal.again(connection, asking.run.id, asking.run.fence)
    run, body = executor.results(playbook, run, asking.step, result)
    _go_on(rt, connection, job, journal.enter(run, asking.step.id, Phase.OUTCOME, body))


def _failed(rt: Runtime, job: jobs.Job, asking: Asking, error: LachanError, connection: sa.Connection) -> None:
    run = journal.again(connection, asking.run.id, asking.run.fence)
    _go_on(rt, connection, job, executor.failure(run, asking.step, error)[0])


def _go_on(rt: Runtime, connection: sa.Connection, job: jobs.Job, run: Run) -> None:
    """Write the outcome, make the run due, and end the asking."""
    journal.save(connection, journal.changed(run, waiting_for=None), state=RunState.READY)
    due.go_on(connection, run.id)
    due.done(connection, job)
    after_commit(connection, rt.wake_workers)


def _put_off(asking: Asking, why: str, connection: sa.Connection) -> None:
    run = journal.again(connection, asking.run.id, asking.run.fence)
    journal.save(connection, run, error=why)


def _stop(rt: Runtime, job: jobs.Job, asking: Asking, why: str, connection: sa.Connection) -> None:
    run = journal.again(connection, asking.run.id, asking.run.fence)
    unknown(rt, connection, run, asking.step, why)
    due.done(connection, job)


def unknown(rt: Runtime, connection: sa.Connection, run: Run, step: Step, why: str) -> None:
    """Stop: nobody knows whether it happened, and asking again could make it happen twice."""
    waiting = journal.changed(run, waiting_for=Awaited(WaitingFor.OUTCOME, step.id))
    journal.save(connection, waiting, state=RunState.WAITING, guard="outcome-unknown", needed=1, error=why)
    event = RunOutcomeUnknown(device_id=run.device_id, run_id=run.id, step=step.id)
    outbox.append(connection, event, actor=ACTOR)
    asked = ApprovalNeeded(device_id=run.device_id, run_id=run.id, needed=1, reason=f"Outcome unknown: {why}.")
    webhooks.tell(rt, connection, asked, actor=ACTOR)
