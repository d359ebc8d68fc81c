"""The signed webhook: alerts, needed approvals and pages are posted to the operator's one URL.

Standard Webhooks (standardwebhooks.com, v1): ``webhook-id`` is the ledger event's id and stays the same over all tries,
``webhook-timestamp`` is the try's, ``webhook-signature`` is HMAC-SHA-256 over both and the body. A delivery is a row and a
job with growing pauses; a receiver that is gone, or asks to be left alone, is (`soar_playbooks.receivers`). The URL must be on the operator's allow-list; redirects are not followed. Limits: one URL, one
secret (``<data>/soar/webhook.secret``); a receiver must drop ids that it has seen.
"""

from __future__ import annotations

import base64
import json
import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from standardwebhooks import Webhook

from lachan import clock
from lachan.database import after_commit, insert_ignore
from lachan.errors import LachanError
from lachan.files import write_new
from lachan.net.fetch import http_request
from lachan.net.sockets import operator_scope
from lachan.work import jobs, outbox
from soar_playbooks import faults, receivers
from soar_playbooks.models import webhook_deliveries
from soar_playbooks.receivers import Answered
from soar_playbooks.settings import SoarSettings

if TYPE_CHECKING:
    from lachan.events import Event
    from lachan.runtime import Runtime
    from lachan.work.outbox import Actor, StoredEvent

TIMEOUT = 5.0  # seconds for one try
TRIES = 12  # with doubling pauses: about 17 hours
LONGEST = timedelta(hours=8)
OLDEST = timedelta(days=14)  # after which it is given up, however often it could be tried


def tell(rt: Runtime, connection: sa.Connection, event: Event, *, actor: Actor) -> str:
    """Record a fact that people are told of (ApprovalNeeded, HumanPaged), and queue its delivery; give its id.

    No job is made without a URL; one that is configured later gets the facts from then on.
    """
    event_id = outbox.append(connection, event, actor=actor)
    if SoarSettings.of(rt.settings).webhook_url:
        queue(rt, connection, outbox.get(connection, event_id))
    return event_id


def queue(rt: Runtime, connection: sa.Connection, stored: StoredEvent) -> None:
    """Queue the delivery of a fact, in the caller's unit; again is no error."""
    if stored.event is None:
        return
    body = {
        "type": _dotted(stored.name), "timestamp": clock.iso(stored.recorded_at), "id": stored.id,
        "data": stored.event.body(),
    }  # fmt: skip
    now = clock.now()
    values = {
        "id": stored.id, "kind": body["type"], "body": json.dumps(body, ensure_ascii=False), "state": "pending",
        "created_at": now, "updated_at": now,
    }  # fmt: skip
    if insert_ignore(connection, webhook_deliveries, values, index=("id",)):
        whose = receivers.sender(SoarSettings.of(rt.settings).webhook_url)
        jobs.enqueue(connection, "soar.webhook", {"id": stored.id}, sender=whose)
        after_commit(connection, rt.wake_workers)


def deliver(rt: Runtime, job: jobs.Job) -> None:
    """Try one delivery (job ``soar.webhook``); tries again until it is taken or given up.

    Raises:
        lachan.work.jobs.Again: it was not taken.
    """
    url = SoarSettings.of(rt.settings).webhook_url
    with rt.db.read() as connection:
        query = sa.select(webhook_deliveries).where(webhook_deliveries.c.id == job.payload["id"])
        row = connection.execute(query).mappings().one()
        receiver = receivers.state(connection, url)
    if row["state"] != "pending":
        return
    if receiver["gone_at"] is not None:
        answered, tried = Answered(None, receivers.GONE), 0
    elif clock.now() - row["created_at"] > OLDEST:  # whoever waits behind a dead receiver may never have been tried
        answered, tried = Answered(None, receivers.OLD), 0
    elif receiver["not_before"] is not None and clock.runs(receiver["not_before"], term=receivers.LONGEST):
        raise jobs.Again(receiver["not_before"])
    else:
        answered, tried = _post(rt, url, row["id"], row["body"]), 1
        faults.done(rt, faults.Effect.WEBHOOK)
    again = faults.run(
        rt, faults.Record.DELIVERY, lambda connection: _record(connection, url, dict(row), answered, tried)
    )
    if again is not None:
        raise jobs.Again(again)


def _record(
    connection: sa.Connection, url: str, row: dict[str, Any], answered: Answered, tried: int
) -> datetime | None:
    """Write what became of a try, and of its receiver; gives when it is tried again, None for never."""
    attempts, now = row["attempts"] + tried, clock.now()
    not_before = receivers.note(connection, url, answered) if tried else None
    gone = answered.status == 410
    if answered.taken:
        state = "delivered"
    else:
        state = "failed" if gone or not tried or attempts >= TRIES else "pending"
    values = {
        "state": state, "attempts": attempts, "last_status": answered.status,
        "last_error": receivers.GONE if gone else answered.error[:2000],
    }  # fmt: skip
    done = webhook_deliveries.update().where(webhook_deliveries.c.id == row["id"])
    connection.execute(done.values(**values, updated_at=now))
    if state != "pending":
        return None
    return max(not_before or now, now + min(timedelta(seconds=2.0**attempts), LONGEST))


def secret(data: Path) -> str:
    """Give the webhook's secret (``whsec_…``), made at first use, mode 0600."""
    path = data / "soar" / "webhook.secret"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        text = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode("ascii")
        with suppress(FileExistsError):  # whoever comes second takes the first one's
            write_new(path, text.encode())
    return path.read_text().strip()


def _post(rt: Runtime, url: str, webhook_id: str, body: str) -> Answered:
    moment = clock.now()
    signature = Webhook(secret(rt.settings.data)).sign(msg_id=webhook_id, timestamp=moment, data=body)
    headers = {
        "Content-Type": "application/json", "webhook-id": webhook_id,
        "webhook-timestamp": str(int(moment.timestamp())), "webhook-signature": signature,
    }  # fmt: skip
    try:
        scope = operator_scope(rt.settings.outgoing_allow)
        answer = http_request(
            scope, "POST", url, timeout=TIMEOUT, method="webhook", headers=headers, body=body.encode()
        )  # fmt: skip
    except LachanError as error:
        return Answered(None, f"{error.code}: {error.detail}")
    why = "" if 200 <= answer.status < 300 else f"status {answer.status}"
    return Answered(answer.status, why, answer.header("retry-after"))


def _dotted(name: str) -> str:
    """Write ``AlertRaised`` as ``alert.raised``: the form that Standard Webhooks wants for ``type``."""
    return "".join(f".{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip(".")


def listing(connection: sa.Connection, *, limit: int = 100) -> list[dict[str, Any]]:
    """Give the latest deliveries."""
    query = sa.select(webhook_deliveries).order_by(webhook_deliveries.c.id.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]
