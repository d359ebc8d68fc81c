"""A certificate is superseded when the one after it is first shown, never by time alone.

Until then the device may have lost the answer that carried the new one, and must go on with what it has. Steps: a door lets somebody in by a
certificate whose row says that it was never shown → `first_shown` writes down that it was, and withdraws what it replaces: the
device's other certificates of the profile that were issued before it, or shown before it (a clock that was ahead gave those a
later date). Whoever shows one of these from then on is refused, and `clone_seen` tells it: either the device did not change
over, or somebody else has its old key. Limits: a thief who renews first is the one who replaces; the device itself then makes
the possible clone known.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from lachan import clock
from lachan.events import PossibleCloneSeen
from lachan.identity import Principal
from lachan.runtime import Runtime
from lachan.work.outbox import append
from pki import revocation
from pki.models import certificates
from pki.states import CertificateState, Reason

TELL = timedelta(days=1)  # who shows a replaced certificate a thousand times a day is one fact a day
_c = certificates.c


def first_shown(
    rt: Runtime, connection: sa.Connection, principal: Principal, *, device_id: str, certificate_id: str
) -> list[str]:
    """Write down that a certificate is in use, and supersede what it replaces, in the caller's transaction; again is no error.

    Args:
        rt: the installation.
        connection: of a unit of work.
        principal: the door that saw it.
        device_id: whose it is.
        certificate_id: the row of the certificate shown.

    Returns:
        Serial numbers (hex) that this call superseded.

    Raises:
        NotFound: no such device.
    """
    rows = revocation.live(connection, principal, device_id)
    mine = next((row for row in rows if row.id == certificate_id), None)
    if mine is None or mine.state != CertificateState.VALID or mine.shown_at is not None:
        return []
    connection.execute(certificates.update().where(_c.id == mine.id).values(shown_at=clock.now()))
    replaced = [
        row
        for row in rows
        if row.id != mine.id and row.profile == mine.profile and (row.id < mine.id or row.shown_at is not None)
    ]
    return revocation.withdraw(rt, connection, principal, replaced, Reason.SUPERSEDED)


def clone_seen(connection: sa.Connection, principal: Principal, *, fingerprint: str, address: str) -> bool:
    """Tell that somebody showed a superseded certificate, in the caller's transaction, once in `TELL`.

    Args:
        connection: of a unit of work.
        principal: the door that saw it.
        fingerprint: SHA-256 of the certificate, hex.
        address: where it was shown from.

    Returns:
        Whether this call told it.
    """
    now = clock.now()
    untold = sa.or_(_c.clone_at.is_(None), _c.clone_at < now - TELL, _c.clone_at > now)
    one = (_c.fingerprint == fingerprint, _c.state == CertificateState.REVOKED, _c.reason == Reason.SUPERSEDED)
    marked = certificates.update().where(*one, untold).values(clone_at=now)
    row = connection.execute(marked.returning(_c.device_id, _c.serial_number, _c.state_since)).first()
    if row is None:
        return False
    fact = PossibleCloneSeen(
        device_id=row.device_id,
        serial_number=row.serial_number,
        address=address,
        replaced_at=clock.iso(row.state_since),
    )
    append(connection, fact, actor=principal)
    return True
