"""Undo of what a run did besides its containment: made due by the unit that ends the containment, done newest first.

The containment itself needs no undo (its row has ended). Verbs are called in one transaction with their outcome; HTTP
requests are journalled as the steps are, under keys of their own (``undo:<step>``). What cannot be undone, or whose outcome is
unknown, pages a human: the release stands, whatever the peer says. Limits: only steps that succeeded are undone; the undo
of a playbook that is no longer trusted is left to the human who is paged.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, verbs
from lachan.errors import LachanError
from lachan.events import HumanPaged
from lachan.work import jobs
from soar_playbooks import faults, playbooks, webhooks
from soar_playbooks.cacao.model import Command, HttpCommand, Playbook, Step, VerbCommand
from soar_playbooks.cacao.variables import substitute
from soar_playbooks.errors import OutcomeUnknown
from soar_playbooks.models import run_journal, runs
from soar_playbooks.runs import http_step, journal
from soar_playbooks.runs.journal import Key, key
from soar_playbooks.runs.records import RunRecord
from soar_playbooks.states import ACTOR, Phase

if TYPE_CHECKING:
    from lachan.runtime import Runtime

TRIES = 4  # of an idempotent request whose peer does not answer
OWN = frozenset({"containment.release"})  # done by the end of the row


def run_job(rt: Runtime, job: jobs.Job) -> None:
    """Undo a run's steps, newest first (job ``soar.undo``).

    Raises:
        lachan.work.jobs.Again: an idempotent peer does not answer.
    """
    with rt.db.read() as connection:
        row = RunRecord.of(connection.execute(sa.select(runs).where(runs.c.id == job.payload["run_id"])).one())
        entries = journal.entries(connection, row.id)
        try:
            playbook = playbooks.verified(connection, row.digest, starting=False)
        except LachanError as error:
            playbook, problem = None, error.detail
    if playbook is None:
        _page(rt, row, f"The run's steps were not undone: {problem}")
        return
    for step, command in _todo(playbook, entries):
        _undo(rt, row, entries, step, command)


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


def _undo(rt: Runtime, row: RunRecord, entries: dict[Key, dict[str, Any]], step: Step, command: Command) -> None:
    before = entries.get(key(f"undo:{step.id}", Phase.INTENT))
    attempt = before["attempt"] + 1 if before else 1
    try:
        if not isinstance(command, HttpCommand):
            faults.run(rt, faults.Record.OUTCOME, partial(_call, rt, row, step, command))
            return
        if before is not None and not step.idempotent:
            raise OutcomeUnknown("the worker died between the request and its outcome")
        body = substitute(command.content, row.variables)
        request = http_step.request(command, body, key=f"{row.id}.undo.{step.id}")
        intent = {**request.shown(), "attempt": attempt}
        faults.run(rt, faults.Record.OUTCOME, lambda c: _enter(c, row, step, Phase.INTENT, intent))
        result = http_step.send(rt, request, timeout=step.timeout.total_seconds())
        faults.done(rt, faults.Effect.HTTP)
    except LachanError as error:
        if isinstance(error, OutcomeUnknown) and step.idempotent and attempt < TRIES:
            raise jobs.Again(clock.now() + http_step.pause(attempt)) from error
        failure = {"ok": False, "error": f"{error.code}: {error.detail}"}
        faults.run(rt, faults.Record.OUTCOME, lambda c: _enter(c, row, step, Phase.OUTCOME, failure))
        _page(rt, row, f"{step.name or step.id} was not undone: {error.detail}")
    else:
        done = {"ok": True, "result": result}
        faults.run(rt, faults.Record.OUTCOME, lambda c: _enter(c, row, step, Phase.OUTCOME, done))


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


def _page(rt: Runtime, row: RunRecord, reason: str) -> None:
    event = HumanPaged(device_id=row.device_id, reason=reason[:500], run_id=row.id, alert_id=row.alert_id)
    rt.db.run(lambda connection: webhooks.tell(rt, connection, event, actor=ACTOR))
