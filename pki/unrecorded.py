"""Certificates that were signed and never recorded: a crash came between, and nobody has them, or the wrong one.

`lachan.signer.reconcile` finds them in the signer's log; `close` puts the serial number on the CRL of its authority, and from
then on no certificate of that number is recorded (`refuse_closed`). The two exclude each other: on PostgreSQL both lock the
device's row first, or the authority's where there is no device; SQLite has one writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from lachan import devices
from lachan.runtime import Runtime
from pki import revocation
from pki.authorities import FIRST
from pki.errors import IssueClosed
from pki.models import authorities


def close(rt: Runtime, connection: sa.Connection, line: Mapping[str, Any]) -> bool:
    """Revoke what a line of the signer's log says and no row records, in the caller's unit of work.

    Args:
        rt: the installation.
        connection: of the unit.
        line: of kind ``issue``.

    Returns:
        Whether this call closed it; not if a certificate was recorded meanwhile.
    """
    authority = line.get("authority") or FIRST
    _exclude(connection, device_id=line.get("device_id"), authority=authority)
    return revocation.close_unrecorded(rt, connection, authority=authority, serial_number=line["subject"])


def refuse_closed(connection: sa.Connection, *, authority: str, serial_number: str) -> None:
    """Keep what was closed from being recorded, for certificates of no device (of a device: `pki.standing`).

    Raises:
        IssueClosed: it was closed.
    """
    _exclude(connection, device_id=None, authority=authority)
    if revocation.is_closed(connection, authority=authority, serial_number=serial_number):
        raise IssueClosed


def _exclude(connection: sa.Connection, *, device_id: str | None, authority: str) -> None:
    if device_id is not None:
        devices.lock(connection, [device_id])
    elif connection.dialect.name == "postgresql":
        row = sa.select(authorities.c.name).where(authorities.c.name == authority)
        connection.execute(row.with_for_update(key_share=True)).all()
