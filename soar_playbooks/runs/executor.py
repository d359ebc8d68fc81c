"""The executor: takes a run from step to step, with the journal around every effect.

A run goes on in *units of work* (ADR 0021): one takes it through all its steps up to a request that leaves the database, to
a human's decision, or to its end. Verbs act on the database only, so their effects, their entries and the run's own row
commit together (exactly once), in the same transaction as the alert's run itself. HTTP steps act outside: the intent is
committed before, the outcome is written by the next unit; after a crash between them an idempotent step is repeated under
the same Idempotency-Key, and any other stops the run as *outcome unknown* and asks a human. A verb that refuses has its
unit rolled back and run again with that step failed. The playbook is verified again at every start and resumption.
Limits: one worker per run; steps run one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices, verbs
from lachan.enforcement import Level
from lachan.errors import LachanError
from lachan.events import ApprovalNeeded, PlaybookRefused, RunOutcomeUnknown
from lachan.log import get as get_logger
from lachan.work import jobs, outbox
from soar_playbooks import faults, playbooks, webhooks
from soar_playbooks.cacao import conditions
from soar_playbooks.cacao.model import HttpCommand, Playbook, Step, StepType, VerbCommand
from soar_playbooks.cacao.variables import check, substitute
from soar_playbooks.containment import approvals
from soar_playbooks.containment import service as containment
from soar_playbooks.containment.verbs import answer
from soar_playbooks.errors import LostFence, OutcomeUnknown, PlaybookInvalid, UnknownRun
from soar_playbooks.models import runs
from soar_playbooks.runs import http_step, journal
from soar_playbooks.runs.journal import Run
from soar_playbooks.states import ACTOR, Awaited, Phase, RunOutcome, RunState, WaitingFor

if TYPE_CHECKING:
    from lachan.runtime import Runtime

TRIES = 4  # of an idempotent step whose peer does not answer
HARMLESS = frozenset({"human.page"})  # verbs that a run in propose mode may call without approval
Take = Callable[[sa.Connection], Run | None]
log = get_logger(__name__)


@dataclass(frozen=True)
class Asking:
    """A request that is to leave the database now; its intent is committed."""

    run: Run
    step: Step
    request: http_step.HttpStepRequest
    attempt: int


class Refused(Exception):
    """A verb said no: what its unit has done is rolled back, and the step has failed."""

    def __init__(self, step_id: str, error: LachanError) -> None:
        super().__init__(step_id)
        self.step_id, self.error = step_id, error


def run_job(rt: Runtime, job: jobs.Job) -> None:
    """Go on with a run (job ``soar.run``).

    Raises:
        lachan.work.jobs.Again: another worker has it.
    """
    with rt.db.read() as connection:
        query = sa.select(runs.c.state, runs.c.lease_until).where(runs.c.id == job.payload["run_id"])
        row = connection.execute(query).first()
    if row is not None and row.state == RunState.RUNNING and row.lease_until and row.lease_until > clock.now():
        raise jobs.Again(row.lease_until)
    if row is None or row.state in {RunState.READY, RunState.RUNNING}:
        advance(rt, job.payload["run_id"])


def advance(rt: Runtime, run_id: str) -> None:
    """Claim a run and take it as far as it goes now.

    Raises:
        UnknownRun: there is no such run.
    """
    try:
        with rt.db.read() as connection:
            digest = connection.execute(sa.select(runs.c.digest).where(runs.c.id == run_id)).scalar()
            if digest is None:
                raise UnknownRun(f"No run {run_id}.")
            playbook = playbooks.verified(connection, digest, starting=False)
    except UnknownRun:
        raise
    except LachanError as error:
        _refuse(rt, run_id, error)
        return
    drive(rt, playbook, lambda connection: journal.claim(connection, run_id), faults.Record.CLAIM)


def drive(rt: Runtime, playbook: Playbook, take: Take, record: faults.Record) -> None:
    """Take a run as far as it goes: a unit, the request that it ends with, the next unit.

    Args:
        rt: the runtime.
        playbook: the run's, verified.
        take: gives the run, inside the first unit; None if there is nothing to do.
        record: what that unit is called in `soar_playbooks.faults`.
    """
    while True:
        try:
            asking = _unit(rt, playbook, take, record)
        except LostFence:
            log.info("run taken over")
            return
        if asking is None:
            return
        take, record = _ask(rt, playbook, asking), faults.Record.OUTCOME


def _unit(rt: Runtime, playbook: Playbook, take: Take, record: faults.Record) -> Asking | None:
    """Run one unit; again for each verb that refuses, with its step failed."""
    refused: dict[str, LachanError] = {}

    def unit(connection: sa.Connection) -> Asking | None:
        run = take(connection)
        return None if run is None else _steps(rt, connection, playbook, run, refused)

    while True:
        try:
            return faults.run(rt, record, unit)
        except Refused as error:
            refused[error.step_id] = error.error


def _refuse(rt: Runtime, run_id: str, error: LachanError) -> None:
    """End a run whose playbook does not hold any more."""
    why = f"{error.code}: {error.detail}"

    def unit(connection: sa.Connection) -> None:
        run = journal.claim(connection, run_id)
        if run is not None:
            event = PlaybookRefused(device_id=run.device_id, file=run.playbook_id, reason=why, step=run.step)
            outbox.append(connection, event, actor=ACTOR)
            journal.finish(connection, run, RunOutcome.REFUSED, error=why)

    faults.run(rt, faults.Record.CLAIM, unit)


def _steps(
    rt: Runtime, connection: sa.Connection, playbook: Playbook, run: Run, refused: dict[str, LachanError]
) -> Asking | None:
    """Go through steps in the caller's unit, and write down where the run stands; what it asks outside, or None."""
    while run.step:
        step = playbook.steps[run.step]
        if step.type is StepType.END:
            _end(connection, run, step)
            return None
        if step.type is StepType.START:
            run = journal.at(journal.enter(run, step.id, Phase.OUTCOME, {"ok": True}), str(step.on_completion))
        elif step.type is StepType.IF:
            holds = conditions.parse(str(step.condition), playbook.variables).holds(run.variables)
            run = journal.enter(run, step.id, Phase.OUTCOME, {"ok": True, "holds": holds})
            run = journal.at(run, str(step.on_true if holds else step.on_false))
        else:
            found = _action(rt, connection, playbook, run, step, refused)
            if not isinstance(found, Run):
                return found
            run = found
    return None


