"""Suspend, release, revoke: the state of certificates, with everything that must know it in the same transaction.

A change writes the row, the fact, the doors' refusal list (`lachan.trust`) and a due job for the next CRL; OCSP reads the
row. A hold belongs to whoever made it (`Holder`), so that lifting a containment leaves a person's suspension alone and the
other way round. Limits: a revoked certificate never comes back; ``removeFromCRL`` exists in delta CRLs only (RFC 5280
5.3.1), in a full CRL a released certificate is simply absent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from lachan import clock, devices, trust
from lachan.database import after_commit, for_update, insert_ignore
from lachan.events import CertificateReleased, CertificateRevoked, CertificateSuspended
from lachan.identity import Principal
from lachan.runtime import Runtime
from lachan.work import jobs
from lachan.work.outbox import append
from pki.errors import HeldByContainment, NoCertificate, RevokedForGood
from pki.models import certificates, holds, revisions
from pki.states import Holder, Reason, State


def suspend(
    rt: Runtime,
    connection: sa.Connection,
    principal: Principal,
    *,
    device_id: str,
    reason: str,
    serial_number: str | None = None,
    holder: Holder = Holder.REQUEST,
) -> list[str]:
    """Put certificates on hold (certificateHold), in the caller's transaction; again is no error.

    Args:
        rt: the installation.
        connection: an open `Database.write`.
        principal: who asks.
        device_id: whose certificates; only the one of ``serial_number`` (hex) if it is given.
        reason: for people, one sentence.
        holder: who may lift the hold again.

    Returns:
        Serial numbers (hex) that this call put on hold.

    Raises:
        NotFound, NoCertificate, RevokedForGood: the device, or the one certificate named, is not there or is revoked.
    """
    changed = []
    for row in _rows(connection, principal, device_id, serial_number):
        mine = {"certificate_id": row["id"], "holder": holder}
        values = {**mine, "reason": reason[:200], "by": principal.label, "since": clock.now()}
        if not insert_ignore(connection, holds, values, index=("certificate_id", "holder")):
            continue
        if row["state"] == State.VALID:
            _set(connection, row, State.HELD, "certificate_hold")
            _refuse(connection, row, "suspended")
        event = CertificateSuspended(device_id=device_id, serial_number=row["serial_number"], reason=reason)
        append(connection, event, actor=principal)
        changed.append(row["serial_number"])
    _publish(rt, connection, changed)
    return changed


def release(
    rt: Runtime,
    connection: sa.Connection,
    principal: Principal,
    *,
    device_id: str,
    reason: str,
    serial_number: str | None = None,
    holder: Holder = Holder.REQUEST,
) -> list[str]:
    """Lift the holds of one holder; a certificate that nobody else holds is in force again.

    Args: as in `suspend`; ``holder`` tells whose holds to lift.

    Returns:
        Serial numbers (hex) whose hold this call lifted.

    Raises:
        NotFound, NoCertificate, RevokedForGood: as in `suspend`.
        HeldByContainment: a person wants to lift what only a containment holds.
    """
    changed, others = [], 0
    for row in _rows(connection, principal, device_id, serial_number):
        mine = sa.and_(holds.c.certificate_id == row["id"], holds.c.holder == holder)
        lifted = connection.execute(holds.delete().where(mine)).rowcount
        left = connection.execute(sa.select(holds.c.holder).where(holds.c.certificate_id == row["id"])).first()
        others += left is not None
        if not lifted:
            continue
        if left is None:
            _set(connection, row, State.VALID, "")
            trust.accept_certificate(connection, keys=_keys(row))
        event = CertificateReleased(device_id=device_id, serial_number=row["serial_number"], reason=reason)
        append(connection, event, actor=principal)
        changed.append(row["serial_number"])
    if not changed and others and holder is Holder.REQUEST:
        raise HeldByContainment("Only a containment holds the certificates of this device.")
    _publish(rt, connection, changed)
    return changed


def revoke(
    rt: Runtime,
    connection: sa.Connection,
    principal: Principal,
    *,
    device_id: str,
    reason: Reason,
    serial_number: str | None = None,
) -> list[str]:
    """Revoke certificates for good, in the caller's transaction; what is revoked already keeps its date and reason.

    Args:
        rt: the installation.
        connection: an open `Database.write`.
        principal: who asks.
        device_id: whose certificates.
        reason: CRLReason (RFC 5280 5.3.1).
        serial_number: only this one (hex); all of the device's by default.

    Returns:
        Serial numbers (hex) that this call revoked.

    Raises:
        NotFound: no such device, or another vendor's.
        NoCertificate: the device has no such certificate.
        RevokedForGood: the one certificate named is revoked already.
    """
    changed = []
    for row in _rows(connection, principal, device_id, serial_number):
        connection.execute(holds.delete().where(holds.c.certificate_id == row["id"]))
        _set(connection, row, State.REVOKED, str(reason))
        _refuse(connection, row, "revoked")
        event = CertificateRevoked(device_id=device_id, serial_number=row["serial_number"], reason=str(reason))
        append(connection, event, actor=principal)
        changed.append(row["serial_number"])
    _publish(rt, connection, changed)
    return changed


def revision(connection: sa.Connection) -> int:
    """How many times certificates changed their state; 0 at first."""
    return connection.execute(sa.select(revisions.c.revision)).scalar() or 0


def _rows(
    connection: sa.Connection, principal: Principal, device_id: str, serial_number: str | None
) -> Iterable[dict[str, Any]]:
    """The device's certificates that are neither expired nor revoked, locked in the order every writer uses."""
    devices.get(connection, device_id, principal=principal)
    devices.lock(connection, [device_id])  # comes first everywhere, so that racing writers cannot deadlock
    c = certificates.c
    query = sa.select(certificates).where(c.device_id == device_id, c.not_after > clock.now()).order_by(c.id)
    if serial_number is not None:
        query = query.where(c.serial_number == serial_number.lower().lstrip("0"))
    rows = [dict(row) for row in connection.execute(for_update(query, connection)).mappings()]
    live = [row for row in rows if row["state"] != State.REVOKED]
    if serial_number is not None and not rows:
        raise NoCertificate(f"The device has no certificate {serial_number} in its validity.")
    if serial_number is not None and not live:
        raise RevokedForGood(f"Certificate {serial_number} is revoked.")
    return live


