"""Compare the signer's log with the database: a signature that the database does not know is closed.

Recurring work ``signer.reconcile`` in the worker. It asks the signer for its log from where it stopped, waits `GRACE` for
each signature (its row is committed after the signature is made), and looks each up with the room's ``recorded`` function.
What is missing becomes a `lachan.events.SignerDiscrepancy`: an issue was cut off between its signature and its record, or
somebody used a key beside lachan's books; either way the room's ``close`` makes it worthless in the same unit of work (a
certificate's serial number goes to the CRL). At most `PAGE` are closed in one unit. Limits: it trusts the log; a thief of the
signer's user can forge both.
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
from lachan.signer.siglog import SignatureOutcome
from lachan.wiring import resolve
from lachan.work import outbox

GRACE = timedelta(minutes=5)
APART = timedelta(hours=1)  # most that the signer's clock and ours may differ by
PAGE = 100
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
    due = _due(answer["lines"])
    if not due:
        return False
    with rt.db.read() as connection:
        missing = [(position, line) for position, line in due if not _known(rt, connection, line)]
    while True:
        page, missing = missing[:PAGE], missing[PAGE:]
        position = page[-1][0] if missing else due[-1][0]
        if not _settle(rt, start, position, [line for _, line in page]):
            return False
        if not missing:
            return len(due) == len(answer["lines"])
        start = position


def _due(lines: list[Any]) -> list[Any]:
    """Give the lines that should have been recorded by now: the last one that is older than `GRACE`, and all before it.

    What stands before an old line in the log is older still, whatever a clock that was ahead made of its time. One that lies
    further ahead than machines' clocks are ever apart was written before a clock was put back, and is old, too.
    """
    now = clock.now()
    old = [place for place, (_, line) in enumerate(lines) if not now - GRACE < clock.parse(line["time"]) <= now + APART]
    return lines[: old[-1] + 1] if old else []


def _known(rt: Runtime, connection: sa.Connection, line: dict[str, Any]) -> bool:
    signing = rt.wiring.signing.get(line["kind"])
    if line["outcome"] != SignatureOutcome.SIGNED or signing is None or signing.recorded is None:
        return True
    return bool(resolve(signing.recorded)(connection, line["subject"]))


def _settle(rt: Runtime, start: int, position: int, missing: list[dict[str, Any]]) -> bool:
    """Close and record discrepancies and move on, in one unit; False if another worker was faster."""

    def unit(connection: sa.Connection) -> bool:
        insert_ignore(connection, reconciled, {"id": 1, "position": 0}, index=("id",))
        moved = connection.execute(
            reconciled.update().where(reconciled.c.position == start).values(position=position)
        ).rowcount
        if not moved:
            return False
        for line in missing:
            _tell(rt, connection, line)
        return True

    return rt.db.run(unit)


def _tell(rt: Runtime, connection: sa.Connection, line: dict[str, Any]) -> None:
    signing = rt.wiring.signing.get(line["kind"])
    closed = False
    if signing is not None and signing.close is not None:
        closed = bool(resolve(signing.close)(rt, connection, line))
        if not closed:
            return  # recorded meanwhile, or closed before
    found = events.SignerDiscrepancy(
        device_id=line.get("device_id"), kind=line["kind"], subject=line["subject"], number=line["n"], closed=closed
    )
    outbox.append(connection, found, actor=system("signer"))
