"""Compares the signer's log with the database: a signature that the database does not know is a discrepancy.

Recurring work ``signer.reconcile`` in the worker. It asks the signer for its log from where it stopped, waits `GRACE` for
each signature (its row is committed after the signature is made), and looks each up with the room's ``SIGNED`` function.
What is missing becomes a `lachan.events.SignerDiscrepancy`: somebody used a key beside lachan's books, or an issuing
transaction was rolled back after its signature. Limits: it trusts the log; a thief of the signer's user can forge both.
"""

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from lachan import clock, events
from lachan.database import insert_ignore
from lachan.identity.principal import system
from lachan.log import get as get_logger
from lachan.runtime import Runtime
from lachan.signer.errors import SignerUnavailable
from lachan.signer.models import reconciled
from lachan.signer.siglog import Outcome
from lachan.wiring import resolve
from lachan.work import outbox

GRACE = timedelta(minutes=5)
log = get_logger(__name__)


def reconcile(rt: Runtime) -> None:
    """Compare all that is older than `GRACE` and was not compared yet."""
    while _step(rt):
        pass


def _step(rt: Runtime) -> bool:
    with rt.db.read() as connection:
        start = connection.execute(sa.select(reconciled.c.position)).scalar() or 0
    try:
        answer = rt.signer.request("log", after=start)
    except SignerUnavailable as error:
        log.info("the signer's log cannot be read now", error=str(error))
        return False
    if start > answer["size"]:
        log.error("the signer's log is shorter than it was", was=start, now=answer["size"])
        _settle(rt, start, 0, [{"kind": "log", "subject": f"shorter than {start} bytes", "n": 0}])
        return True
    limit = clock.now() - GRACE
    due = [(position, line) for position, line in answer["lines"] if clock.parse(line["time"]) <= limit]
    if not due:
        return False
    with rt.db.read() as connection:
        missing = [line for _, line in due if not _known(rt, connection, line)]
    _settle(rt, start, due[-1][0], missing)
    return len(due) == len(answer["lines"])


def _known(rt: Runtime, connection: sa.Connection, line: dict[str, Any]) -> bool:
    signing = rt.wiring.signing.get(line["kind"])
    if line["outcome"] != Outcome.SIGNED or signing is None or signing.recorded is None:
        return True
    return bool(resolve(signing.recorded)(connection, line["subject"]))


def _settle(rt: Runtime, start: int, position: int, missing: list[dict[str, Any]]) -> None:
    """Record the discrepancies and move on, in one transaction; nothing if another worker was faster."""
    with rt.db.write() as connection:
        insert_ignore(connection, reconciled, {"id": 1, "position": 0}, index=("id",))
        moved = connection.execute(
            reconciled.update().where(reconciled.c.position == start).values(position=position)
        ).rowcount
        if not moved:
            return
        for line in missing:
            found = events.SignerDiscrepancy(kind=line["kind"], subject=line["subject"], number=line["n"])
            outbox.append(connection, found, actor=system("signer"))
