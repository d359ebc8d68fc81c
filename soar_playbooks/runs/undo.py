"""Undo of what a run did besides its containment: made due by the unit that ends the containment, done newest first.

The containment itself needs no undo (its row has ended). Verbs are called in one transaction with their outcome; HTTP
requests are journalled as the steps are, under keys of their own (``undo:<step>``), and asked in the slow lane one after the
other: each answer makes the undo due again. What cannot be undone, or whose outcome is unknown, pages a human: the release
stands, whatever the peer says. Limits: only steps that succeeded are undone; the undo of a playbook that is no longer
trusted is left to the human who is paged.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, verbs
from lachan.errors import LachanError
from lachan.events import HumanPaged
from lachan.wiring import Rank
from lachan.work import jobs
from soar_playbooks import faults, playbooks, webhooks
from soar_playbooks.cacao.model import Command, HttpCommand, Playbook, Step, VerbCommand
from soar_playbooks.cacao.variables import substitute
from soar_playbooks.errors import LostFence, OutcomeUnknown
from soar_playbooks.models import run_journal, runs
from soar_playbooks.runs import due, http_step, journal
from soar_playbooks.runs.journal import Key, key
from soar_playbooks.runs.records import RunRecord
from soar_playbooks.states import ACTOR, Phase

if TYPE_CHECKING:
    from lachan.runtime import Runtime

TRIES = 4  # of an idempotent request whose peer does not answer
OWN = frozenset({"containment.release"})  # done by the end of the row
DIED = "the worker died between the request and its outcome"


def run_job(rt: Runtime, job: jobs.Job) -> None:
    """Undo a run's steps, newest first, up to a request that leaves the database (job ``soar.undo``)."""
    row, entries, playbook, problem = _read(rt, job.payload["run_id"])
    if playbook is None:
        _page(rt, row, f"The run's steps were not undone: {problem}")
        return
    for step, command in _todo(playbook, entries):
        if isinstance(command, HttpCommand):
            faults.run(rt, faults.Record.OUTCOME, partial(_intend, row, step, command))
            return
        assert isinstance(command, VerbCommand)
        try:
            faults.run(rt, faults.Record.OUTCOME, partial(_call, rt, row, step, command))
        except LachanError as error:
            faults.run(rt, faults.Record.OUTCOME, partial(_failed, rt, row, step, error))


def ask(rt: Runtime, job: jobs.Job) -> None:
    """Ask a peer to undo a step, then make the rest of the undo due (a part of job ``soar.http``).

    Raises:
        LostFence: the job is another worker's by now.
        lachan.work.jobs.Again: an idempotent peer does not answer.
    """
    row, entries, playbook, problem = _read(rt, job.payload["run_id"])
    if playbook is None:
        _page(rt, row, f"The run's steps were not undone: {problem}")
        return
    step = playbook.steps[job.payload["step"]]
    before = entries[key(f"undo:{step.id}", Phase.INTENT)]
    attempt = int(before["attempt"]) + 1
    try:
        if before["attempt"] and not step.idempotent:
            raise OutcomeUnknown(DIED)
        faults.run(rt, faults.Record.ASK, partial(_begin, job, row, step, {**before, "attempt": attempt}))
        result = http_step.send(rt, http_step.again(before), timeout=step.timeout.total_seconds())
        faults.done(rt, faults.Effect.HTTP)
    except LostFence:
        raise
    except LachanError as error:
        if isinstance(error, OutcomeUnknown) and step.idempotent and attempt < TRIES:
            raise jobs.Again(clock.now() + http_step.pause(attempt)) from error
        faults.run(rt, faults.Record.OUTCOME, partial(_failed, rt, row, step, error, job=job))
    else:
        faults.run(rt, faults.Record.OUTCOME, partial(_answered, job, row, step, {"ok": True, "result": result}))


def _read(rt: Runtime, run_id: str) -> tuple[RunRecord, dict[Key, dict[str, Any]], Playbook | None, str]:
    """Read a run, its journal, and its playbook, or what is wrong with that."""
    with rt.db.read() as connection:
        row = RunRecord.of(connection.execute(sa.select(runs).where(runs.c.id == run_id)).one())
        entries = journal.entries(connection, row.id)
        try:
            return row, entries, playbooks.verified(connection, row.digest, starting=False), ""
        except LachanError as error:
            return row, entries, None, error.detail


