"""Enrolment and renewal: who may have which certificate now (RFC 7030 4.2.1 and 4.2.2).

Steps of `enrol`: 1. read the request and verify its proof of possession; 2. failures left? 3. in one transaction: the
device's secret, the trust decision, the request's claims, the signer, the row, the secret consumed, `CertificateIssued`.
A refusal is rolled back and then recorded in a transaction of its own. The same key asking again within ten minutes gets
the same certificate, so that a lost answer does not brick a device. Limits: the transaction waits for the signer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lachan import clock, devices, trust
from lachan.database import after_commit
from lachan.errors import LachanError, NotFound
from lachan.events import EnrolmentRefused
from lachan.identity import Principal, PrincipalKind, Role
from lachan.runtime import Runtime
from lachan.work import outbox
from pki import attempts, secrets
from pki.authorities import issuer_of
from pki.csr import Csr, check_binding, check_claims, check_key, check_unchanged, read
from pki.errors import (
    CertificateNotCurrent,
    CertificatesSuspended,
    DeviceContained,
    DeviceRetired,
    KeyInUse,
    KeyUnfit,
    SecretForOtherProfile,
    SecretRefused,
    TooManyRenewals,
)
from pki.issuing import Issued, record, registered
from pki.models import certificates
from pki.names import LABEL
from pki.profiles import get
from pki.settings import PkiSettings
from pki.states import Reason, State

AGAIN = timedelta(minutes=10)
RENEWALS, RENEWAL_WINDOW = 20, timedelta(hours=1)  # of one device; each costs a signature, a row and a fact for ever
REFUSALS_TOLD = 10  # facts about refusals per device and window; a flood must not fill the ledger


@dataclass(frozen=True)
class Enrolled:
    """What a device gets: its certificate, and the issuing authority's above it."""

    device_id: str
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]


def enrol(
    rt: Runtime,
    *,
    device_name: str,
    secret: str,
    csr_der: bytes,
    source: str,
    profile: str | None = None,
    bindings: tuple[bytes, ...] = (),
) -> Enrolled:
    """Exchange a one-time secret for a certificate (RFC 7030 4.2.1).

    Args:
        rt: the installation.
        device_name, secret: registered name and its one-time secret.
        csr_der: PKCS#10 request.
        source: address of the caller, for counting failures.
        profile: what the caller names; by default the secret's.
        bindings: channel bindings of the TLS connection; challengePassword is verified against them.

    Raises:
        CsrMalformed: the request is unusable, or its proof of possession wrong (`ProofMismatch`, `KeyUnfit`).
        SecretRefused: name or secret unknown, expired or used by another key; `TooManyAttempts` after too many of those.
        SecretForOtherProfile, DeviceContained, DeviceRetired, IdentityMismatch, KeyInUse, SignerRefused,
            SignerUnavailable: as their names say.
    """
    csr = read(csr_der)
    check_binding(csr, bindings=bindings)
    who = _counted(device_name, source)
    device = _known(rt, device_name, who)
    try:
        if device is None:
            raise SecretRefused
        with rt.db.write() as connection:
            issued = _exchange(rt, connection, device.id, secret, csr, profile)
    except LachanError as error:
        _record_refusal(rt, device.id if device else None, error, who if isinstance(error, SecretRefused) else [])
        raise
    return Enrolled(device.id, issued.certificate, (issuer_of(rt.db, issued.certificate).certificate,))


