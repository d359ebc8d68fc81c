"""The journal of a run: rows written before and after every effect, each guarded by the run's fence.

A unit claims a run (fence + 1), keeps entries in memory and saves them with the run's own row in its last statements: it is
one transaction under the device's lock, so there is no lease that a dead worker could leave. Who asks a peer holds a run's
fence over two units: every save names it and touches no row if another worker has claimed since (`LostFence`: all of the
unit is rolled back, the other one goes on). An entry's key has an *occurrence*: when the guards judge again, what is done
again is told apart from what was done before. Limits: an action with an outcome is never done a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from lachan import clock, devices
from lachan.database import for_update
from lachan.events import RunFinished
from lachan.identity import Principal
from lachan.statements import Statement, later
from lachan.work import outbox
from lachan.work.jobs import Job
from soar_playbooks.errors import LostFence, UnknownRun
from soar_playbooks.models import run_journal, runs
from soar_playbooks.runs import due
from soar_playbooks.states import ACTOR, Awaited, Phase, RunOutcome, RunState, WaitingFor

Key = tuple[str, int, str]  # step, occurrence, phase
Call = tuple[Statement, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A claimed run as its worker knows it.

    ``entries`` are the journal's entries in order, key → body; those in ``unwritten`` are written by the next `save`, and
    those in ``stored`` have a row already.
    """

    id: str
    playbook_id: str
    playbook_version: str
    digest: str
    mode: str
    alert_id: str
    device_id: str | None
    facts: dict[str, Any]
    variables: dict[str, Any]
    step: str
    fence: int
    entries: dict[Key, dict[str, Any]]
    waiting_for: Awaited | None = None
    vendor: str | None = None
    occurrence: int = 1
    follow_up: bool = False
    stored: frozenset[Key] = frozenset()
    unwritten: tuple[Key, ...] = ()

    def entry(self, step_id: str, phase: Phase) -> dict[str, Any] | None:
        """Give the body of a step's entry in this occurrence, if there is one."""
        return self.entries.get(key(step_id, phase, self.occurrence))

    def done(self, step_id: str) -> bool:
        """Tell whether a step has an outcome in this occurrence; an action, in any."""
        begun = {step for step, _, phase in self.entries if phase == Phase.INTENT}
        return any(
            step == step_id and phase == Phase.OUTCOME and (occurrence == self.occurrence or step in begun)
            for step, occurrence, phase in self.entries
        )


def key(step_id: str, phase: Phase, occurrence: int = 1) -> Key:
    """Make the key of an entry."""
    return (step_id, occurrence, str(phase))


def claim(
    connection: sa.Connection, run_id: str, *, by: Job | None = None, answered: bool = False, waiting: bool = False
) -> Run | None:
    """Take a run for this unit; None if it is not to be continued now.

    Locks its device before its own row, in the one order (ADR 0021).

    Args:
        connection: the unit's.
        run_id: which.
        by: the job that asks for it; it ends with this unit.
        answered: take also one that waits for a peer's answer.
        waiting: take also one that waits for people.

    Raises:
        UnknownRun: there is no such run.
        LostFence: the job is another worker's by now, or done.
    """
    device_id = connection.execute(sa.select(runs.c.device_id).where(runs.c.id == run_id)).scalar()
    devices.lock(connection, [device_id] if device_id else [])
    due.done(connection, by)
    row = connection.execute(for_update(sa.select(runs).where(runs.c.id == run_id), connection)).mappings().first()
    if row is None:
        raise UnknownRun(f"No run {run_id}.")
    states = {RunState.READY, RunState.RUNNING} | ({RunState.WAITING} if waiting else set())
    asks = row["waiting_for_kind"] == WaitingFor.ANSWER
    if row["state"] not in states or (asks and not answered):
        return None
    fence = row["fence"] + 1
    values = {"fence": fence, "state": RunState.RUNNING, "updated_at": clock.now()}
    connection.execute(runs.update().where(runs.c.id == run_id).values(**values))
    return _run(connection, row, fence)


