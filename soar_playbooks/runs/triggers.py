"""From a fact to a run: which loaded playbooks an alert starts, and with which variables.

A run begins (one per event and playbook) in the unit of work that also takes it as far as it goes without leaving the
database: run, guards, containment, trust change, facts and enforcements commit together, and no job is made for what is
done already. The alert's own job is the net for a worker that dies. An alert without a bound subject starts
nothing: a flood of them must not become a flood of runs and pages. Limits: ``AlertRaised`` is the only trigger.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices
from lachan.database import after_commit
from lachan.errors import LachanError, NotFound
from lachan.events import AlertRaised, PlaybookRefused, RunStarted
from lachan.ids import new_id
from lachan.statements import insert_new
from lachan.work import jobs, outbox
from lachan.work.outbox import StoredEvent
from soar_playbooks import faults, playbooks, webhooks
from soar_playbooks.cacao.model import Playbook, Trigger
from soar_playbooks.models import runs
from soar_playbooks.playbooks import Loaded, Mode
from soar_playbooks.runs import executor
from soar_playbooks.runs.journal import Run
from soar_playbooks.settings import SoarSettings
from soar_playbooks.states import ACTOR, RunState

if TYPE_CHECKING:
    from lachan.runtime import Runtime

SWEEP_AFTER = timedelta(seconds=60)
SWEPT = 200  # runs of one sweep; those that go on make room for the others


def on_alert_raised(rt: Runtime, stored: StoredEvent) -> None:
    """Start the playbooks that an alert triggers, then tell the webhook (handler of ``AlertRaised``)."""
    alert = stored.event
    if isinstance(alert, AlertRaised) and alert.device_id is not None and alert.subject_bound:
        for loaded, playbook in _triggered(rt, alert):
            begin = partial(_begin, rt, stored, alert, loaded, playbook)
            executor.drive(rt, playbook, begin, faults.Record.RUN)
    if SoarSettings.of(rt.settings).webhook_url:
        rt.db.run(lambda connection: webhooks.queue(rt, connection, stored))


def sweep(rt: Runtime) -> None:
    """Make runs due again that nobody has touched for a minute (recurring ``soar.sweep``): the net under the net."""
    idle = sa.and_(runs.c.state.in_((RunState.READY, RunState.RUNNING)), runs.c.updated_at < clock.now() - SWEEP_AFTER)
    with rt.db.read() as connection:
        found = list(connection.execute(sa.select(runs.c.id).where(idle).limit(SWEPT)).scalars())

    def unit(connection: sa.Connection) -> None:
        for run_id in found:
            jobs.enqueue(connection, "soar.run", {"run_id": run_id}, key=f"sweep:{run_id}")

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


def _triggered(rt: Runtime, alert: AlertRaised) -> list[tuple[Loaded, Playbook]]:
    """Find the playbooks that an alert triggers and that hold every check; of the others it is told why they do not."""
    found, refused = [], []
    with rt.db.read() as connection:  # an alert that triggers nothing keeps off the write lock
        for loaded in playbooks.listing(connection):
            if loaded.mode is Mode.OFF:
                continue
            try:
                playbook = playbooks.verified(connection, loaded.digest, starting=True)
            except LachanError as raised:
                refused.append((loaded, raised))
                continue
            if any(matches(trigger, alert) for trigger in playbook.policy.triggers):
                found.append((loaded, playbook))
    for loaded, error in refused:
        rt.db.run(partial(_refused, alert=alert, row=loaded, error=error))
    return found


def _begin(
    rt: Runtime, stored: StoredEvent, alert: AlertRaised, row: Loaded, playbook: Playbook, connection: sa.Connection
) -> Run | None:
    """Write the run, claimed already by whoever begins it; None if the device is gone or the run is there."""
    device_id = str(alert.device_id)
    try:
        device = devices.locked(connection, device_id)
    except NotFound:
        return None
    run_id, now, known, variables = new_id(), clock.now(), facts(alert), bind(playbook, alert, device)
    made = _RUN.execute(
        connection, id=run_id, playbook_id=row.id, playbook_name=row.name, playbook_version=playbook.version,
        digest=row.digest, mode=str(row.mode), event_id=stored.id, alert_id=alert.alert_id, device_id=device.id,
        vendor=device.vendor, facts=known, state=str(RunState.RUNNING), variables=variables,
        step=playbook.workflow_start, fence=1, created_at=now, updated_at=now,
    )  # fmt: skip
    if not made:
        return None
    event = RunStarted(
        device_id=device.id, run_id=run_id, playbook_id=row.id, playbook_version=playbook.version, mode=str(row.mode),
        alert_id=alert.alert_id,
    )  # fmt: skip
    outbox.append(connection, event, actor=ACTOR, vendor=device.vendor)
    after_commit(connection, rt.wake)
    return Run(
        id=run_id, playbook_id=row.id, playbook_version=playbook.version, digest=row.digest, mode=row.mode,
        alert_id=alert.alert_id, device_id=device.id, facts=known, variables=variables, step=playbook.workflow_start,
        fence=1, entries={}, vendor=device.vendor,
    )  # fmt: skip


_RUN = insert_new(
    runs,
    "id", "playbook_id", "playbook_name", "playbook_version", "digest", "mode", "event_id", "alert_id", "device_id",
    "vendor", "facts", "state", "variables", "step", "fence", "created_at", "updated_at",
    index=("event_id", "playbook_id"),
)  # fmt: skip


def facts(alert: AlertRaised) -> dict[str, Any]:
    """Give what the guards will want to know of the alert."""
    return {
        "device_id": alert.device_id, "subject_bound": alert.subject_bound, "outcome": alert.outcome,
        "sources": alert.sources, "senders": list(alert.senders), "rule_id": alert.rule_id, "alert_id": alert.alert_id,
    }  # fmt: skip


def bind(playbook: Playbook, alert: AlertRaised, device: devices.Device) -> dict[str, Any]:
    """Give the run's variables at its start: the playbook's own, and the external ones from the alert."""
    inputs = {
        "__alert__": alert.alert_id, "__rule__": alert.rule_id, "__severity__": alert.severity,
        "__device__": device.id, "__site__": device.site, "__criticality__": str(device.criticality),
        "__outcome__": alert.outcome, "__sources__": alert.sources, "__subject_bound__": alert.subject_bound,
    }  # fmt: skip
    return {
        name: inputs[name] if variable.external else variable.value for name, variable in playbook.variables.items()
    }


def _refused(connection: sa.Connection, alert: AlertRaised, row: Loaded, error: LachanError) -> None:
    """Say that a playbook was not started, and why."""
    event = PlaybookRefused(
        device_id=alert.device_id, file=row.file, reason=f"{error.code}: {error.detail}",
        step=str(error.fields.get("step", "")),
    )  # fmt: skip
    outbox.append(connection, event, actor=ACTOR)
