"""The journal of a run: rows written before and after every effect, each guarded by lease and fence.

A worker claims a run (fence + 1, lease); its units of work keep entries in memory and `save` them with the run's own row
in the unit's last statements. Every save names the fence and touches no row if another worker has claimed since
(`LostFence`: all of the unit is rolled back, the other one goes on). An entry's key has an *occurrence*, so that a step that
is done again is told apart. Limits: the lease covers one HTTP step's timeout; whoever is slower is taken over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from lachan import clock, devices
from lachan.database import for_update
from lachan.events import RunFinished
from lachan.statements import Statement, later
from lachan.work import outbox
from soar_playbooks.errors import LostFence, UnknownRun
from soar_playbooks.models import run_journal, runs
from soar_playbooks.states import ACTOR, Awaited, Phase, RunOutcome, RunState

LEASE = timedelta(seconds=30)
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
    stored: frozenset[Key] = frozenset()
    unwritten: tuple[Key, ...] = ()

    def entry(self, step_id: str, phase: Phase) -> dict[str, Any] | None:
        """Give the body of a step's entry, if there is one."""
        return self.entries.get(key(step_id, phase))


def key(step_id: str, phase: Phase, occurrence: int = 1) -> Key:
    """Make the key of an entry; today's playbooks do every step once."""
    return (step_id, occurrence, str(phase))


def claim(connection: sa.Connection, run_id: str) -> Run | None:
    """Take a run for this worker, in the caller's unit; None if it is not to be continued now.

    Locks its device before its own row, in the one order (ADR 0021).

    Raises:
        UnknownRun: there is no such run.
    """
    device_id = connection.execute(sa.select(runs.c.device_id).where(runs.c.id == run_id)).scalar()
    devices.lock(connection, [device_id] if device_id else [])
    row = connection.execute(for_update(sa.select(runs).where(runs.c.id == run_id), connection)).mappings().first()
    if row is None:
        raise UnknownRun(f"No run {run_id}.")
    now = clock.now()
    leased = row["lease_until"] is not None and row["lease_until"] > now
    if row["state"] not in {RunState.READY, RunState.RUNNING} or leased:
        return None
    fence = row["fence"] + 1
    values = {"fence": fence, "state": RunState.RUNNING, "lease_until": now + LEASE, "updated_at": now}
    connection.execute(runs.update().where(runs.c.id == run_id).values(**values))
    found = entries(connection, run_id)
    return Run(
        entries=found, stored=frozenset(found), fence=fence, variables=dict(row["variables"]), facts=dict(row["facts"]),
        waiting_for=Awaited.of(row["waiting_for_kind"], row["waiting_for_ref"]),
        **{name: row[name] for name in (
            "id", "playbook_id", "playbook_version", "digest", "mode", "alert_id", "device_id", "vendor", "step",
        )},
    )  # fmt: skip


def entries(connection: sa.Connection, run_id: str) -> dict[Key, dict[str, Any]]:
    """Read the journal of a run, in order."""
    query = sa.select(run_journal).where(run_journal.c.run_id == run_id).order_by(run_journal.c.position)
    return {
        (row["step_id"], row["occurrence"], row["phase"]): dict(row["body"])
        for row in connection.execute(query).mappings()
    }


def enter(run: Run, step_id: str, phase: Phase, body: dict[str, Any]) -> Run:
    """Make one entry, in memory (an intent may be entered again by a new attempt); the next `save` writes it."""
    made = key(step_id, phase)
    unwritten = run.unwritten if made in run.unwritten else (*run.unwritten, made)
    return replace(run, entries={**run.entries, made: body}, unwritten=unwritten)


def at(run: Run, step_id: str) -> Run:
    """Move on to a step, in memory; what the run waited for is over."""
    return replace(run, step=step_id, waiting_for=None)


def save(
    connection: sa.Connection,
    run: Run,
    *,
    state: RunState = RunState.RUNNING,
    lease_until: datetime | None = None,
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
        lease_until=lease_until,
        guard=guard,
        needed=needed,
        outcome=outcome,
        error=error,
    )


def finish(connection: sa.Connection, run: Run, outcome: RunOutcome, *, error: str = "") -> None:
    """End a run, once, where it stands.

    Raises:
        LostFence: another worker has claimed the run.
    """
    event = RunFinished(device_id=run.device_id, run_id=run.id, outcome=str(outcome))
    vendor = run.vendor or outbox.vendor_of(connection, run.device_id)
    _, told = outbox.calls(event, actor=ACTOR, vendor=vendor, dialect=connection.dialect.name)
    _write(connection, replace(run, waiting_for=None), told, state=RunState.ENDED, outcome=outcome, error=error)


def _write(connection: sa.Connection, run: Run, more: Sequence[Call], **values: Any) -> Run:
    """Write the run's row, its unwritten entries and more; all in one flush in the unit that begins the run.

    Raises:
        LostFence: another worker has claimed the run; all of it is rolled back then, since the caller's unit ends by it.
    """
    now = clock.now()
    row = {"lease_until": None, "guard": "", "needed": 0, "outcome": "", "error": ""} | values
    row |= {"step": run.step, "variables": run.variables, "updated_at": now}
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
    later(connection, [*calls, *more])
    return replace(run, unwritten=(), stored=run.stored | set(run.unwritten))


def with_variables(run: Run, variables: dict[str, Any]) -> Run:
    """Give the run other variables, in memory; `save` writes them."""
    return replace(run, variables=variables)


def _row(run: Run, made: Key) -> dict[str, Any]:
    step_id, occurrence, phase = made
    return {
        "run_id": run.id, "step_id": step_id, "occurrence": occurrence, "phase": phase, "fence": run.fence,
        "body": run.entries[made],
    }  # fmt: skip


_SAVED = (
    "step", "state", "variables", "waiting_for_kind", "waiting_for_ref", "guard", "needed", "outcome", "error",
    "lease_until", "updated_at", "ended_at",
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