def reenrol(
    rt: Runtime,
    *,
    device_id: str,
    certificate: x509.Certificate,
    csr_der: bytes,
    profile: str | None = None,
    bindings: tuple[bytes, ...] = (),
) -> Enrolled:
    """Renew or rekey with the present certificate (RFC 7030 4.2.2); the identity stays.

    Args:
        rt: the installation.
        device_id: of the device that the door verified.
        certificate: the one it showed.
        csr_der: PKCS#10 request, with the same or a new key.
        profile: the profile that the caller names; it must be the certificate's.
        bindings: channel bindings of the TLS connection.

    Raises:
        CsrMalformed: as in `enrol`.
        CertificateNotCurrent: the certificate is not this device's, not in force, or of another profile.
        DeviceContained, DeviceRetired, KeyInUse, SignerRefused, SignerUnavailable: as in `enrol`.
        TooManyRenewals: it has renewed `RENEWALS` times within `RENEWAL_WINDOW`.
        IdentityMismatch: subject or subjectAltName are not those of the certificate.
    """
    csr = read(csr_der)
    check_binding(csr, bindings=bindings)
    try:
        with rt.db.write() as connection:
            device = _admitted(rt, connection, device_id)
            row = _current(connection, device_id, certificate)
            if profile is not None and profile != row.profile:
                raise CertificateNotCurrent(f"The certificate shown is of the profile {row.profile}, not {profile}.")
            check_unchanged(csr, certificate)
            issued = _again(connection, csr, row) or _renew(rt, connection, device, row.profile, csr)
    except LachanError as error:
        _record_refusal(rt, device_id, error, [])
        raise
    return Enrolled(device_id, issued.certificate, (issuer_of(rt.db, issued.certificate).certificate,))


def _counted(name: str, source: str) -> list[str]:
    """Whose failures count; names are hashed, since unknown ones count too and tell nobody that they are unknown."""
    return [f"address:{source}"[:120], f"name:{hashlib.sha256(name.encode()).hexdigest()}"]


def _known(rt: Runtime, name: str, who: list[str]) -> devices.Device | None:
    limits = (PkiSettings.of(rt.settings).pki_failures_address, PkiSettings.of(rt.settings).pki_failures_device)
    with rt.db.read() as connection:
        attempts.check(connection, dict(zip(who, limits, strict=True)))
        try:
            return devices.by_name(connection, name) if LABEL.fullmatch(name) else None
        except NotFound:
            return None


def _exchange(
    rt: Runtime, connection: sa.Connection, device_id: str, secret: str, csr: Csr, profile: str | None
) -> Issued:
    _order_against_containment(connection, device_id)
    row: Any = secrets.find(rt, connection, device_id, secret)
    if row is None:
        raise SecretRefused
    before = _same_answer(connection, row, csr) if row.consumed_at else None
    if before is None and (row.consumed_at or row.expires_at <= clock.now()):
        raise SecretRefused
    device = _admitted(rt, connection, device_id)
    if profile is not None and profile != row.profile:
        raise SecretForOtherProfile(f"This secret is for the profile {row.profile}.")
    if before is not None:
        return before
    _refuse_suspended(connection, device)
    check_claims(csr, device, domain=PkiSettings.of(rt.settings).pki_device_domain)
    issued = _issue(rt, connection, device, row.profile, csr)
    if not secrets.consume(connection, row.id, issued.id):
        raise SecretRefused
    attempts.forget(connection, _counted(device.name, "")[1])
    first = sa.and_(devices.devices.c.id == device_id, devices.devices.c.state == devices.State.REGISTERED)
    connection.execute(devices.devices.update().where(first).values(state=devices.State.ENROLLED))
    return issued


def _refuse_suspended(connection: sa.Connection, device: devices.Device) -> None:
    """A person's suspension is not escaped with a secret that is still about."""
    c = certificates.c
    query = sa.select(c.state).where(c.device_id == device.id, c.not_after > clock.now(), c.state != State.REVOKED)
    states = set(connection.execute(query).scalars())
    if states == {State.HELD}:
        raise CertificatesSuspended(f"All certificates of {device.name} are suspended.")


def _issue(rt: Runtime, connection: sa.Connection, device: devices.Device, profile: str, csr: Csr) -> Issued:
    check_key(csr.spki, allowed=get(profile).keys)
    c = certificates.c
    query = sa.select(c.device_id, c.state, c.reason).where(c.spki_sha256 == csr.spki_sha256)
    for row in connection.execute(query):
        if row.device_id != device.id:
            raise KeyInUse("Another device has a certificate for this key.")
        if row.state == State.REVOKED and row.reason == Reason.KEY_COMPROMISE:
            raise KeyUnfit("A certificate for this key was revoked because the key is compromised.")
    answer = rt.signer.request("issue", profile=profile, device_id=device.id, spki=csr.spki)
    issued = record(connection, answer, profile=profile, device_id=device.id, actor=_as_principal(device))
    after_commit(connection, rt.wake)
    return issued


