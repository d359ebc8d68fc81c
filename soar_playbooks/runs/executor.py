"""The executor: takes a run from step to step, with the journal around every effect.

Verbs act on the database only: their effect, their outcome and the move to the next step are one transaction (exactly
once). HTTP steps act outside: the intent is committed before, the outcome after; after a crash between them an idempotent
step is repeated under the same Idempotency-Key, and any other stops the run as *outcome unknown* and asks a human. The
playbook is verified again at every start and resumption. Limits: one worker per run; steps run one after another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lachan import clock, verbs
from lachan.enforcement import Level
from lachan.errors import LachanError
from lachan.events import ApprovalNeeded, PlaybookRefused, RunOutcomeUnknown
from lachan.log import get as get_logger
from lachan.work import jobs, outbox
from soar_playbooks import faults, playbooks
from soar_playbooks.cacao import conditions
from soar_playbooks.cacao.model import HttpCommand, Playbook, Step, StepType, VerbCommand
from soar_playbooks.cacao.variables import check, substitute
from soar_playbooks.containment import approvals
from soar_playbooks.containment import service as containment
from soar_playbooks.containment.verbs import answer
from soar_playbooks.errors import LostFence, OutcomeUnknown, PlaybookInvalid
from soar_playbooks.runs import http_step, journal
from soar_playbooks.runs.journal import Run
from soar_playbooks.states import ACTOR, Phase, RunOutcome, RunState

if TYPE_CHECKING:
    import sqlalchemy as sa

    from lachan.runtime import Runtime

TRIES = 4  # of an idempotent step whose peer does not answer
HARMLESS = frozenset({"human.page"})  # verbs that a run in propose mode may call without approval
log = get_logger(__name__)


class Pause(Exception):
    """The run is not finished and this worker has done what it can."""


def run_job(rt: Runtime, job: jobs.Job) -> None:
    """Go on with a run (job ``soar.run``)."""
    busy = journal.leased_until(rt, job.payload["run_id"])
    if busy is not None:
        raise jobs.Again(busy)
    advance(rt, job.payload["run_id"])


def advance(rt: Runtime, run_id: str, *, playbook: Playbook | None = None) -> None:
    """Claim a run and take it as far as it goes now.

    Args:
        rt: the runtime.
        run_id: which run.
        playbook: its playbook, if the caller has just verified it; otherwise it is verified here.

    Raises:
        lachan.work.jobs.Again: a peer does not answer; the run goes on then.
    """
    run = journal.claim(rt, run_id)
    if run is None:
        return
    try:
        playbook = playbook or _verified(rt, run)
        while playbook is not None and run.step:
            run = _one(rt, playbook, run)
    except Pause:
        return
    except LostFence:
        log.info("run taken over", run=run_id)


def _verified(rt: Runtime, run: Run) -> Playbook | None:
    """The playbook, checked again; ends the run as refused if it does not hold any more."""
    try:
        with rt.db.read() as connection:
            return playbooks.verified(connection, run.digest, starting=False)
    except LachanError as error:
        with faults.write(rt, faults.Record.END) as connection:
            event = PlaybookRefused(
                device_id=run.device_id, file=run.playbook_id, reason=f"{error.code}: {error.detail}", step=run.step
            )
            outbox.append(connection, event, actor=ACTOR)
            journal.finish(connection, run, RunOutcome.REFUSED, error=f"{error.code}: {error.detail}")
        return None


def _one(rt: Runtime, playbook: Playbook, run: Run) -> Run:
    """Do the run's present step; gives the run standing at the next one."""
    step = playbook.steps[run.step]
    if step.type is StepType.END:
        with faults.write(rt, faults.Record.END) as connection:
            return _end(connection, run, step)
    if step.type is StepType.START:
        return journal.pass_by(run, step.id, {"ok": True}, target=str(step.on_completion))
    if step.type is StepType.IF:
        holds = conditions.parse(str(step.condition), playbook.variables).holds(run.variables)
        target = str(step.on_true if holds else step.on_false)
        return journal.pass_by(run, step.id, {"ok": True, "holds": holds}, target=target)
    return _action(rt, playbook, run, step)


