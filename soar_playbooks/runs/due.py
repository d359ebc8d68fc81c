"""The due work of runs: what a unit takes with it, so that the work and the end of its job commit together, and what it makes due.

A job that was taken over by another worker is none of this unit's any more: its fence is another one, and `LostFence` rolls
back whatever the unit has done. Alerts of one device that wait are taken all at once (`drained`): a flood becomes one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from lachan import devices
from lachan.devices import Device
from lachan.events import AlertRaised
from lachan.statements import Call, Done, Statement
from lachan.wiring import Rank
from lachan.work import jobs
from lachan.work.jobs import Gravity, Job
from soar_playbooks.errors import LostFence

ALERT, RUN, HTTP = "soar.alert", "soar.run", "soar.http"
MOST = 200  # alerts that one unit takes
_PAST = chr(ord(":") + 1)  # ends the range of keys that begin with a prefix and a colon


@dataclass(frozen=True, kw_only=True)
class Raised:
    """An alert that waits to start playbooks, or to join their runs.

    Attributes:
        event_id: of its fact; of a follow-up the id of the run that ended.
        alert: the fact.
        playbook_id: the only playbook that it is for: that of a follow-up; empty otherwise.
    """

    event_id: str
    alert: AlertRaised
    playbook_id: str = ""

    @classmethod
    def of(cls, payload: dict[str, Any]) -> Raised:
        """Build it of its job's payload."""
        alert = AlertRaised.load("AlertRaised", payload["fact"])
        assert isinstance(alert, AlertRaised)
        return cls(event_id=payload["event"], alert=alert, playbook_id=payload.get("playbook", ""))


def drained(
    connection: sa.Connection, job: Job, device_id: str, calls: list[Call]
) -> tuple[Device, list[Raised], list[Done]]:
    """Lock a device, take all alerts about it that are due, and run statements that need the lock, in one flush.

    A job that has failed before is taken alone: what is wrong with it must not be wrong with the others.

    Returns:
        The device, the alerts in their order, and what came of the statements.

    Raises:
        NotFound: the device is gone.
        LostFence: the job is another worker's by now, or done.
    """
    low, high = f"{ALERT}:{device_id}:", f"{ALERT}:{device_id}{_PAST}"
    take: Call = (_TAKE, {"low_": low, "high_": high, "most_": MOST})
    if job.attempt > 1:
        take = (_TAKE_ONE, {"id_": job.id, "fence_": job.fence})
    device, (taken, *others) = devices.locked_and(connection, device_id, [take, *calls])
    if not any(row.id == job.id and row.fence == job.fence for row in taken.rows):
        raise LostFence("The alert is another worker's.", job=job.id)
    rows = sorted(taken.rows, key=lambda row: str(row.key))
    return device, [Raised.of(row.payload) for row in rows], others


def done(connection: sa.Connection, job: Job | None) -> None:
    """End a job in the caller's unit.

    Raises:
        LostFence: it is another worker's by now, or done.
    """
    if job is not None and not _DONE.execute(connection, id_=job.id, fence_=job.fence):
        raise LostFence("The job is another worker's.", job=job.id)


def held(connection: sa.Connection, job: Job) -> None:
    """See that a job is still the caller's.

    Raises:
        LostFence: it is another worker's by now, or done.
    """
    if _HELD.first(connection, id_=job.id, fence_=job.fence) is None:
        raise LostFence("The job is another worker's.", job=job.id)


def go_on(connection: sa.Connection, run_id: str) -> None:
    """Make a run due, before the rest of its lane: a person decided, or the peer's answer is there."""
    jobs.enqueue(connection, RUN, {"run_id": run_id}, rank=Rank.FIRST)


def ask(connection: sa.Connection, run_id: str, step_id: str, *, url: str, undo: bool = False) -> None:
    """Make a request outside due, in its host's turn."""
    payload = {"run_id": run_id, "step": step_id, "undo": undo}
    key = f"{HTTP}:{run_id}:{'undo:' if undo else ''}{step_id}"
    jobs.enqueue(connection, HTTP, payload, key=key, sender=urlsplit(url).netloc[:200])


def follow_up(connection: sa.Connection, run_id: str, playbook_id: str, facts: dict[str, Any]) -> None:
    """Make a run due that judges what came too late for one that ends now."""
    payload = {"event": run_id, "fact": facts, "playbook": playbook_id}
    key = f"{ALERT}:{facts['device_id']}:{run_id}"
    senders = facts.get("senders") or [""]
    severity = Gravity.of(facts.get("severity"))
    jobs.enqueue(
        connection, ALERT, payload, key=key, sender=senders[0], severity=severity,
        site=facts.get("site", ""),
    )  # fmt: skip


_J = jobs.jobs.c
_OWN = (_J.id == sa.bindparam("id_"), _J.fence == sa.bindparam("fence_"))
_DONE = Statement(jobs.jobs.delete().where(*_OWN))
_HELD = Statement(sa.select(_J.id).where(*_OWN))
_WAITING = (
    sa.select(_J.id)
    .where(_J.key >= sa.bindparam("low_"), _J.key < sa.bindparam("high_"), sa.text("state = 'open'"))
    .order_by(_J.key)
    .limit(sa.bindparam("most_", type_=sa.Integer))
)
_TAKE_ONE = Statement(jobs.jobs.delete().where(*_OWN).returning(_J.id, _J.fence, _J.key, _J.payload))
_TAKE = Statement(jobs.jobs.delete().where(_J.id.in_(_WAITING)).returning(_J.id, _J.fence, _J.key, _J.payload))