def _renew(rt: Runtime, connection: sa.Connection, device: devices.Device, profile: str, csr: Csr) -> Issued:
    """Issue, unless this one device keeps the signer and the ledger busy."""
    c = certificates.c
    recent = sa.select(sa.func.count(), sa.func.min(c.issued_at)).where(
        c.device_id == device.id, c.issued_at > clock.now() - RENEWAL_WINDOW
    )
    count, oldest = connection.execute(recent).one()
    if count >= RENEWALS:
        wait = (oldest + RENEWAL_WINDOW - clock.now()).total_seconds()
        raise TooManyRenewals(f"{device.name} has {count} certificates of this hour.", retry_after=max(1, round(wait)))
    return _issue(rt, connection, device, profile, csr)


def _admitted(rt: Runtime, connection: sa.Connection, device_id: str) -> devices.Device:
    """The device, if registry and trust let it have a certificate; both are read inside the issuing transaction."""
    _order_against_containment(connection, device_id)
    device = devices.get(connection, device_id)
    if device.state is devices.State.RETIRED:
        raise DeviceRetired(f"{device.name} is retired.")
    decision = trust.decision(connection, device_id)
    if decision.answer.rank >= trust.Answer.QUARANTINE.rank:
        reasons = ", ".join(signal.reason for signal in decision.reasons)
        raise DeviceContained(f"{device.name} is contained ({decision.answer}: {reasons}).")
    return device


def _order_against_containment(connection: sa.Connection, device_id: str) -> None:
    """Lock the device's row as a containment of it does: it is either seen here or waits until we have committed."""
    devices.lock(connection, [device_id])


def _current(connection: sa.Connection, device_id: str, certificate: x509.Certificate) -> Any:
    row = registered(connection, certificate.public_bytes(Encoding.DER), device_id=device_id, lock=True)
    if row is None or row.state != State.VALID:
        raise CertificateNotCurrent(f"The certificate shown is {'unknown' if row is None else row.state}.")
    if not row.not_before <= clock.now() < row.not_after:
        raise CertificateNotCurrent("The certificate shown is outside its validity.")
    return row


def _same_answer(connection: sa.Connection, secret: Any, csr: Csr) -> Issued | None:
    """The certificate that this used-up secret brought, for the same key and within `AGAIN`."""
    if secret.consumed_at <= clock.now() - AGAIN:
        return None
    query = sa.select(certificates).where(certificates.c.id == secret.certificate_id)
    row = connection.execute(query).one()
    if row.spki_sha256 != csr.spki_sha256 or row.state != State.VALID:
        return None
    return Issued(row.id, x509.load_der_x509_certificate(row.certificate))


def _again(connection: sa.Connection, csr: Csr, current: Any) -> Issued | None:
    """A renewal of ``current`` with the same new key within `AGAIN`: its answer was lost, so it is given again."""
    c = certificates.c
    query = sa.select(certificates).where(
        c.device_id == current.device_id, c.spki_sha256 == csr.spki_sha256, c.state == State.VALID,
        c.id > current.id, c.issued_at > clock.now() - AGAIN,
    )  # fmt: skip
    row = connection.execute(query.order_by(c.id.desc())).first()
    return Issued(row.id, x509.load_der_x509_certificate(row.certificate)) if row else None


def _record_refusal(rt: Runtime, device_id: str | None, error: LachanError, guessed: list[str]) -> None:
    """Count wrong secrets and tell of the refusal, unless so many were told of already."""
    if error.status >= 500:
        return
    with rt.db.write() as connection:
        for who in guessed:
            attempts.count(connection, who)
        if attempts.count(connection, f"refused:{device_id or 'unknown'}") <= REFUSALS_TOLD:
            event = EnrolmentRefused(device_id=device_id, reason=error.code, detail=error.detail)
            actor = Principal(kind=PrincipalKind.NOBODY, id="nobody", name="nobody")
            outbox.append(connection, event, actor=actor)


def _as_principal(device: devices.Device) -> Principal:
    roles = frozenset({Role.DEVICE})
    return Principal(
        kind=PrincipalKind.DEVICE, id=device.id, name=device.name, roles=roles, vendor=device.vendor, site=device.site
    )