def again(connection: sa.Connection, run_id: str, fence: int) -> Run:
    """Give a run that this worker has claimed in an earlier unit as it is now, with its device's lock.

    Raises:
        LostFence: another worker has claimed it since, or it has ended.
    """
    device_id = connection.execute(sa.select(runs.c.device_id).where(runs.c.id == run_id)).scalar()
    devices.lock(connection, [device_id] if device_id else [])
    query = sa.select(runs).where(runs.c.id == run_id, runs.c.fence == fence, runs.c.state == str(RunState.RUNNING))
    row = connection.execute(for_update(query, connection)).mappings().first()
    if row is None:
        raise LostFence(f"Run {run_id} has been taken over.", run=run_id)
    return _run(connection, row, fence)


def _run(connection: sa.Connection, row: sa.RowMapping, fence: int) -> Run:
    found = entries(connection, row["id"])
    return Run(
        entries=found, stored=frozenset(found), fence=fence, variables=dict(row["variables"]), facts=dict(row["facts"]),
        waiting_for=Awaited.of(row["waiting_for_kind"], row["waiting_for_ref"]),
        **{name: row[name] for name in (
            "id", "playbook_id", "playbook_version", "digest", "mode", "alert_id", "device_id", "vendor", "step",
            "occurrence", "follow_up",
        )},
    )  # fmt: skip


def entries(connection: sa.Connection, run_id: str) -> dict[Key, dict[str, Any]]:
    """Read the journal of a run, in order."""
    query = sa.select(run_journal).where(run_journal.c.run_id == run_id).order_by(run_journal.c.position)
    return {
        (row["step_id"], row["occurrence"], row["phase"]): dict(row["body"])
        for row in connection.execute(query).mappings()
    }


def changed(run: Run, **values: Any) -> Run:
    """Give a run with other values, as `dataclasses.replace` does, which costs 15 µs each of the fifteen times of a run."""
    made = object.__new__(Run)
    vars(made).update(vars(run), **values)
    return made


def enter(run: Run, step_id: str, phase: Phase, body: dict[str, Any]) -> Run:
    """Make one entry, in memory (an intent may be entered again by a new attempt); the next `save` writes it."""
    made = key(step_id, phase, run.occurrence)
    unwritten = run.unwritten if made in run.unwritten else (*run.unwritten, made)
    return changed(run, entries={**run.entries, made: body}, unwritten=unwritten)


def at(run: Run, step_id: str) -> Run:
    """Move on to a step, in memory; what the run waited for is over."""
    return changed(run, step=step_id, waiting_for=None)


def save(
    connection: sa.Connection,
    run: Run,
    *,
    state: RunState = RunState.RUNNING,
    outcome: RunOutcome | str = "",
    error: str = "",
    guard: str = "",
    needed: int = 0,
) -> Run:
    """Write the run's own row under its fence, and its unwritten entries; give the run as it is now.

    Raises:
        LostFence: another worker has claimed the run.
    """
    return _write(
        connection,
        run,
        (),
        state=state,
        guard=guard,
        needed=needed,
        outcome=outcome,
        error=error,
    )


def finish(
    connection: sa.Connection, run: Run, outcome: RunOutcome, *, error: str = "", actor: Principal = ACTOR
) -> None:
    """End a run, once, where it stands; what came too late for it becomes a run of its own.

    Raises:
        LostFence: another worker has claimed the run.
    """
    event = RunFinished(device_id=run.device_id, run_id=run.id, outcome=str(outcome))
    vendor = run.vendor or outbox.vendor_of(connection, run.device_id)
    _, told = outbox.calls(event, actor=actor, vendor=vendor, dialect=connection.dialect.name)
    _write(connection, changed(run, waiting_for=None), told, state=RunState.ENDED, outcome=outcome, error=error)
    if run.follow_up:
        due.follow_up(connection, run.id, run.playbook_id, run.facts)


