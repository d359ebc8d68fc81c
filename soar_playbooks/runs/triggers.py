"""From an alert to a run: which loaded playbooks an alert starts, and with which variables.

An alert about a bound device is due work of the urgent lane in the transaction that records it, in the turn of the sender of
its deciding line (`soar_playbooks.wiring`). Its unit takes all alerts about that device that wait, and begins a run for each
playbook that they trigger, or lets them join the one that is open (`soar_playbooks.runs.joining`), and takes it as far as it goes
without leaving the database: run, guards, containment, trust change, facts, enforcements and the end of the jobs commit
together. An alert without a bound subject starts nothing: a flood of them must not become a flood of runs and pages.
Limits: ``AlertRaised`` is the only trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.devices import Device
from lachan.errors import LachanError, NotFound
from lachan.events import AlertRaised, PlaybookRefused, RunStarted
from lachan.ids import new_id
from lachan.statements import Statement, insert_new, pipeline
from lachan.work import jobs, outbox
from soar_playbooks import faults, playbooks, webhooks
from soar_playbooks.cacao.model import Playbook, Trigger
from soar_playbooks.models import GOES, containments, runs
from soar_playbooks.playbooks import Enabled, Loaded
from soar_playbooks.runs import due, evidence, executor, joining
from soar_playbooks.runs.due import Raised
from soar_playbooks.runs.executor import Refusals
from soar_playbooks.runs.journal import Run
from soar_playbooks.runs.records import RunRecord
from soar_playbooks.settings import SoarSettings
from soar_playbooks.states import ACTOR, RunOutcome, RunState, WaitingFor

if TYPE_CHECKING:
    from lachan.runtime import Runtime

SWEEP_AFTER = timedelta(seconds=60)
SWEPT = 200  # runs of one sweep; those that go on make room for the others


class Library:
    """The loaded playbooks, as one unit needs them: each is verified once, when an alert triggers it."""

    def __init__(self, connection: sa.Connection) -> None:
        self._enabled = playbooks.enabled(connection)
        self._held: dict[str, Playbook | LachanError] = {}

    def triggered(self, raised: Sequence[Raised]) -> list[tuple[Enabled, list[Raised]]]:
        """Give the playbooks that alerts trigger, each with those alerts."""
        found = []
        for row in self._enabled:
            mine = [one for one in raised if _is_for(one, row)]
            if mine:
                found.append((row, mine))
        return found

    def verified(self, connection: sa.Connection, row: Enabled) -> Playbook | LachanError:
        """Give a playbook if it holds every check now, else why it does not."""
        held = self._held.get(row.loaded.digest)
        if held is None:
            try:
                held = playbooks.check_enabled(connection, row)
            except LachanError as error:
                held = error
            self._held[row.loaded.digest] = held
        return held


def run_job(rt: Runtime, job: jobs.Job) -> None:
    """Start the playbooks that the alerts of a device trigger, or let them join (job ``soar.alert``)."""
    own = Raised.of(job.payload)
    with rt.db.read() as connection:  # what needs no lock
        library = Library(connection)
        for row, _ in library.triggered([own]):
            library.verified(connection, row)
    try:
        executor.attempt(rt, faults.Record.RUN, partial(_unit, rt, job, str(own.alert.device_id), library))
    except NotFound:  # the device is gone, and what was to be done about it
        return


def _unit(
    rt: Runtime, job: jobs.Job, device_id: str, library: Library, connection: sa.Connection, refused: Refusals
) -> None:
    of_device = {"device_id_": device_id}
    device, raised, found = due.drained(connection, job, device_id, [(_OPEN, of_device), (_HELD, of_device)])
    opened = {row.playbook_id: RunRecord.of(row) for row in found[0].rows}
    for row, mine in library.triggered(raised):
        playbook = library.verified(connection, row)
        if isinstance(playbook, LachanError):
            _refused(connection, mine[0].alert, row.loaded, playbook)
        elif playbook.id in opened:
            joining.join(rt, connection, playbook, device, opened[playbook.id], mine, refused)
        elif not _covered(connection, playbook, mine, found[1].rows):
            run = _begin(rt, connection, device, mine, row.loaded, playbook)
            if run is not None:
                executor.steps(rt, connection, playbook, run, refused)
    if SoarSettings.of(rt.settings).webhook_url:
        for one in raised:
            if not one.playbook_id:
                webhooks.queue(rt, connection, outbox.get(connection, one.event_id))


def notify(rt: Runtime, job: jobs.Job) -> None:
    """Tell the webhook of an alert that starts nothing (job ``soar.notify``)."""
    if SoarSettings.of(rt.settings).webhook_url:
        rt.db.run(lambda c: webhooks.queue(rt, c, outbox.get(c, job.payload["event"])))


def sweep(rt: Runtime) -> None:
    """Make runs due again that nobody has touched for a minute (recurring ``soar.sweep``): the net under the net."""
    with rt.db.read() as connection:
        idle = {"before_": clock.now() - SWEEP_AFTER}
        states = [(_IDLE, idle | {"state_": str(state)}) for state in (RunState.READY, RunState.RUNNING)]
        found = [row for done in pipeline(connection, states) for row in done.rows]

    def unit(connection: sa.Connection) -> None:
        for row in found:
            if row.waiting_for_kind == WaitingFor.ANSWER:
                due.ask(connection, row.id, row.waiting_for_ref, url="")
            else:
                jobs.enqueue(connection, due.RUN, {"run_id": row.id}, key=f"sweep:{row.id}")

    if found:
        rt.db.run(unit)


def matches(trigger: Trigger, alert: AlertRaised) -> bool:
    """Tell whether a trigger's every named set meets the alert."""
    return (
        trigger.event == type(alert).__name__
        and (not trigger.tags or bool(trigger.tags & set(alert.tags)))
        and (not trigger.severities or alert.severity in trigger.severities)
        and (not trigger.rules or alert.rule_id in trigger.rules)
    )


