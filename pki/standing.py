"""How a device stands that asks for a certificate: one statement that reads all of it, and the judgement.

The same is read twice: before the signer is asked, so that nothing is signed for who may not have it, and inside the unit of
work that records, where it holds. The device's row comes first and is locked on PostgreSQL, as whoever contains a device
locks it: the containment is either seen here or waits until we have committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from lachan import clock, devices, trust
from lachan.database import UtcDateTime
from lachan.scripts import Script
from lachan.statements import Statement
from pki.attempts import WINDOW
from pki.errors import (
    CertificatesSuspended,
    DeviceRetired,
    HolderContained,
    IssueClosed,
    KeyInUse,
    KeyUnfit,
    TooManyCertificates,
    TooManyRenewals,
)
from pki.models import attempts, certificates, secrets, unrecorded
from pki.states import CertificateState, Reason

AGAIN = timedelta(minutes=10)  # in which the same key gets the same certificate: an answer may be lost
RENEWALS, RENEWAL_WINDOW = 20, timedelta(hours=1)  # of one device; each costs a signature, a row and a fact for ever
CERTIFICATES = 100  # of one device, neither expired nor revoked: containing it holds each, in one unit
Row = Any  # a row of `BY_SECRET` or `BY_CERTIFICATE`

_d, _c, _s, _t, _a = devices.devices.c, certificates.c, secrets.c, trust.trust_signals.c, attempts.c
_other = certificates.alias("other")
_o = _other.c


def _moment(name: str) -> sa.BindParameter[Any]:
    return bindparam(name, type_=UtcDateTime)


def _any(*where: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Tell whether another certificate fits."""
    return sa.exists(sa.select(sa.literal(1)).select_from(_other).where(*where).correlate(devices.devices))


