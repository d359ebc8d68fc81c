"""Suspend, release, revoke: the state of certificates, with everything that must know it in the same transaction.

A change writes the row with its authority's next revision, the fact, the doors' refusal list (`lachan.trust`) and a due
job for the next CRL; OCSP reads the row. A hold belongs to whoever made it (`Holder`), so that lifting a containment leaves a person's suspension alone and the
other way round. Limits: a revoked certificate never comes back; ``removeFromCRL`` exists in delta CRLs only (RFC 5280
5.3.1), in a full CRL a released certificate is simply absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from lachan import clock, devices, trust
from lachan.database import after_commit, insert_ignore
from lachan.events import CertificateReleased, CertificateRevoked, CertificateSuspended
from lachan.identity import Principal
from lachan.runtime import Runtime
from lachan.statements import Statement, among, insert_new, later, listed, pipeline
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
    rows, since = live(connection, principal, device_id, serial_number), clock.now()
    mine = {"holder": str(holder), "reason": reason[:200], "by": principal.label, "since": since}
    done = pipeline(connection, [(_HOLD, {**mine, "certificate_id": row.id}) for row in rows])
    changed = [row for row, each in zip(rows, done, strict=True) if each.count]
    in_force = [row for row in changed if row.state == CertificateState.VALID]
    _set(rt, connection, in_force, CertificateState.HELD, "certificate_hold")
    _refuse(connection, in_force, "suspended")
    for row in changed:
        event = CertificateSuspended(device_id=device_id, serial_number=row.serial_number, reason=reason)
        append(connection, event, actor=principal, vendor=row.vendor)
    return [row.serial_number for row in changed]


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
    rows = live(connection, principal, device_id, serial_number)
    lifts = [(_LIFT, {"certificate_id_": row.id, "holder_": str(holder)}) for row in rows]
    mine = {"certificates": listed(connection.dialect.name, [row.id for row in rows])}
    *done, left = pipeline(connection, [*lifts, (_HELD, mine)])
    still = {each.certificate_id for each in left.rows}
    changed = [row for row, each in zip(rows, done, strict=True) if each.count]
    if not changed and still and holder is Holder.REQUEST:
        raise HeldByContainment("Only a containment holds the certificates of this device.")
    free = [row for row in changed if row.id not in still]
    _set(rt, connection, free, CertificateState.VALID, "")
    for row in free:
        trust.accept_certificate(connection, keys=_keys(row), device_id=device_id)
    for row in changed:
        event = CertificateReleased(device_id=device_id, serial_number=row.serial_number, reason=reason)
        append(connection, event, actor=principal, vendor=row.vendor)
    return [row.serial_number for row in changed]


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
    return withdraw(rt, connection, principal, live(connection, principal, device_id, serial_number), reason)


def withdraw(
    rt: Runtime, connection: sa.Connection, principal: Principal, rows: Sequence[Any], reason: Reason
) -> list[str]:
    """Revoke some of the rows that `live` gave in this transaction; gives their serial numbers (hex)."""
    later(connection, [(_LIFT_ALL, {"certificate_id_": row.id}) for row in rows])
    _set(rt, connection, rows, CertificateState.REVOKED, str(reason))
    _refuse(connection, rows, "superseded" if reason is Reason.SUPERSEDED else "revoked")
    for row in rows:
        event = CertificateRevoked(device_id=row.device_id, serial_number=row.serial_number, reason=str(reason))
        append(connection, event, actor=principal, vendor=row.vendor)
    return [row.serial_number for row in rows]


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
    _count_change(rt, connection, authority)
    return True


def is_closed(connection: sa.Connection, *, authority: str, serial_number: str) -> bool:
    """Whether `close_unrecorded` was there first: then a certificate of that serial number must not be recorded."""
    mine = sa.and_(unrecorded.c.serial_number == serial_number, unrecorded.c.authority == authority)
    return connection.execute(sa.select(unrecorded.c.since).where(mine)).first() is not None


def revision(connection: sa.Connection, authority: str) -> int:
    """How many times certificates of an authority changed their state; 0 at first."""
    mine = revisions.c.authority == authority
    return connection.execute(sa.select(revisions.c.revision).where(mine)).scalar() or 0


def _count_change(rt: Runtime, connection: sa.Connection, authority: str) -> int:
    """Count a change of state of an authority's certificates, make its next CRL due, and give the count: the revision.

    The counter's row stays locked until the commit, so revisions become visible in their order.
    """
    number: int = _COUNT.scalar(connection, authority=authority)
    jobs.enqueue(connection, "pki.crl", {"authority": authority, "revision": number})
    after_commit(connection, rt.wake)
    return number


def live(
    connection: sa.Connection, principal: Principal, device_id: str, serial_number: str | None = None
) -> list[Any]:
    """Lock a device and give the device's certificates that are neither expired nor revoked, in the order every writer uses.

    The device's lock comes first everywhere and is enough: whoever changes the state of a certificate holds it.
    """
    mine = (_OF_DEVICE, {"device_id_": device_id, "now_": clock.now()})
    _, (found,) = devices.locked_and(connection, device_id, [mine], principal=principal)
    named = serial_number and serial_number.lower().lstrip("0")
    rows = [row for row in found.rows if named is None or row.serial_number == named]
    standing = [row for row in rows if row.state != CertificateState.REVOKED]
    if serial_number is not None and not rows:
        raise NoCertificate(f"The device has no certificate {serial_number} in its validity.")
    if serial_number is not None and not standing:
        raise RevokedForGood(f"Certificate {serial_number} is revoked.")
    return standing


def _set(rt: Runtime, connection: sa.Connection, rows: Sequence[Any], state: CertificateState, reason: str) -> None:
    """Give certificates a state, and their authorities' changes a number each."""
    since = clock.now().replace(microsecond=0)
    for authority in sorted({row.authority for row in rows}):
        mine = [row.id for row in rows if row.authority == authority]
        values = {
            "certificates": listed(connection.dialect.name, mine), "state_": str(state), "reason_": reason,
            "since_": since, "revision_": _count_change(rt, connection, authority),
        }  # fmt: skip
        later(connection, [(_SET, values)])