def _is_for(one: Raised, row: Enabled) -> bool:
    """Tell whether an alert triggers a playbook; of one that cannot be read every alert wants to know why."""
    if one.playbook_id:
        return one.playbook_id == row.loaded.id
    try:
        triggers = row.parsed().policy.triggers
    except LachanError:
        return True
    return any(matches(trigger, one.alert) for trigger in triggers)


def _covered(connection: sa.Connection, playbook: Playbook, raised: Sequence[Raised], held: Sequence[Any]) -> bool:
    """Tell whether the containment in effect was brought about by this playbook, for as much as these alerts say.

    They join the run that has ended then. A containment that has an end is judged again in the second half of its time.
    """
    for row in held:
        if row.playbook_id != playbook.id or row.outcome != RunOutcome.SUCCEEDED or row.held_by:
            continue
        if any(one.playbook_id for one in raised):
            continue
        lasts = playbook.policy.until
        if row.until is not None and lasts is not None and row.until < clock.now() + lasts / 2:
            continue
        known = evidence.more(row.facts, (one.alert for one in raised))
        if not known.raised:
            joining.took(connection, row, known)
            return True
    return False


def _begin(
    rt: Runtime, connection: sa.Connection, device: Device, raised: Sequence[Raised], row: Loaded, playbook: Playbook
) -> Run | None:
    """Write the run, claimed already by whoever begins it; None if it is there."""
    known = evidence.of(one.alert for one in raised)
    facts, now, run_id = known.facts, clock.now(), new_id()
    variables = evidence.bind(playbook, facts, device)
    made = _RUN.execute(
        connection, id=run_id, playbook_id=row.id, playbook_name=row.name, playbook_version=playbook.version,
        digest=row.digest, mode=str(row.mode), event_id=raised[0].event_id, alert_id=facts["alert_id"],
        device_id=device.id, vendor=device.vendor, facts=facts, state=str(RunState.RUNNING), variables=variables,
        step=playbook.workflow_start, fence=1, created_at=now, updated_at=now,
    )  # fmt: skip
    if not made:
        return None
    event = RunStarted(
        device_id=device.id, run_id=run_id, playbook_id=row.id, playbook_version=playbook.version, mode=str(row.mode),
        alert_id=facts["alert_id"],
    )  # fmt: skip
    outbox.append(connection, event, actor=ACTOR, vendor=device.vendor)
    run = Run(
        id=run_id, playbook_id=row.id, playbook_version=playbook.version, digest=row.digest, mode=row.mode,
        alert_id=facts["alert_id"], device_id=device.id, facts=facts, variables=variables, step=playbook.workflow_start,
        fence=1, entries={}, vendor=device.vendor,
    )  # fmt: skip
    if len(facts["alerts"]) > 1:
        joining.note(connection, run, known)
    return run


def _refused(connection: sa.Connection, alert: AlertRaised, row: Loaded, error: LachanError) -> None:
    """Say that a playbook was not started, and why."""
    event = PlaybookRefused(
        device_id=alert.device_id, file=row.file, reason=f"{error.code}: {error.detail}",
        step=str(error.fields.get("step", "")),
    )  # fmt: skip
    outbox.append(connection, event, actor=ACTOR)


_DEVICE: sa.BindParameter[str] = sa.bindparam("device_id_")
_OPEN = Statement(sa.select(runs).where(runs.c.device_id == _DEVICE, sa.text("runs.state <> 'ended'")))
_HELD = Statement(
    sa.select(runs, containments.c.guard.label("held_by"), containments.c.until)
    .join(containments, containments.c.run_id == runs.c.id)
    .where(
        containments.c.device_id == _DEVICE,
        sa.text("containments.state IN ('waiting', 'active')"),
        containments.c.state == "active",
    )
)
_IDLE = Statement(
    sa.select(runs.c.id, runs.c.waiting_for_kind, runs.c.waiting_for_ref)
    .where(
        GOES,
        runs.c.state == sa.bindparam("state_"),
        runs.c.updated_at < sa.bindparam("before_", type_=runs.c.updated_at.type),
    )
    .order_by(runs.c.updated_at)
    .limit(SWEPT)
)
_RUN = insert_new(
    runs,
    "id", "playbook_id", "playbook_name", "playbook_version", "digest", "mode", "event_id", "alert_id", "device_id",
    "vendor", "facts", "state", "variables", "step", "fence", "created_at", "updated_at",
    index=("event_id", "playbook_id"),
)  # fmt: skip