def _count(*where: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    """Count the other certificates that fit."""
    counted = sa.select(sa.func.count()).select_from(_other).where(*where)
    return counted.correlate(devices.devices).scalar_subquery()


def _standing() -> list[sa.ColumnElement[Any]]:
    """Tell what both ways of asking must know of the device; ``at`` and ``spki`` are given."""
    against = sa.select(sa.func.count()).select_from(trust.trust_signals).where(_t.device_id == _d.id)
    lasting = (_o.device_id == _d.id, _o.not_after > _moment("at"))
    same_key = _o.spki_sha256 == bindparam("spki")
    compromised = sa.and_(_o.state == CertificateState.REVOKED, _o.reason == Reason.KEY_COMPROMISE)
    return [
        _d.id, _d.name, _d.vendor, _d.serial_number, _d.site, _d.state, _d.address,
        against.correlate(devices.devices).scalar_subquery().label("against"),
        _count(*lasting, _o.state == CertificateState.HELD).label("held"),
        _count(*lasting, _o.state == CertificateState.VALID).label("in_force"),
        _any(same_key, sa.or_(_o.device_id.is_(None), _o.device_id != _d.id)).label("key_of_another"),
        _any(same_key, _o.device_id == _d.id, compromised).label("key_compromised"),
        sa.exists(
            sa.select(sa.literal(1)).select_from(unrecorded).where(
                unrecorded.c.serial_number == bindparam("serial_number"), unrecorded.c.authority == bindparam("authority")
            )
        ).label("closed"),
    ]  # fmt: skip


def _failures(who: str) -> sa.ColumnElement[int]:
    """Failures counted in the present window; ``since`` is given."""
    counted = sa.select(_a.failures).where(_a.who == bindparam(who), _a.window_start > _moment("since"))
    return counted.scalar_subquery().label(who)


LOCK = Statement(sa.select(_d.id).where(_d.id == bindparam("device_id")).with_for_update(key_share=True))

BY_SECRET = Statement(
    sa.select(
        *_standing(),
        _s.id.label("secret_id"), _s.profile, _s.expires_at, _s.consumed_at, _s.certificate_id,
        _failures("by_name"), _failures("by_address"),
    )
    .select_from(
        devices.devices.outerjoin(secrets, sa.and_(_s.digest == bindparam("digest"), _s.device_id == _d.id))
    )
    .where(_d.name == bindparam("device_name"))
)  # fmt: skip

_recent = sa.select(sa.func.count()).select_from(_other).where(_o.device_id == _d.id, _o.issued_at > _moment("hour"))
_again = sa.select(sa.func.max(_o.id)).select_from(_other).where(
    _o.device_id == _d.id, _o.spki_sha256 == bindparam("spki"), _o.state == CertificateState.VALID, _o.id > _c.id,
    _o.issued_at > _moment("since"),
)  # fmt: skip
BY_CERTIFICATE = Statement(
    sa.select(
        *_standing(),
        _c.id.label("shown_id"), _c.state.label("shown_state"), _c.profile, _c.not_before, _c.not_after,
        _c.certificate.label("shown"),
        _recent.correlate(devices.devices).scalar_subquery().label("recent"),
        _again.correlate(devices.devices, certificates).scalar_subquery().label("again"),
    )
    .select_from(devices.devices.outerjoin(
        certificates, sa.and_(_c.fingerprint == bindparam("fingerprint"), _c.device_id == _d.id)
    ))
    .where(_d.id == bindparam("device_id"))
)  # fmt: skip

_CERTIFICATE = Statement(
    sa.select(_c.certificate, _c.authority, _c.spki_sha256, _c.state).where(_c.id == bindparam("id"))
)
_OLDEST = Statement(
    sa.select(sa.func.min(_c.issued_at)).where(_c.device_id == bindparam("device_id"), _c.issued_at > _moment("hour"))
)


@dataclass(frozen=True)
class Signed:
    """What the signer made for whom; with it a reading is of the unit that records.

    Attributes:
        device_id, authority, serial_number: as their names say.
        locks: whether the device's row is locked first (PostgreSQL).
    """

    device_id: str
    authority: str
    serial_number: str
    locks: bool


_NOTHING = Signed("", "", "", locks=False)


def by_secret(signed: Signed | None, **given: Any) -> Script[Row | None]:
    """Read how somebody stands who names a device and shows a secret.

    Args:
        signed: in the unit that records: what the signer made.
        given: ``device_name``, ``digest``, ``spki`` (SHA-256, hex), ``by_name`` and ``by_address`` (`attempts`).

    Returns:
        The row, without a secret if it is not the device's; None if there is no such device.
    """
    now = clock.now()
    return _read(BY_SECRET, signed, {**given, "at": now, "since": now - WINDOW})


def by_certificate(signed: Signed | None, **given: Any) -> Script[Row | None]:
    """Read how a device stands that shows a certificate.

    Args:
        signed: as in `by_secret`.
        given: ``device_id``, ``fingerprint``, ``spki`` (both SHA-256, hex).
    """
    now = clock.now()
    moments = {"at": now, "since": now - AGAIN, "hour": now - RENEWAL_WINDOW}
    return _read(BY_CERTIFICATE, signed, {**given, **moments})


def _read(statement: Statement, signed: Signed | None, given: dict[str, Any]) -> Script[Row | None]:
    made = signed or _NOTHING
    given |= {"authority": made.authority, "serial_number": made.serial_number}
    calls = [(statement, given)]
    if made.locks:
        calls.insert(0, (LOCK, {"device_id": made.device_id}))
    rows = (yield calls)[-1].rows
    return rows[0] if rows else None


def certificate(certificate_id: str) -> Script[Row]:
    """Read the certificate (DER), authority, key hash and state of a row."""
    (found,) = yield [(_CERTIFICATE, {"id": certificate_id})]
    return found.rows[0]


def admit(row: Row) -> Script[None]:
    """Let pass a device that registry and trust let have a certificate.

    Raises:
        DeviceRetired, HolderContained: as their names say.
    """
    if row.state == devices.DeviceState.RETIRED:
        raise DeviceRetired(f"{row.name} is retired.")
    if not row.against:
        return
    (found,) = yield [trust.signals_of(row.id)]
    decision = trust.decided(row.id, found)
    if decision.answer.rank >= trust.Answer.QUARANTINE.rank:
        reasons = ", ".join(signal.reason for signal in decision.reasons)
        raise HolderContained(f"{row.name} is contained ({decision.answer}: {reasons}).")


def refuse_closed(row: Row) -> None:
    """Keep a certificate that came too late from being recorded.

    Raises:
        IssueClosed: its serial number was revoked before (`pki.unrecorded`).
    """
    if row.closed:
        raise IssueClosed


def refuse_suspended(row: Row) -> None:
    """Keep a person's suspension from being escaped with a secret that is still about.

    Raises:
        CertificatesSuspended: the device has certificates, and all of them are on hold.
    """
    if row.held and not row.in_force:
        raise CertificatesSuspended(f"All certificates of {row.name} are suspended.")


def refuse_used_key(row: Row) -> None:
    """Keep a key to one device, and a compromised one to nobody.

    Raises:
        KeyInUse: another device has a certificate for it.
        KeyUnfit: one was revoked because the key is compromised.
    """
    if row.key_of_another:
        raise KeyInUse("Another device has a certificate for this key.")
    if row.key_compromised:
        raise KeyUnfit("A certificate for this key was revoked because the key is compromised.")


def refuse_full(row: Row) -> None:
    """Keep what a containment must hold, and what a CRL must then list, within bounds for each device.

    Raises:
        TooManyCertificates: it has `CERTIFICATES` that are neither expired nor revoked.
    """
    if row.held + row.in_force >= CERTIFICATES:
        raise TooManyCertificates(f"{row.name} has {row.held + row.in_force} certificates that have not expired.")


def refuse_too_many(row: Row) -> Script[None]:
    """Keep one device from keeping signer and ledger busy.

    Raises:
        TooManyRenewals: it has had `RENEWALS` certificates within `RENEWAL_WINDOW`; ``retry_after`` in seconds.
    """
    if row.recent < RENEWALS:
        return
    now = clock.now()
    (found,) = yield [(_OLDEST, {"device_id": row.id, "hour": now - RENEWAL_WINDOW})]
    oldest = found.rows[0][0] or now
    wait = (oldest + RENEWAL_WINDOW - now).total_seconds()
    raise TooManyRenewals(f"{row.name} has {row.recent} certificates of this hour.", retry_after=max(1, round(wait)))