def _write(connection: sa.Connection, run: Run, more: Sequence[Call], **values: Any) -> Run:
    """Write the run's row, its unwritten entries and more; all in one flush in the unit that begins the run.

    Raises:
        LostFence: another worker has claimed the run; all of it is rolled back then, since the caller's unit ends by it.
    """
    now = clock.now()
    row: dict[str, Any] = {"guard": "", "needed": 0, "outcome": "", "error": ""} | values
    row |= {"step": run.step, "variables": run.variables, "occurrence": run.occurrence, "updated_at": now}
    row["waiting_for_kind"] = None if run.waiting_for is None else str(run.waiting_for.kind)
    row["waiting_for_ref"] = "" if run.waiting_for is None else run.waiting_for.ref
    row |= {"state": str(row["state"]), "outcome": str(row["outcome"]), "error": row["error"][:2000]}
    row["ended_at"] = now if row["state"] == RunState.ENDED else None
    saved = {f"{name}_": value for name, value in row.items()} | {"id_": run.id, "fence_": run.fence}
    calls: list[Call] = [(_SAVE, saved)]
    places = {made: place for place, made in enumerate(run.entries)}
    for made in run.unwritten:
        entry = _row(run, made) | {"at": now}
        if made in run.stored:
            calls.append((_ENTRY_AGAIN, {f"{name}_": value for name, value in entry.items()}))
        else:
            calls.append((_ENTRY, entry | {"position": places[made]}))
    begun_here = run.fence == 1 and not run.stored  # only a run that was committed can have been taken over
    if not begun_here and calls.pop(0)[0].execute(connection, **saved) != 1:
        raise LostFence(f"Run {run.id} has been taken over.", run=run.id)
    _flush(connection, calls, more)
    return changed(run, unwritten=(), stored=run.stored | set(run.unwritten))


def _flush(connection: sa.Connection, calls: Sequence[Call], more: Sequence[Call]) -> None:
    """Write what nobody needs an answer of; on SQLite the fresh entries by one call of the driver."""
    if connection.dialect.name == "sqlite":
        if fresh := [binds for statement, binds in calls if statement is _ENTRY]:
            _ENTRY.many(connection, fresh)
        calls = [call for call in calls if call[0] is not _ENTRY]
    later(connection, [*calls, *more])


def with_variables(run: Run, variables: dict[str, Any]) -> Run:
    """Give the run other variables, in memory; `save` writes them."""
    return changed(run, variables=variables)


def _row(run: Run, made: Key) -> dict[str, Any]:
    step_id, occurrence, phase = made
    return {
        "run_id": run.id, "step_id": step_id, "occurrence": occurrence, "phase": phase, "fence": run.fence,
        "body": run.entries[made],
    }  # fmt: skip


_SAVED = (
    "step", "state", "variables", "waiting_for_kind", "waiting_for_ref", "guard", "needed", "outcome", "error",
    "occurrence", "updated_at", "ended_at",
)  # fmt: skip
_SAVE = Statement(
    runs.update()
    .where(
        runs.c.id == sa.bindparam("id_"),
        runs.c.fence == sa.bindparam("fence_"),
        runs.c.state == str(RunState.RUNNING),
    )
    .values(**{name: sa.bindparam(f"{name}_", type_=runs.c[name].type) for name in _SAVED})
)
_ENTRY = Statement(
    run_journal.insert(),
    columns=("run_id", "step_id", "occurrence", "phase", "position", "fence", "body", "at"),
)
_ENTRY_AGAIN = Statement(
    run_journal.update()
    .where(*(run_journal.c[name] == sa.bindparam(f"{name}_") for name in ("run_id", "step_id", "occurrence", "phase")))
    .values(**{name: sa.bindparam(f"{name}_", type_=run_journal.c[name].type) for name in ("fence", "body", "at")})
)
