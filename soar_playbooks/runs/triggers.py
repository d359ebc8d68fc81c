"""From a fact to a run: which loaded playbooks an alert starts, and with which variables.

A run begins in the handler's transaction (one per event and playbook) and is taken as far as it goes at once, so that an
alert contains within milliseconds; its job is the net for a worker that dies. An alert without a bound subject starts
nothing: a flood of them must not become a flood of runs and pages. Limits: ``AlertRaised`` is the only trigger.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices
from lachan.database import after_commit, insert_ignore
from lachan.errors import LachanError, NotFound
from lachan.events import AlertRaised, PlaybookRefused, RunStarted
from lachan.ids import new_id
from lachan.work import jobs, outbox
from lachan.work.outbox import StoredEvent
from soar_playbooks import faults, playbooks
from soar_playbooks.cacao.model import Playbook, Trigger
from soar_playbooks.models import runs
from soar_playbooks.playbooks import Loaded, Mode
from soar_playbooks.runs import executor
from soar_playbooks.states import ACTOR, RunState

if TYPE_CHECKING:
    from lachan.runtime import Runtime

SWEEP_AFTER = timedelta(seconds=60)


def on_alert_raised(rt: Runtime, stored: StoredEvent) -> None:
    """Start the playbooks that an alert triggers (handler of ``AlertRaised``)."""
    alert = stored.event
    if not isinstance(alert, AlertRaised) or alert.device_id is None or not alert.subject_bound:
        return
    with rt.db.read() as connection:
        loaded = [row for row in playbooks.listing(connection) if row.mode is not Mode.OFF]
    for row in loaded:
        started = _start(rt, stored, alert, row)
        if started is not None:
            executor.advance(rt, started[0], playbook=started[1])


def sweep(rt: Runtime) -> None:
    """Make runs due again that nobody has touched for a minute (recurring ``soar.sweep``): the net under the net."""
    idle = sa.and_(runs.c.state.in_((RunState.READY, RunState.RUNNING)), runs.c.updated_at < clock.now() - SWEEP_AFTER)
    with rt.db.read() as connection:
        found = list(connection.execute(sa.select(runs.c.id).where(idle)).scalars())
    if found:
        with rt.db.write() as connection:
            for run_id in found:
                jobs.enqueue(connection, "soar.run", {"run_id": run_id}, key=f"sweep:{run_id}")


def matches(trigger: Trigger, alert: AlertRaised) -> bool:
    """Whether a trigger's every named set meets the alert."""
    return (
        trigger.event == type(alert).__name__
        and (not trigger.tags or bool(trigger.tags & set(alert.tags)))
        and (not trigger.severities or alert.severity in trigger.severities)
        and (not trigger.rules or alert.rule_id in trigger.rules)
    )


def _start(rt: Runtime, stored: StoredEvent, alert: AlertRaised, row: Loaded) -> tuple[str, Playbook] | None:
    """Write the run, if the playbook is triggered and holds every check; its id and playbook, or None."""
    try:
        with rt.db.read() as connection:  # an alert that triggers nothing keeps off the write lock
            playbook = playbooks.verified(connection, row.digest, starting=True)
        if not any(matches(trigger, alert) for trigger in playbook.policy.triggers):
            return None
        with faults.write(rt, faults.Record.RUN) as connection:
            run_id = _write(rt, connection, stored, alert, row, playbook)
        return (run_id, playbook) if run_id is not None else None
    except LachanError as error:
        with rt.db.write() as connection:
            _refused(connection, alert, row, error)
        return None


def _write(
    rt: Runtime, connection: sa.Connection, stored: StoredEvent, alert: AlertRaised, row: Loaded, playbook: Playbook
) -> str | None:
    try:
        device = devices.get(connection, str(alert.device_id))
    except NotFound:
        return None
    run_id, now = new_id(), clock.now()
    values = {
        "id": run_id, "playbook_id": row.id, "playbook_name": row.name, "playbook_version": playbook.version,
        "digest": row.digest, "mode": row.mode, "event_id": stored.id, "alert_id": alert.alert_id,
        "device_id": device.id, "vendor": device.vendor, "facts": facts(alert), "state": RunState.READY,
        "variables": bind(playbook, alert, device), "step": playbook.workflow_start, "created_at": now, "updated_at": now,
    }  # fmt: skip
    if not insert_ignore(connection, runs, values, index=("event_id", "playbook_id")):
        return None
    event = RunStarted(
        device_id=device.id, run_id=run_id, playbook_id=row.id, playbook_version=playbook.version, mode=row.mode,
        alert_id=alert.alert_id,
    )  # fmt: skip
    outbox.append(connection, event, actor=ACTOR)
    jobs.enqueue(connection, "soar.run", {"run_id": run_id})
    after_commit(connection, rt.wake)
    return run_id


def facts(alert: AlertRaised) -> dict[str, Any]:
    """What the guards will want to know of the alert."""
    return {
        "device_id": alert.device_id, "subject_bound": alert.subject_bound, "outcome": alert.outcome,
        "sources": alert.sources, "senders": list(alert.senders), "rule_id": alert.rule_id, "alert_id": alert.alert_id,
    }  # fmt: skip


def bind(playbook: Playbook, alert: AlertRaised, device: devices.Device) -> dict[str, Any]:
    """The run's variables at its start: the playbook's own, and the external ones from the alert."""
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