def _end(connection: sa.Connection, run: Run, step: Step) -> Run:
    """End the run at an ``end`` step; a step that failed on the way makes it a failed one, whatever took it up."""
    failed = any(body.get("ok") is False for body in run.entries.values())
    run = journal.enter(connection, run, step.id, Phase.OUTCOME, {"ok": True})
    journal.finish(connection, run, RunOutcome.FAILED if failed else RunOutcome.SUCCEEDED, step=step.id)
    return journal.ended(run)


def _action(rt: Runtime, playbook: Playbook, run: Run, step: Step) -> Run:
    decided = run.entries.get((step.id, Phase.OUTCOME))
    if decided is not None:  # a human said what became of it
        with faults.write(rt, faults.Record.OUTCOME) as connection:
            return _next(connection, playbook, run, step, decided)
    if isinstance(step.command, VerbCommand):
        if run.waiting_for and not run.waiting_for.startswith("approval"):
            return _decided(rt, playbook, run, step)
        if step.command.verb not in HARMLESS:
            _propose(rt, playbook, run, step)
        return _verb(rt, playbook, run, step, step.command)
    _propose(rt, playbook, run, step)
    assert isinstance(step.command, HttpCommand)
    return _http(rt, playbook, run, step, step.command)


# verbs


def _verb(rt: Runtime, playbook: Playbook, run: Run, step: Step, command: VerbCommand) -> Run:
    given = _parameters(playbook, run, command)
    try:
        with faults.write(rt, faults.Record.OUTCOME) as connection:
            entered = journal.enter(connection, run, step.id, Phase.INTENT, {"verb": command.verb, "parameters": given})
            result = verbs.call(rt, connection, ACTOR, command.verb, given)
            waits = result.get("state") == "waiting"
            if waits:
                _wait(connection, entered, result)
            else:
                entered, body = _results(playbook, entered, step, result)
                entered = journal.enter(connection, entered, step.id, Phase.OUTCOME, body)
                entered = _next(connection, playbook, entered, step, body)
    except LostFence:
        raise
    except LachanError as error:
        return _failed(rt, playbook, run, step, error)
    if waits:
        raise Pause
    return entered


def _parameters(playbook: Playbook, run: Run, command: VerbCommand) -> dict[str, Any]:
    given: dict[str, Any] = substitute(command.parameters, run.variables)
    fields = verbs.get(command.verb).parameters.model_fields
    if "run_id" in fields:
        given["run_id"] = run.id
    if "until" in fields and playbook.policy.until is not None:
        given["until"] = playbook.policy.until.total_seconds()
    return given


def _wait(connection: sa.Connection, run: Run, result: dict[str, Any]) -> None:
    """The guards want a human: the run waits for the decision on that containment."""
    journal.move(
        connection, run, state=RunState.WAITING, waiting_for=result["containment_id"], guard=result["guard"],
        needed=result["needed"], lease_until=None,
    )  # fmt: skip


def _decided(rt: Runtime, playbook: Playbook, run: Run, step: Step) -> Run:
    """Go on after a human decided on the containment that the run waited for."""
    wanted = Level(run.entries[(step.id, Phase.INTENT)]["parameters"]["level"])
    with faults.write(rt, faults.Record.OUTCOME) as connection:
        result = answer(containment.find(connection, run.waiting_for), wanted)
        reached = result["state"] == "active"
        run, body = _results(playbook, run, step, result)
        if not reached:
            body = {"ok": False, "error": "not-approved: no human approved it", "result": result}
        run = journal.enter(connection, run, step.id, Phase.OUTCOME, body)
        return _next(connection, playbook, run, step, body)


def _propose(rt: Runtime, playbook: Playbook, run: Run, step: Step) -> None:
    """In propose mode, wait before the first effect until as many persons as the playbook wants have approved.

    Raises:
        Pause: the run waits now.
    """
    if run.mode != playbooks.Mode.PROPOSE:
        return
    with rt.db.read() as connection:
        given = approvals.count(connection, run.id, "run")
    if given >= playbook.policy.approvals:
        return
    needed = playbook.policy.approvals
    with faults.write(rt, faults.Record.PARK) as connection:
        journal.move(
            connection, run, state=RunState.WAITING, waiting_for=f"approval:{step.id}", guard="propose", needed=needed,
            plan=plan(playbook, run, step), lease_until=None,
        )  # fmt: skip
        reason = f"{playbook.name} is in propose mode."
        event = ApprovalNeeded(device_id=run.device_id, run_id=run.id, needed=needed, reason=reason)
        outbox.append(connection, event, actor=ACTOR)
    raise Pause


