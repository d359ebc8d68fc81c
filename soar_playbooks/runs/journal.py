"""The journal of a run: rows written before and after every effect, each guarded by lease and fence.

A worker claims a run (fence + 1, lease); every later write names its fence and touches no row if another worker has
claimed since (`LostFence`: stop, the other one goes on). A crash loses only the time until the lease is over. Limits: the
lease covers one HTTP step's timeout; whoever is slower than that is taken over and must stop at its next write.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import for_update
from lachan.events import RunFinished
from lachan.work import outbox
from soar_playbooks import faults
from soar_playbooks.errors import LostFence, UnknownRun
from soar_playbooks.models import run_journal, runs
from soar_playbooks.states import ACTOR, Phase, RunOutcome, RunState

if TYPE_CHECKING:
    from lachan.runtime import Runtime

LEASE = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A claimed run as its worker knows it.

    ``entries`` are the journal's rows so far: (step, phase) → body. Pure steps (start, if-condition) need no transaction
    of their own: those in ``unwritten`` are written by the next `move`.
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
    waiting_for: str
    entries: dict[tuple[str, str], dict[str, Any]]
    unwritten: tuple[str, ...] = ()


def claim(rt: Runtime, run_id: str) -> Run | None:
    """Take a run for this worker; None if it is not to be continued now.

    Raises:
        UnknownRun: there is no such run.
    """
    now = clock.now()
    with faults.write(rt, faults.Record.CLAIM) as connection:
        query = for_update(sa.select(runs).where(runs.c.id == run_id), connection)
        row = connection.execute(query).mappings().first()
        if row is None:
            raise UnknownRun(f"No run {run_id}.")
        leased = row["lease_until"] is not None and row["lease_until"] > now
        if row["state"] not in {RunState.READY, RunState.RUNNING} or leased:
            return None
        fence = row["fence"] + 1
        connection.execute(
            runs.update()
            .where(runs.c.id == run_id)
            .values(fence=fence, state=RunState.RUNNING, lease_until=now + LEASE, updated_at=now)
        )
        return Run(
            entries=entries(connection, run_id), fence=fence, variables=dict(row["variables"]), facts=dict(row["facts"]),
            **{name: row[name] for name in (
                "id", "playbook_id", "playbook_version", "digest", "mode", "alert_id", "device_id", "step", "waiting_for",
            )},
        )  # fmt: skip


def leased_until(rt: Runtime, run_id: str) -> Any:
    """Until when another worker has a run that is not finished; None if nobody has."""
    busy = sa.and_(runs.c.id == run_id, runs.c.state == RunState.RUNNING, runs.c.lease_until > clock.now())
    with rt.db.read() as connection:
        return connection.execute(sa.select(runs.c.lease_until).where(busy)).scalar()


def entries(connection: sa.Connection, run_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The journal of a run: (step, phase) → body."""
    query = sa.select(run_journal).where(run_journal.c.run_id == run_id).order_by(run_journal.c.position)
    return {(row["step_id"], row["phase"]): dict(row["body"]) for row in connection.execute(query).mappings()}


def move(connection: sa.Connection, run: Run, **values: Any) -> Run:
    """Write the run's own row under its fence; gives the run as it is now.

    Raises:
        LostFence: another worker has claimed the run.
    """
    values = {"step": run.step, "updated_at": clock.now(), "lease_until": clock.now() + LEASE, **values}
    mine = sa.and_(runs.c.id == run.id, runs.c.fence == run.fence, runs.c.state == RunState.RUNNING)
    if connection.execute(runs.update().where(mine).values(**values)).rowcount != 1:
        raise LostFence(f"Run {run.id} has been taken over.", run=run.id)
    for step_id in run.unwritten:
        body = run.entries[(step_id, Phase.OUTCOME)]
        position = list(run.entries).index((step_id, Phase.OUTCOME))
        keys = {"run_id": run.id, "step_id": step_id, "phase": str(Phase.OUTCOME), "position": position}
        connection.execute(run_journal.insert().values(**keys, fence=run.fence, body=body, at=clock.now()))
    run = replace(run, unwritten=())
    known = {name: value for name, value in values.items() if name in {"step", "variables", "waiting_for"}}
    return replace(run, **known)


def enter(connection: sa.Connection, run: Run, step_id: str, phase: Phase, body: dict[str, Any]) -> Run:
    """Write one journal row (an intent may be written again by a new attempt); the caller moves the run as well."""
    where = sa.and_(run_journal.c.run_id == run.id, run_journal.c.step_id == step_id, run_journal.c.phase == str(phase))
    values = {"fence": run.fence, "body": body, "at": clock.now()}
    if (step_id, phase) in run.entries:
        connection.execute(run_journal.update().where(where).values(**values))
    else:
        keys = {"run_id": run.id, "step_id": step_id, "phase": str(phase), "position": len(run.entries)}
        connection.execute(run_journal.insert().values(**keys, **values))
    return replace(run, entries={**run.entries, (step_id, phase): body})


def pass_by(run: Run, step_id: str, body: dict[str, Any], *, target: str) -> Run:
    """Go through a pure step, in memory; the next `move` writes it down."""
    made = {**run.entries, (step_id, str(Phase.OUTCOME)): body}
    return replace(run, step=target, entries=made, unwritten=(*run.unwritten, step_id))


def finish(connection: sa.Connection, run: Run, outcome: RunOutcome, *, error: str = "", step: str = "") -> None:
    """End a run, once; at ``step``, or where it stands.

    Raises:
        LostFence: another worker has claimed the run.
    """
    move(
        connection, run, state=RunState.ENDED, outcome=outcome, error=error, ended_at=clock.now(), lease_until=None,
        waiting_for="", guard="", needed=0, variables=run.variables, step=step or run.step,
    )  # fmt: skip
    outbox.append(connection, RunFinished(device_id=run.device_id, run_id=run.id, outcome=outcome), actor=ACTOR)


def with_variables(run: Run, variables: dict[str, Any]) -> Run:
    """The run with other variables in memory; `move` writes them."""
    return replace(run, variables=variables)


def ended(run: Run) -> Run:
    """The run as its worker knows it after `finish`: standing at no step."""
    return replace(run, step="")