def _action(
    rt: Runtime, connection: sa.Connection, playbook: Playbook, run: Run, step: Step, refused: dict[str, LachanError]
) -> Run | Asking | None:
    """Do one action; the run at its next step, or what ends the unit: a request, or (None) a run that stands or waits."""
    decided = run.entry(step.id, Phase.OUTCOME)
    if decided is not None:  # a human said what became of it
        return _next(connection, playbook, run, step, decided)
    if isinstance(step.command, VerbCommand):
        if run.waiting_for is not None and run.waiting_for.kind is WaitingFor.CONTAINMENT:
            return _decided(connection, playbook, run, step)
        if step.command.verb not in HARMLESS and _waits_for_approval(rt, connection, playbook, run, step):
            return None
        return _verb(rt, connection, playbook, run, step, refused)
    if _waits_for_approval(rt, connection, playbook, run, step):
        return None
    assert isinstance(step.command, HttpCommand)
    return _intend(rt, connection, run, step, step.command)


def _end(connection: sa.Connection, run: Run, step: Step) -> None:
    """End the run at an ``end`` step; a step that failed on the way makes it a failed one, whatever took it up."""
    failed = any(body.get("ok") is False for body in run.entries.values())
    run = journal.at(journal.enter(run, step.id, Phase.OUTCOME, {"ok": True}), step.id)
    journal.finish(connection, run, RunOutcome.FAILED if failed else RunOutcome.SUCCEEDED)


# verbs