def plan(playbook: Playbook, run: Run, step: Step) -> list[dict[str, Any]]:
    """What the run would do from a step on if everything succeeded: for the human who approves it."""
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


def _http(rt: Runtime, playbook: Playbook, run: Run, step: Step, command: HttpCommand) -> Run:
    before = run.entries.get((step.id, Phase.INTENT))
    if before is not None and not step.idempotent:
        return _unknown(rt, run, step, "the worker died between the request and its outcome")
    attempt = int(before["attempt"]) + 1 if before else 1
    request = http_step.prepare(run, step, command)
    with faults.write(rt, faults.Record.INTENT) as connection:
        run = journal.enter(connection, run, step.id, Phase.INTENT, {**request.shown(), "attempt": attempt})
        run = journal.move(connection, run, lease_until=clock.now() + journal.LEASE + step.timeout)
    try:
        result = http_step.send(rt, request, timeout=step.timeout.total_seconds())
    except OutcomeUnknown as error:
        if not step.idempotent:
            return _unknown(rt, run, step, error.detail)
        if attempt < TRIES:
            _try_later(rt, run, attempt, error)
        return _failed(rt, playbook, run, step, error)
    except LachanError as error:
        return _failed(rt, playbook, run, step, error)
    faults.done(faults.Effect.HTTP)
    with faults.write(rt, faults.Record.OUTCOME) as connection:
        run, body = _results(playbook, run, step, result)
        run = journal.enter(connection, run, step.id, Phase.OUTCOME, body)
        return _next(connection, playbook, run, step, body)


def _try_later(rt: Runtime, run: Run, attempt: int, error: LachanError) -> None:
    """Give the run back and have it taken up again after a pause that doubles.

    Raises:
        Pause: always.
    """
    with faults.write(rt, faults.Record.PARK) as connection:
        journal.move(connection, run, state=RunState.READY, lease_until=None, error=error.detail[:2000])
        due = clock.now() + http_step.pause(attempt)
        jobs.enqueue(connection, "soar.run", {"run_id": run.id}, due_at=due)
    raise Pause


def _unknown(rt: Runtime, run: Run, step: Step, why: str) -> Run:
    """Stop: nobody knows whether it happened, and asking again could make it happen twice.

    Raises:
        Pause: always.
    """
    with faults.write(rt, faults.Record.UNKNOWN) as connection:
        journal.move(
            connection, run, state=RunState.WAITING, waiting_for=f"outcome:{step.id}", guard="outcome-unknown", needed=1,
            lease_until=None, error=why,
        )  # fmt: skip
        event = RunOutcomeUnknown(device_id=run.device_id, run_id=run.id, step=step.id)
        outbox.append(connection, event, actor=ACTOR)
        asked = ApprovalNeeded(device_id=run.device_id, run_id=run.id, needed=1, reason=f"RunOutcome unknown: {why}.")
        outbox.append(connection, asked, actor=ACTOR)
    raise Pause


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


def _failed(rt: Runtime, playbook: Playbook, run: Run, step: Step, error: LachanError) -> Run:
    body = {"ok": False, "error": f"{error.code}: {error.detail}"[:2000]}
    with faults.write(rt, faults.Record.OUTCOME) as connection:
        run = journal.enter(connection, run, step.id, Phase.OUTCOME, body)
        return _next(connection, playbook, run, step, body)


def _next(connection: sa.Connection, playbook: Playbook, run: Run, step: Step, body: dict[str, Any]) -> Run:
    """Move on in the caller's transaction: on_success or on_failure, else on_completion, else the exception step.

    A failure that no step takes up ends the run as failed.
    """
    ok = bool(body["ok"])
    target = step.on_completion or (step.on_success if ok else step.on_failure)
    if target is None and playbook.workflow_exception not in {None, step.id}:
        target = playbook.workflow_exception
    if target is None or (target, Phase.OUTCOME) in run.entries:
        journal.finish(connection, run, RunOutcome.FAILED, error=str(body.get("error", "")))
        return journal.ended(run)
    if playbook.steps[target].type is StepType.END:
        return _end(connection, run, playbook.steps[target])
    return journal.move(connection, run, step=target, variables=run.variables, waiting_for="", guard="", needed=0)
