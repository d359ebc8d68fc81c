"""Suspend, release, revoke: the state of certificates, with everything that must know it in the same transaction.

A change writes the row with its authority's next revision, the fact, the doors' refusal list (`lachan.trust`) and a due
job for the next CRL; OCSP reads the row. A hold belongs to whoever made it (`Holder`), so that lifting a containment leaves a person's suspension alone and the
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
from pki.models import authorities, certificates, holds, revisions, unrecorded
from pki.states import CertificateState, Holder, Reason


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
    changed, count = [], _Revisions(rt, connection)
    for row in _rows(connection, principal, device_id, serial_number):
        mine = {"certificate_id": row["id"], "holder": holder}
        values = {**mine, "reason": reason[:200], "by": principal.label, "since": clock.now()}
        if not insert_ignore(connection, holds, values, index=("certificate_id", "holder")):
            continue
        if row["state"] == CertificateState.VALID:
            _set(connection, row, CertificateState.HELD, "certificate_hold", count)
            _refuse(connection, row, "suspended")
        event = CertificateSuspended(device_id=device_id, serial_number=row["serial_number"], reason=reason)
        append(connection, event, actor=principal)
        changed.append(row["serial_number"])
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
    changed, others, count = [], 0, _Revisions(rt, connection)
    for row in _rows(connection, principal, device_id, serial_number):
        mine = sa.and_(holds.c.certificate_id == row["id"], holds.c.holder == holder)
        lifted = connection.execute(holds.delete().where(mine)).rowcount
        left = connection.execute(sa.select(holds.c.holder).where(holds.c.certificate_id == row["id"])).first()
        others += left is not None
        if not lifted:
            continue
        if left is None:
            _set(connection, row, CertificateState.VALID, "", count)
            trust.accept_certificate(connection, keys=_keys(row))
        event = CertificateReleased(device_id=device_id, serial_number=row["serial_number"], reason=reason)
        append(connection, event, actor=principal)
        changed.append(row["serial_number"])
    if not changed and others and holder is Holder.REQUEST:
        raise HeldByContainment("Only a containment holds the certificates of this device.")
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
    changed, count = [], _Revisions(rt, connection)
    for row in _rows(connection, principal, device_id, serial_number):
        connection.execute(holds.delete().where(holds.c.certificate_id == row["id"]))
        _set(connection, row, CertificateState.REVOKED, str(reason), count)
        _refuse(connection, row, "revoked")
        event = CertificateRevoked(device_id=device_id, serial_number=row["serial_number"], reason=str(reason))
        append(connection, event, actor=principal)
        changed.append(row["serial_number"])
    return changed


def close_unrecorded(rt: Runtime, connection: sa.Connection, *, authority: str, serial_number: str) -> bool:
    """Revoke a serial number that the signer used and no row records, in the caller's transaction; again is no error.

    From then on CRL and OCSP of the authority call it revoked, and `is_closed` says that it must not be recorded any more.

    Args:
        rt: the installation.
        connection: of a unit of work.
        authority: the name of the authority that signed.
        serial_number: hex, as the signer's log has it.

    Returns:
        Whether this call closed it: not when it was closed before, and not when a certificate of that number is recorded.
    """
    c, serial = certificates.c, serial_number.lower().lstrip("0")
    recorded = sa.select(c.id).where(c.serial_number == serial, c.authority == authority)
    if connection.execute(recorded).first() is not None:
        return False
    found = sa.select(authorities.c.certificate).where(authorities.c.name == authority)
    end = x509.load_der_x509_certificate(connection.execute(found).scalar_one()).not_valid_after_utc
    row = {
        "serial_number": serial, "authority": authority, "since": clock.now().replace(microsecond=0),
        "not_after": end, "reason": str(Reason.CESSATION_OF_OPERATION),
    }  # fmt: skip
    if not insert_ignore(connection, unrecorded, row, index=("serial_number", "authority")):
        return False
    _Revisions(rt, connection).next(authority)
    return True


def is_closed(connection: sa.Connection, *, authority: str, serial_number: str) -> bool:
    """Whether `close_unrecorded` was there first: then a certificate of that serial number must not be recorded."""
    mine = sa.and_(unrecorded.c.serial_number == serial_number, unrecorded.c.authority == authority)
    return connection.execute(sa.select(unrecorded.c.since).where(mine)).first() is not None


def revision(connection: sa.Connection, authority: str) -> int:
    """How many times certificates of an authority changed their state; 0 at first."""
    mine = revisions.c.authority == authority
    return connection.execute(sa.select(revisions.c.revision).where(mine)).scalar() or 0


class _Revisions:
    """Counts one transaction's change of state, once for each authority, and makes the next CRL of it due.

    The counter's row stays locked until the commit, so revisions become visible in their order; the job's key has the
    revision, so that no change hides behind a running job.
    """

    def __init__(self, rt: Runtime, connection: sa.Connection) -> None:
        self._rt, self._connection = rt, connection
        self._numbers: dict[str, int] = {}

    def next(self, authority: str) -> int:
        """Give the revision of this transaction's changes."""
        if authority not in self._numbers:
            self._numbers[authority] = self._count(authority)
        return self._numbers[authority]

    def _count(self, authority: str) -> int:
        connection, mine = self._connection, revisions.c.authority == authority
        bump = revisions.update().where(mine).values(revision=revisions.c.revision + 1)
        first = {"authority": authority, "revision": 1}
        if connection.execute(bump).rowcount == 0 and not insert_ignore(
            connection, revisions, first, index=("authority",)
        ):
            connection.execute(bump)
        number = revision(connection, authority)
        payload = {"authority": authority, "revision": number}
        jobs.enqueue(connection, "pki.crl", payload, key=f"pki.crl:{authority}:{number}")
        after_commit(connection, self._rt.wake)
        return number


def _rows(
    connection: sa.Connection, principal: Principal, device_id: str, serial_number: str | None
) -> Iterable[dict[str, Any]]:
    """Give the device's certificates that are neither expired nor revoked, locked in the order every writer uses."""
    devices.get(connection, device_id, principal=principal)
    devices.lock(connection, [device_id])  # comes first everywhere, so that racing writers cannot deadlock
    c = certificates.c
    query = sa.select(certificates).where(c.device_id == device_id, c.not_after > clock.now()).order_by(c.id)
    if serial_number is not None:
        query = query.where(c.serial_number == serial_number.lower().lstrip("0"))
    rows = [dict(row) for row in connection.execute(for_update(query, connection)).mappings()]
    live = [row for row in rows if row["state"] != CertificateState.REVOKED]
    if serial_number is not None and not rows:
        raise NoCertificate(f"The device has no certificate {serial_number} in its validity.")
    if serial_number is not None and not live:
        raise RevokedForGood(f"Certificate {serial_number} is revoked.")
    return live


def _set(
    connection: sa.Connection, row: dict[str, Any], state: CertificateState, reason: str, count: _Revisions
) -> None:
    values = {
        "state": state, "reason": reason, "state_since": clock.now().replace(microsecond=0),
        "state_version": certificates.c.state_version + 1, "revision": count.next(row["authority"]),
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