def _verb(
    rt: Runtime, connection: sa.Connection, playbook: Playbook, run: Run, step: Step, refused: dict[str, LachanError]
) -> Run | None:
    """Call a verb.

    Raises:
        Refused: it said no, and this unit did not know yet.
    """
    assert isinstance(step.command, VerbCommand)
    given = _parameters(playbook, run, step.command)
    run = journal.enter(run, step.id, Phase.INTENT, {"verb": step.command.verb, "parameters": given})
    if step.id in refused:
        return _next(connection, playbook, *_failure(run, step, refused[step.id]))
    try:
        result = verbs.call(rt, connection, ACTOR, step.command.verb, given)
    except LachanError as error:
        raise Refused(step.id, error) from error
    if result.get("state") == "waiting":  # the guards want a human: the run waits for the decision on that containment
        run = replace(run, waiting_for=Awaited(WaitingFor.CONTAINMENT, result["containment_id"]))
        journal.save(connection, run, state=RunState.WAITING, guard=result["guard"], needed=result["needed"])
        return None
    run, body = _results(playbook, run, step, result)
    return _next(connection, playbook, journal.enter(run, step.id, Phase.OUTCOME, body), step, body)


def _parameters(playbook: Playbook, run: Run, command: VerbCommand) -> dict[str, Any]:
    given: dict[str, Any] = substitute(command.parameters, run.variables)
    fields = verbs.get(command.verb).parameters.model_fields
    if "run_id" in fields:
        given["run_id"] = run.id
    if "until" in fields and playbook.policy.until is not None:
        given["until"] = playbook.policy.until.total_seconds()
    return given


def _decided(connection: sa.Connection, playbook: Playbook, run: Run, step: Step) -> Run | None:
    """Go on after a human decided on the containment that the run waited for."""
    intent = run.entry(step.id, Phase.INTENT)
    assert intent is not None
    assert run.waiting_for is not None
    result = answer(containment.find(connection, run.waiting_for.ref), Level(intent["parameters"]["level"]))
    reached = result["state"] == "active"
    run, body = _results(playbook, run, step, result)
    if not reached:
        body = {"ok": False, "error": "not-approved: no human approved it", "result": result}
    return _next(connection, playbook, journal.enter(run, step.id, Phase.OUTCOME, body), step, body)


def _waits_for_approval(rt: Runtime, connection: sa.Connection, playbook: Playbook, run: Run, step: Step) -> bool:
    """In propose mode, wait before the first effect until as many persons as the playbook wants have approved."""
    needed = playbook.policy.approvals
    if run.mode != playbooks.Mode.PROPOSE or approvals.count(connection, run.id, "run") >= needed:
        return False
    run = replace(run, waiting_for=Awaited(WaitingFor.APPROVAL, step.id))
    journal.save(connection, run, state=RunState.WAITING, guard="propose", needed=needed)
    connection.execute(runs.update().where(runs.c.id == run.id).values(plan=plan(playbook, run, step)))
    reason = f"{playbook.name} is in propose mode."
    event = ApprovalNeeded(device_id=run.device_id, run_id=run.id, needed=needed, reason=reason)
    webhooks.tell(rt, connection, event, actor=ACTOR)
    return True


def plan(playbook: Playbook, run: Run, step: Step) -> list[dict[str, Any]]:
    """Tell what the run would do from a step on if everything succeeded: for the human who approves it."""
    found: list[dict[str, Any]] = []
    name: str | None = step.id
    while name is not None:
        here = playbook.steps[name]
        if isinstance(here.command, VerbCommand):
            parameters = substitute(here.command.parameters, run.variables)
            found.append({"step": here.id, "name": here.name, "verb": here.command.verb, "parameters": parameters})
        elif isinstance(here.command, HttpCommand):
            found.append({"step": here.id, "name": here.name, "http": f"{here.command.method} {here.command.url}"})
        elif here.type is StepType.IF:
            found.append({"step": here.id, "name": here.name, "condition": here.condition})
            break  # what follows depends on results that are not there yet
        name = here.on_completion or here.on_success
    return found


# HTTP


def _intend(rt: Runtime, connection: sa.Connection, run: Run, step: Step, command: HttpCommand) -> Asking | None:
    """Write down what is about to be asked; or stop, if it may have been asked before and must not be asked twice."""
    before = run.entry(step.id, Phase.INTENT)
    if before is not None and not step.idempotent:
        _unknown(rt, connection, run, step, "the worker died between the request and its outcome")
        return None
    attempt = int(before["attempt"]) + 1 if before else 1
    request = http_step.prepare(run, step, command)
    until = clock.now() + journal.LEASE + step.timeout
    run = journal.enter(run, step.id, Phase.INTENT, {**request.shown(), "attempt": attempt})
    run = journal.save(connection, run, lease_until=until)
    jobs.enqueue(connection, "soar.run", {"run_id": run.id}, due_at=until)  # the net, should this worker die
    return Asking(run, step, request, attempt)