def _refuse(connection: sa.Connection, rows: Iterable[Any], reason: str) -> None:
    for row in rows:
        trust.refuse_certificate(
            connection, keys=_keys(row), device_id=row.device_id, reason=reason, until=row.not_after
        )  # fmt: skip


def _keys(row: Any) -> trust.CertificateKeys:
    return trust.CertificateKeys.of(x509.load_der_x509_certificate(row.certificate))


_C, _D = certificates.c, devices.devices.c
_OF_DEVICE = Statement(
    sa.select(certificates, _D.vendor)
    .join(devices.devices, _D.id == _C.device_id)
    .where(_C.device_id == sa.bindparam("device_id_"), _C.not_after > sa.bindparam("now_", type_=_C.not_after.type))
    .order_by(_C.id)
)
_HOLD = insert_new(holds, *holds.c.keys(), index=("certificate_id", "holder"))
_LIFT = Statement(
    holds.delete().where(
        holds.c.certificate_id == sa.bindparam("certificate_id_"), holds.c.holder == sa.bindparam("holder_")
    )
)
_LIFT_ALL = Statement(holds.delete().where(holds.c.certificate_id == sa.bindparam("certificate_id_")))
_HELD = Statement(
    lambda dialect: sa.select(holds.c.certificate_id).where(among(dialect, holds.c.certificate_id, "certificates"))
)
_SET = Statement(
    lambda dialect: (
        certificates.update()
        .where(among(dialect, _C.id, "certificates"))
        .values(
            state=sa.bindparam("state_"), reason=sa.bindparam("reason_"), revision=sa.bindparam("revision_"),
            state_since=sa.bindparam("since_"), state_version=_C.state_version + 1,
        )
    )
)  # fmt: skip


def _count(dialect: str) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    first = insert(revisions).values(revision=1)
    more = first.on_conflict_do_update(index_elements=["authority"], set_={"revision": revisions.c.revision + 1})
    return more.returning(revisions.c.revision)


_COUNT = Statement(_count, columns=("authority",))