def _set(connection: sa.Connection, row: dict[str, Any], state: State, reason: str) -> None:
    values = {
        "state": state, "reason": reason, "state_since": clock.now().replace(microsecond=0),
        "state_version": certificates.c.state_version + 1,
    }  # fmt: skip
    connection.execute(certificates.update().where(certificates.c.id == row["id"]).values(**values))


def _refuse(connection: sa.Connection, row: dict[str, Any], reason: str) -> None:
    trust.refuse_certificate(
        connection,
        keys=_keys(row),
        device_id=row["device_id"],
        reason=reason,
        until=row["not_after"],
    )


def _keys(row: dict[str, Any]) -> trust.CertificateKeys:
    return trust.CertificateKeys.of(x509.load_der_x509_certificate(row["certificate"]))


def _publish(rt: Runtime, connection: sa.Connection, changed: list[str]) -> None:
    """Count the change and make the next CRL due; a key per revision, so that no change hides behind a running job."""
    if not changed:
        return
    bump = revisions.update().where(revisions.c.id == 1).values(revision=revisions.c.revision + 1)
    if connection.execute(bump).rowcount == 0 and not insert_ignore(
        connection, revisions, {"id": 1, "revision": 1}, index=("id",)
    ):
        connection.execute(bump)
    number = revision(connection)
    jobs.enqueue(connection, "pki.crl", {"revision": number}, key=f"pki.crl:{number}")
    after_commit(connection, rt.wake)