def _ask(rt: Runtime, playbook: Playbook, asking: Asking) -> Take:
    """Send the request; gives how the next unit takes the run up."""
    run, step = asking.run, asking.step
    try:
        result = http_step.send(rt, asking.request, timeout=step.timeout.total_seconds())
    except OutcomeUnknown as error:
        why = error.detail
        if not step.idempotent:
            return _after(run, lambda c: _unknown(rt, c, run, step, why))
        if asking.attempt < TRIES:
            return _after(run, lambda c: _try_later(c, run, asking.attempt, why))
        run, _, body = _failure(run, step, error)
    except LachanError as error:
        run, _, body = _failure(run, step, error)
    else:
        faults.done(rt, faults.Effect.HTTP)
        run, body = _results(playbook, run, step, result)
        run = journal.enter(run, step.id, Phase.OUTCOME, body)
    return _after(run, lambda c: _next(c, playbook, run, step, body))


def _after(run: Run, then: Callable[[sa.Connection], Run | None]) -> Take:
    """Give how a unit begins that goes on with a run: its device's lock comes first."""

    def take(connection: sa.Connection) -> Run | None:
        devices.lock(connection, [run.device_id] if run.device_id else [])
        return then(connection)

    return take


def _try_later(connection: sa.Connection, run: Run, attempt: int, why: str) -> Run | None:
    """Give the run back and have it taken up again after a pause that doubles."""
    journal.save(connection, run, state=RunState.READY, error=why)
    jobs.enqueue(connection, "soar.run", {"run_id": run.id}, due_at=clock.now() + http_step.pause(attempt))
    return None


def _unknown(rt: Runtime, connection: sa.Connection, run: Run, step: Step, why: str) -> Run | None:
    """Stop: nobody knows whether it happened, and asking again could make it happen twice."""
    waiting = replace(run, waiting_for=Awaited(WaitingFor.OUTCOME, step.id))
    journal.save(connection, waiting, state=RunState.WAITING, guard="outcome-unknown", needed=1, error=why)
    event = RunOutcomeUnknown(device_id=run.device_id, run_id=run.id, step=step.id)
    outbox.append(connection, event, actor=ACTOR)
    asked = ApprovalNeeded(device_id=run.device_id, run_id=run.id, needed=1, reason=f"Outcome unknown: {why}.")
    webhooks.tell(rt, connection, asked, actor=ACTOR)
    return None


# what comes after


def _results(playbook: Playbook, run: Run, step: Step, result: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Take the step's outputs into the variables; a result of a wrong type is a failure of the step."""
    values = dict(run.variables)
    try:
        for name in step.out_args:
            found = result.get(name.strip("_"))
            values[name] = None if found is None else check(playbook.variables[name], found)
    except PlaybookInvalid as error:
        return run, {"ok": False, "error": f"{error.code}: {error.detail}", "result": result}
    return journal.with_variables(run, values), {"ok": True, "result": result}


def _failure(run: Run, step: Step, error: LachanError) -> tuple[Run, Step, dict[str, Any]]:
    body = {"ok": False, "error": f"{error.code}: {error.detail}"[:2000]}
    return journal.enter(run, step.id, Phase.OUTCOME, body), step, body


def _next(connection: sa.Connection, playbook: Playbook, run: Run, step: Step, body: dict[str, Any]) -> Run | None:
    """Move on in memory: on_success or on_failure, else on_completion, else the exception step.

    A failure that no step takes up ends the run as failed.
    """
    ok = bool(body["ok"])
    target = step.on_completion or (step.on_success if ok else step.on_failure)
    if target is None and playbook.workflow_exception not in {None, step.id}:
        target = playbook.workflow_exception
    if target is None or run.entry(target, Phase.OUTCOME) is not None:
        journal.finish(connection, run, RunOutcome.FAILED, error=str(body.get("error", "")))
        return None
    return journal.at(run, target)