def _todo(playbook: Playbook, entries: dict[Key, dict[str, Any]]) -> list[tuple[Step, Command]]:
    """Find the steps that succeeded and say how they are undone, newest first, without those that are undone already."""
    found = []
    for name, occurrence, phase in reversed(list(entries)):
        step = playbook.steps.get(name)
        done = entries[(name, occurrence, phase)].get("ok")
        if step is None or phase != Phase.OUTCOME or not done or step.undo is None:
            continue
        command = step.undo.command
        own = command is None or getattr(command, "verb", "") in OWN
        if command is not None and not own and key(f"undo:{name}", Phase.OUTCOME) not in entries:
            found.append((step, command))
    return found


def _intend(row: RunRecord, step: Step, command: HttpCommand, connection: sa.Connection) -> None:
    """Write down what the peer is to be asked, and make the asking due in the slow lane; once."""
    there = sa.and_(run_journal.c.run_id == row.id, run_journal.c.step_id == f"undo:{step.id}")
    if connection.execute(sa.select(run_journal.c.phase).where(there)).first() is None:
        body = substitute(command.content, row.variables)
        request = http_step.request(command, body, key=f"{row.id}.undo.{step.id}")
        _enter(connection, row, step, Phase.INTENT, {**request.shown(), "attempt": 0})
    due.ask(connection, row.id, step.id, url=command.url, undo=True)


def _begin(job: jobs.Job, row: RunRecord, step: Step, intent: dict[str, Any], connection: sa.Connection) -> None:
    due.held(connection, job)
    _enter(connection, row, step, Phase.INTENT, intent)


def _answered(job: jobs.Job, row: RunRecord, step: Step, body: dict[str, Any], connection: sa.Connection) -> None:
    due.done(connection, job)
    _enter(connection, row, step, Phase.OUTCOME, body)
    jobs.enqueue(connection, "soar.undo", {"run_id": row.id}, rank=Rank.FIRST)


def _failed(
    rt: Runtime,
    row: RunRecord,
    step: Step,
    error: LachanError,
    connection: sa.Connection,
    *,
    job: jobs.Job | None = None,
) -> None:
    """Write down that a step was not undone and page a human; the other steps are undone all the same."""
    body = {"ok": False, "error": f"{error.code}: {error.detail}"}
    if job is None:
        _enter(connection, row, step, Phase.OUTCOME, body)
    else:
        _answered(job, row, step, body, connection)
    webhooks.tell(rt, connection, _paged(row, f"{step.name or step.id} was not undone: {error.detail}"), actor=ACTOR)


def _call(rt: Runtime, row: RunRecord, step: Step, command: VerbCommand, connection: sa.Connection) -> None:
    result = verbs.call(rt, connection, ACTOR, command.verb, substitute(command.parameters, row.variables))
    _enter(connection, row, step, Phase.OUTCOME, {"ok": True, "result": result})


def _enter(connection: sa.Connection, row: RunRecord, step: Step, phase: Phase, body: dict[str, Any]) -> None:
    where = sa.and_(
        run_journal.c.run_id == row.id,
        run_journal.c.step_id == f"undo:{step.id}",
        run_journal.c.phase == str(phase),
    )
    values = {"fence": row.fence, "body": body, "at": clock.now()}
    if connection.execute(run_journal.update().where(where).values(**values)).rowcount:
        return
    counting = sa.select(sa.func.count()).where(run_journal.c.run_id == row.id)
    keys = {"run_id": row.id, "step_id": f"undo:{step.id}", "occurrence": 1, "phase": str(phase)}
    position = connection.execute(counting).scalar_one()
    connection.execute(run_journal.insert().values(**keys, **values, position=position))


def _paged(row: RunRecord, reason: str) -> HumanPaged:
    return HumanPaged(device_id=row.device_id, reason=reason[:500], run_id=row.id, alert_id=row.alert_id)


def _page(rt: Runtime, row: RunRecord, reason: str) -> None:
    rt.db.run(lambda connection: webhooks.tell(rt, connection, _paged(row, reason), actor=ACTOR))
