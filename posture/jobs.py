"""Work that is due later: assessments asked for over the API, and judging anew without touching the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices
from lachan.errors import LachanError
from lachan.identity import Permission, Principal, require, system
from lachan.ids import new_id
from lachan.work import jobs
from posture import engagements, service
from posture.errors import Superseded
from posture.models import KNOWN, assessments, verdicts

if TYPE_CHECKING:
    from lachan.runtime import Runtime
    from lachan.work.jobs import Job
    from lachan.work.outbox import StoredEvent

ACTOR = system("posture")
BATCH = 200  # devices judged anew in one go
PAGE = 100  # jobs made due in one unit of work


def ask(rt: Runtime, connection: sa.Connection, device_id: str, engagement_id: str | None, *, actor: Principal) -> str:
    """Make an assessment due, in the caller's transaction; the device is looked at by the worker.

    Returns:
        The id under which the assessment will be recorded.

    Raises:
        Forbidden: the actor may not run assessments.
        NotFound: there is no such device or engagement, or the device is another vendor's.
        NotApproved: the engagement is not approved, was changed, or does not name the device.
        SocketRefused: its window is closed.
    """
    require(actor, Permission.POSTURE_RUN)
    devices.get(connection, device_id, principal=actor)
    if engagement_id is not None:
        found = engagements.get(connection, engagement_id)
        found.address_of(device_id)
        engagements.scope_of(rt, found).check_standing()
    run_id = new_id()
    payload = {"run_id": run_id, "device_id": device_id, "engagement_id": engagement_id, "actor": actor.label}
    jobs.enqueue(connection, "posture.assess", payload)
    return run_id


def run_assessment(rt: Runtime, job: Job) -> None:
    """Run the job behind `ask`; idempotent by the run's id. A refusal ends it: the run then has no assessment."""
    payload = job.payload
    try:
        service.assess(
            rt, payload["device_id"], actor=system(f"posture for {payload['actor']}"),
            engagement_id=payload["engagement_id"], run_id=payload["run_id"],
        )  # fmt: skip
    except LachanError as error:
        if error.status >= 500:
            raise
        rt_log(error, payload)


def rt_log(error: LachanError, payload: dict[str, Any]) -> None:
    """Say in the log why a run that was asked for made no assessment."""
    from lachan.log import get as get_logger

    get_logger(__name__).info("assessment refused", reason=error.detail, run_id=payload["run_id"])


def on_declaration(rt: Runtime, stored: StoredEvent) -> None:
    """Take in a new declaration: judge the vendor's assessed devices of that model anew, from what was seen before."""
    c = devices.devices.c
    query = sa.select(c.id).where(c.vendor == stored.event.vendor, c.model == stored.event.model).distinct()
    with rt.db.read() as connection:
        found = connection.execute(query.join(assessments, assessments.c.device_id == c.id)).scalars().all()
    _make_due(rt, found)


def rejudge(rt: Runtime, job: Job) -> None:
    """Judge one device anew; sends nothing."""
    try:
        service.assess(rt, job.payload["device_id"], actor=ACTOR)
    except Superseded:
        return


def expire(rt: Runtime) -> None:
    """Judge those devices anew whose evidence has expired, so that the change is told as an event."""
    query = sa.select(verdicts.c.device_id).where(verdicts.c.valid_until <= clock.now(), KNOWN).distinct().limit(BATCH)
    with rt.db.read() as connection:
        found = connection.execute(query).scalars().all()
    _make_due(rt, found)


def _make_due(rt: Runtime, device_ids: Sequence[str]) -> None:
    """Make the devices' judgements due, a page to a unit: a model may have a hundred thousand devices."""
    for page in (device_ids[start : start + PAGE] for start in range(0, len(device_ids), PAGE)):
        rt.db.run(partial(_enqueue, page))


def _enqueue(device_ids: Sequence[str], connection: sa.Connection) -> None:
    for device_id in device_ids:
        jobs.enqueue(connection, "posture.rejudge", {"device_id": device_id}, key=f"posture.rejudge:{device_id}")
