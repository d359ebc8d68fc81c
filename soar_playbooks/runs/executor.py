"""The executor: takes a run from step to step, with the journal around every effect.

A run goes on in *units of work* (ADR 0021): one takes it through all its steps up to a request that leaves the database, to
a human's decision, or to its end. Verbs act on the database only, so their effects, their entries and the run's own row
commit together (exactly once), in the same transaction as the run itself and the end of its job. A unit is one transaction
under the device's lock, so a run needs no lease. HTTP steps act outside: the intent is committed here with a job of the slow
lane (`soar_playbooks.runs.asking`), whose outcome makes the run due again. A verb that refuses has its unit rolled back and
run again with that step failed. The playbook is verified again at every start and resumption.
Limits: steps run one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from lachan import verbs
from lachan.database import after_commit
from lachan.enforcement import Level
from lachan.errors import LachanError
from lachan.events import ApprovalNeeded, PlaybookRefused
from lachan.log import get as get_logger
from lachan.work import jobs, outbox
from soar_playbooks import faults, playbooks, webhooks
from soar_playbooks.cacao import conditions
from soar_playbooks.cacao.model import HttpCommand, Playbook, Step, StepType, VerbCommand
from soar_playbooks.cacao.variables import check, substitute
from soar_playbooks.containment import approvals
from soar_playbooks.containment import service as containment
from soar_playbooks.containment.verbs import answer
from soar_playbooks.errors import LostFence, PlaybookInvalid, UnknownRun
from soar_playbooks.models import runs
from soar_playbooks.runs import due, http_step, journal
from soar_playbooks.runs.journal import Run
from soar_playbooks.states import ACTOR, Awaited, Phase, RunOutcome, RunState, WaitingFor

if TYPE_CHECKING:
    from lachan.runtime import Runtime

HARMLESS = frozenset({"human.page"})  # verbs that a run in propose mode may call without approval
Refusals = dict[tuple[str, str], LachanError]  # playbook and step → why its verb said no
R = TypeVar("R")
log = get_logger(__name__)


class Refused(Exception):
    """A verb said no: what its unit has done is rolled back, and the step has failed."""

    def __init__(self, playbook_id: str, step_id: str, error: LachanError) -> None:
        super().__init__(step_id)
        self.at, self.error = (playbook_id, step_id), error


def run_job(rt: Runtime, job: jobs.Job) -> None:
    """Go on with a run (job ``soar.run``)."""
    advance(rt, job.payload["run_id"], job)


def advance(rt: Runtime, run_id: str, job: jobs.Job | None = None) -> None:
    """Claim a run and take it as far as it goes now, with the end of its job in the same unit.

    Raises:
        UnknownRun: there is no such run.
    """
    with rt.db.read() as connection:
        digest = connection.execute(sa.select(runs.c.digest).where(runs.c.id == run_id)).scalar()
        if digest is None:
            raise UnknownRun(f"No run {run_id}.")
        try:
            playbook = playbooks.verified(connection, digest, starting=False)
        except LachanError as error:
            playbook, problem = None, error
    if playbook is None:
        refuse(rt, run_id, problem)
        return
    known = playbook

    def unit(connection: sa.Connection, refused: Refusals) -> None:
        run = journal.claim(connection, run_id, by=job)
        if run is not None:
            steps(rt, connection, known, run, refused)

    attempt(rt, faults.Record.CLAIM, unit)


def attempt(rt: Runtime, record: faults.Record, unit: Callable[[sa.Connection, Refusals], R]) -> R | None:
    """Run a unit; again for each verb that refuses, with its step failed. None if another worker has taken over.

    Args:
        rt: the runtime.
        record: what the unit is called in `soar_playbooks.faults`.
        unit: is given what was refused so far.
    """
    refused: Refusals = {}
    while True:
        try:
            return faults.run(rt, record, lambda connection: unit(connection, refused))
        except Refused as error:
            refused[error.at] = error.error
        except LostFence:
            log.info("taken over", record=str(record))
            return None


def refuse(rt: Runtime, run_id: str, error: LachanError) -> None:
    """End a run whose playbook does not hold any more."""
    why = f"{error.code}: {error.detail}"

    def unit(connection: sa.Connection) -> None:
        run = journal.claim(connection, run_id, answered=True)
        if run is not None:
            event = PlaybookRefused(device_id=run.device_id, file=run.playbook_id, reason=why, step=run.step)
            outbox.append(connection, event, actor=ACTOR)
            journal.finish(connection, run, RunOutcome.REFUSED, error=why)

    faults.run(rt, faults.Record.CLAIM, unit)


def steps(rt: Runtime, connection: sa.Connection, playbook: Playbook, run: Run, refused: Refusals) -> None:
    """Go through a claimed run's steps in the caller's unit, and write down where it stands.

    Raises:
        Refused: a verb said no, and this unit did not know yet.
    """
    while run.step:
        step = playbook.steps[run.step]
        if step.type is StepType.END:
            _end(connection, run, step)
            return
        if step.type is StepType.START:
            run = journal.at(journal.enter(run, step.id, Phase.OUTCOME, {"ok": True}), str(step.on_completion))
        elif step.type is StepType.IF:
            holds = conditions.parsed(str(step.condition), playbook.variables).holds(run.variables)
            run = journal.enter(run, step.id, Phase.OUTCOME, {"ok": True, "holds": holds})
            run = journal.at(run, str(step.on_true if holds else step.on_false))
        else:
            found = _action(rt, connection, playbook, run, step, refused)
            if found is None:
                return
            run = found


def _action(
    rt: Runtime, connection: sa.Connection, playbook: Playbook, run: Run, step: Step, refused: Refusals
) -> Run | None:
    """Do one action; the run at its next step, or None: it stands, waits, or asks outside."""
    decided = run.entry(step.id, Phase.OUTCOME)
    if decided is not None:  # the peer answered, or a human said what became of it
        return _next(connection, playbook, run, step, decided)
    if isinstance(step.command, VerbCommand):
        if run.waiting_for is not None and run.waiting_for.kind is WaitingFor.CONTAINMENT:
            return _decided(connection, playbook, run, step)
        if step.command.verb not in HARMLESS and _waits_for_approval(rt, connection, playbook, run, step):
            return None
        return _verb(rt, connection, playbook, run, step, refused)
    if not _waits_for_approval(rt, connection, playbook, run, step):
        assert isinstance(step.command, HttpCommand)
        _intend(rt, connection, run, step, step.command)
    return None


def _end(connection: sa.Connection, run: Run, step: Step) -> None:
    """End the run at an ``end`` step; a step that failed on the way makes it a failed one, whatever took it up."""
    failed = any(body.get("ok") is False for body in run.entries.values())
    run = journal.at(journal.enter(run, step.id, Phase.OUTCOME, {"ok": True}), step.id)
    journal.finish(connection, run, RunOutcome.FAILED if failed else RunOutcome.SUCCEEDED)


# verbs


def _verb(
    rt: Runtime, connection: sa.Connection, playbook: Playbook, run: Run, step: Step, refused: Refusals
) -> Run | None:
    """Call a verb.

    Raises:
        Refused: it said no, and this unit did not know yet.
    """
    assert isinstance(step.command, VerbCommand)
    given = _parameters(playbook, run, step.command)
    run = journal.enter(run, step.id, Phase.INTENT, {"verb": step.command.verb, "parameters": given})
    if (playbook.id, step.id) in refused:
        return _next(connection, playbook, *failure(run, step, refused[playbook.id, step.id]))
    try:
        result = verbs.call(rt, connection, ACTOR, step.command.verb, given)
    except LachanError as error:
        raise Refused(playbook.id, step.id, error) from error
    if result.get("state") == "waiting":  # the guards want a human: the run waits for the decision on that containment
        run = journal.changed(run, waiting_for=Awaited(WaitingFor.CONTAINMENT, result["containment_id"]))
        journal.save(connection, run, state=RunState.WAITING, guard=result["guard"], needed=result["needed"])
        return None
    run, body = results(playbook, run, step, result)
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
    run, body = results(playbook, run, step, result)
    if not reached:
        body = {"ok": False, "error": "not-approved: no human approved it", "result": result}
    return _next(connection, playbook, journal.enter(run, step.id, Phase.OUTCOME, body), step, body)


def _waits_for_approval(rt: Runtime, connection: sa.Connection, playbook: Playbook, run: Run, step: Step) -> bool:
    """In propose mode, wait before the first effect until as many persons as the playbook wants have approved."""
    needed = playbook.policy.approvals
    if run.mode != playbooks.Mode.PROPOSE or approvals.count(connection, run.id, "run") >= needed:
        return False
    run = journal.changed(run, waiting_for=Awaited(WaitingFor.APPROVAL, step.id))
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


def _intend(rt: Runtime, connection: sa.Connection, run: Run, step: Step, command: HttpCommand) -> None:
    """Write down what is to be asked, and make the asking due in the slow lane."""
    request = http_step.prepare(run, step, command)
    run = journal.enter(run, step.id, Phase.INTENT, {**request.shown(), "attempt": 0})
    run = journal.changed(run, waiting_for=Awaited(WaitingFor.ANSWER, step.id))
    journal.save(connection, run)
    due.ask(connection, run.id, step.id, url=request.url)
    after_commit(connection, rt.wake_workers)


# what comes after


def results(playbook: Playbook, run: Run, step: Step, result: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Take the step's outputs into the variables; a result of a wrong type is a failure of the step."""
    values = dict(run.variables)
    try:
        for name in step.out_args:
            found = result.get(name.strip("_"))
            values[name] = None if found is None else check(playbook.variables[name], found)
    except PlaybookInvalid as error:
        return run, {"ok": False, "error": f"{error.code}: {error.detail}", "result": result}
    return journal.with_variables(run, values), {"ok": True, "result": result}


def failure(run: Run, step: Step, error: LachanError) -> tuple[Run, Step, dict[str, Any]]:
    """Enter a step's failure, in memory."""
    body = {"ok": False, "error": f"{error.code}: {error.detail}"[:2000]}
    return journal.enter(run, step.id, Phase.OUTCOME, body), step, body


def _next(connection: sa.Connection, playbook: Playbook, run: Run, step: Step, body: dict[str, Any]) -> Run | None:
    """Move on in memory: on_success or on_failure, else on_completion, else the exception step.

    A failure that no step takes up ends the run as failed; so does an action that would be done twice.
    """
    ok = bool(body["ok"])
    target = step.on_completion or (step.on_success if ok else step.on_failure)
    if target is None and playbook.workflow_exception not in {None, step.id}:
        target = playbook.workflow_exception
    if target is None or run.done(target):
        journal.finish(connection, run, RunOutcome.FAILED, error=str(body.get("error", "")))
        return None
    return journal.at(run, target)
