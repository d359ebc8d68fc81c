"""Enrolment and renewal: who may have which certificate now (RFC 7030 4.2.1 and 4.2.2).

Steps (`pki.steps`): 1. read the request and verify its proof of possession; 2. look: failures left, the device's secret or
its present certificate, the trust decision, the request's claims; 3. hold the device, so that one issue is in flight;
4. have the signer make the certificate, outside of any transaction; 5. record: one unit of work that looks and judges again,
then writes the row, the secret's end and `CertificateIssued`. A refusal is recorded in a unit of its own. The same key asking
again within ten minutes gets the same certificate, so that a lost answer does not brick a device. Limits: what a crash leaves
between 4 and 5 is closed by `pki.unrecorded`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lachan import clock, devices
from lachan.errors import LachanError, NotFound
from lachan.events import EnrolmentRefused
from lachan.identity import Principal, PrincipalKind, Role
from lachan.identity.principal import NOBODY
from lachan.identity.secrets import hashed
from lachan.runtime import Runtime
from lachan.scripts import Last, Script
from lachan.statements import Statement, missed
from lachan.work import outbox
from pki import attempts, authorities, secrets, standing
from pki.csr import Csr, check_binding, check_claims, check_unchanged, read
from pki.errors import CertificateNotCurrent, SecretForOtherProfile, SecretRefused, TooManyAttempts
from pki.issuing import Call, Issued, Prepared, prepare
from pki.names import LABEL
from pki.profiles import get
from pki.settings import PkiSettings
from pki.states import CertificateState
from pki.steps import Blocking, Boundary, Steps, walk

ALONE = 2  # statements of a certificate and a fact that nobody handles; more of them make work due
REFUSALS_TOLD = 10  # facts about refusals per device and window; a flood must not fill the ledger


@dataclass(frozen=True)
class Enrolled:
    """What a device gets: its certificate (DER), and the issuing authority's above it."""

    device_id: str
    content: bytes
    chain: tuple[x509.Certificate, ...]

    @cached_property
    def certificate(self) -> x509.Certificate:
        """What it got, parsed."""
        return x509.load_der_x509_certificate(self.content)


class _Issue(Protocol):
    """One issue: whose word is taken for what, how it is judged, and what it changes besides the certificate."""

    csr: Csr
    device_id: str | None  # as soon as it is known

    def judge(self, signed: standing.Signed | None = None) -> Script[standing.Row | Issued]:
        """Look and judge; give what was found, or a certificate that answers the request already.

        Args:
            signed: in the unit that records: what the signer made.
        """

    def writes(self, found: standing.Row, certificate_id: str) -> tuple[list[Call], list[Call]]:
        """Say what else must change: statements that must each meet one row, and others."""

    def guessed(self, error: LachanError) -> list[str]:
        """Whose failure an error is."""


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
    """Do `enrolling` in the caller's thread; arguments and errors are the same."""
    asked = enrolling(
        rt, Blocking(rt), device_name=device_name, secret=secret, csr_der=csr_der, source=source, profile=profile,
        bindings=bindings,
    )  # fmt: skip
    return walk(asked)


def reenrol(
    rt: Runtime,
    *,
    device_id: str,
    certificate: x509.Certificate,
    csr_der: bytes,
    profile: str | None = None,
    bindings: tuple[bytes, ...] = (),
) -> Enrolled:
    """Do `renewing` in the caller's thread; arguments and errors are the same."""
    asked = renewing(
        rt, Blocking(rt), device_id=device_id, certificate=certificate, csr_der=csr_der, profile=profile,
        bindings=bindings,
    )  # fmt: skip
    return walk(asked)


async def enrolling(
    rt: Runtime,
    steps: Steps,
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
        steps: how to look, sign and record.
        device_name, secret: registered name and its one-time secret.
        csr_der: PKCS#10 request.
        source: address of the caller, for counting failures.
        profile: what the caller names; by default the secret's.
        bindings: channel bindings of the TLS connection; challengePassword is verified against them.

    Raises:
        CsrMalformed: the request is unusable, or its proof of possession wrong (`ProofMismatch`, `KeyUnfit`).
        SecretRefused: name or secret unknown, expired or used by another key; `TooManyAttempts` after too many of those.
        SecretForOtherProfile, HolderContained, DeviceRetired, IdentityMismatch, KeyInUse, TooManyCertificates,
            SignerRefused, SignerUnavailable, IssueUnderWay: as their names say.
    """
    csr = read(csr_der)
    check_binding(csr, bindings=bindings)
    return await _issue(rt, steps, _Exchange(rt, csr, device_name, secret, source, profile))


async def renewing(
    rt: Runtime,
    steps: Steps,
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
        steps: how to look, sign and record.
        device_id: of the device that the door verified.
        certificate: the one it showed.
        csr_der: PKCS#10 request, with the same or a new key.
        profile: the profile that the caller names; it must be the certificate's.
        bindings: channel bindings of the TLS connection.

    Raises:
        CsrMalformed: as in `enrolling`.
        CertificateNotCurrent: the certificate is not this device's, not in force, or of another profile.
        HolderContained, DeviceRetired, KeyInUse, TooManyCertificates, SignerRefused, SignerUnavailable, IssueUnderWay: as in
            `enrolling`.
        TooManyRenewals: it has renewed `standing.RENEWALS` times within `standing.RENEWAL_WINDOW`.
        IdentityMismatch: subject or subjectAltName are not those of the certificate.
    """
    csr = read(csr_der)
    check_binding(csr, bindings=bindings)
    return await _issue(rt, steps, _Renewal(rt, csr, device_id, certificate, profile))


async def _issue(rt: Runtime, steps: Steps, issue: _Issue) -> Enrolled:
    try:
        issued = await _issued(rt, steps, issue)
    except TooManyAttempts:
        raise  # nothing was looked at
    except LachanError as error:
        if error.status < 500:
            await steps.record(partial(_record_refusal, issue.device_id, error, issue.guessed(error)))
        raise
    assert issue.device_id is not None
    return Enrolled(issue.device_id, issued.content, (authorities.get(rt.db, issued.authority).certificate,))


async def _issued(rt: Runtime, steps: Steps, issue: _Issue) -> Issued:
    found = await steps.ask(issue.judge)
    rt.reached(Boundary.LOOKED)
    if isinstance(found, Issued):
        return found
    async with steps.hold(found.id) as waited:
        rt.reached(Boundary.HELD)
        if waited:  # for another issue of this device: what was found may be old
            found = await steps.ask(issue.judge)
            if isinstance(found, Issued):
                return found
        answer = await steps.sign(sender=found.vendor, profile=found.profile, device_id=found.id, spki=issue.csr.spki)
        rt.reached(Boundary.SIGNED)
        prepared = _prepared(rt, answer, found, issue.csr)
        try:
            issued = await steps.tell(partial(_record, rt, issue, prepared))
        except sa.exc.DBAPIError as error:
            if missed(error):
                raise SecretRefused from error
            raise
        if len(prepared.calls) > ALONE:
            rt.wake()
        rt.reached(Boundary.RECORDED)
    return issued


def _record(rt: Runtime, issue: _Issue, prepared: Prepared) -> Script[Issued]:
    """Judge again and write, in one unit of work."""
    found = yield from issue.judge(prepared.signed)
    if isinstance(found, Issued):
        return found
    rt.reached(Boundary.RECORDING)
    exact, others = issue.writes(found, prepared.issued.id)
    done = (yield Last([*prepared.calls, *exact, *others]))[len(prepared.calls) :]
    if any(each.count != 1 for each in done[: len(exact)]):
        raise SecretRefused  # on PostgreSQL the statement said so itself (`missed`): COMMIT left with it
    rt.reached(Boundary.WRITTEN)
    return prepared.issued


def _prepared(rt: Runtime, answer: dict[str, Any], found: standing.Row, csr: Csr) -> Prepared:
    device = Principal(
        kind=PrincipalKind.DEVICE, id=found.id, name=found.name, roles=frozenset({Role.DEVICE}), vendor=found.vendor,
        site=found.site,
    )  # fmt: skip
    return prepare(
        answer, dialect=rt.db.dialect, profile=found.profile, device_id=found.id, vendor=found.vendor, actor=device,
        spki_sha256=csr.spki_sha256,
    )  # fmt: skip


def _record_refusal(device_id: str | None, error: LachanError, guessed: list[str], connection: sa.Connection) -> None:
    """Count wrong secrets and tell of the refusal, unless so many were told of already."""
    for who in guessed:
        attempts.count(connection, who)
    if attempts.count(connection, f"refused:{device_id or 'unknown'}") <= REFUSALS_TOLD:
        event = EnrolmentRefused(device_id=device_id, reason=error.code, detail=error.detail)
        outbox.append(connection, event, actor=NOBODY)


class _Exchange:
    """A one-time secret for a certificate."""

    def __init__(self, rt: Runtime, csr: Csr, device_name: str, secret: str, source: str, profile: str | None) -> None:
        self.csr = csr
        self.device_id: str | None = None
        self._rt, self._name, self._profile = rt, device_name, profile
        self._digest = hashed(rt.settings.data, secret)
        self._who = attempts.whose(device_name, source)
        self._named: tuple[Any, ...] | None = None  # what the registry said that the request's names were held against

    def judge(self, signed: standing.Signed | None = None) -> Script[standing.Row | Issued]:
        """Judge secret, device and request."""
        row = yield from self._row(signed)
        if row is None or row.secret_id is None:
            raise SecretRefused
        before = (yield from self._same_answer(row)) if row.consumed_at else None
        if before is None and (row.consumed_at or row.expires_at <= clock.now()):
            raise SecretRefused
        yield from standing.admit(row)
        if self._profile is not None and self._profile != row.profile:
            raise SecretForOtherProfile(f"This secret is for the profile {row.profile}.")
        if before is not None:
            return before
        standing.refuse_suspended(row)
        named = (row.id, row.name, row.serial_number, row.address)
        if named != self._named:  # in the unit it still is, as a rule
            check_claims(self.csr, row, domain=PkiSettings.of(self._rt.settings).pki_device_domain)
            self._named = named
        if signed is None:
            self.csr.check_key(allowed=get(row.profile).keys)
        standing.refuse_full(row)
        standing.refuse_used_key(row)
        standing.refuse_closed(row)
        return row

    def writes(self, found: standing.Row, certificate_id: str) -> tuple[list[Call], list[Call]]:
        """Use the secret up; forget failures; the device is enrolled now."""
        consumed = {"id": found.secret_id, "certificate_id": certificate_id, "now": clock.now()}
        others: list[Call] = []
        if found.by_name is not None:
            others.append((attempts.FORGET, {"who": self._who[1]}))
        if found.state == devices.DeviceState.REGISTERED:
            others.append((_ENROLLED, {"device_id": found.id}))
        return [(secrets.CONSUME, consumed)], others

    def guessed(self, error: LachanError) -> list[str]:
        """Count a wrong secret against name and address."""
        return self._who if isinstance(error, SecretRefused) else []

    def _row(self, signed: standing.Signed | None) -> Script[standing.Row | None]:
        row = None
        if LABEL.fullmatch(self._name):
            row = yield from standing.by_secret(
                signed, device_name=self._name, digest=self._digest,
                spki=self.csr.spki_sha256, by_address=self._who[0], by_name=self._who[1],
            )  # fmt: skip
        settings = PkiSettings.of(self._rt.settings)
        limits = dict(zip(self._who, (settings.pki_failures_address, settings.pki_failures_device), strict=True))
        if signed is None and (row is None or row.by_name is not None or row.by_address is not None):
            yield from attempts.check(limits)
        self.device_id = row.id if row is not None else None
        return row

    def _same_answer(self, row: standing.Row) -> Script[Issued | None]:
        """Give the certificate that this used-up secret brought, for the same key and within `standing.AGAIN`."""
        if row.consumed_at <= clock.now() - standing.AGAIN:
            return None
        found = yield from standing.certificate(row.certificate_id)
        if found.spki_sha256 != self.csr.spki_sha256 or found.state != CertificateState.VALID:
            return None
        return Issued(row.certificate_id, found.certificate, found.authority)


class _Renewal:
    """A present certificate for the next one."""

    def __init__(
        self, rt: Runtime, csr: Csr, device_id: str, certificate: x509.Certificate, profile: str | None
    ) -> None:
        self.csr = csr
        self.device_id: str | None = device_id
        self._certificate, self._profile = certificate, profile
        self._shown = certificate.public_bytes(Encoding.DER)
        self._fingerprint = hashlib.sha256(self._shown).hexdigest()
        self._unchanged = False

    def judge(self, signed: standing.Signed | None = None) -> Script[standing.Row | Issued]:
        """Judge device, certificate and request."""
        row = yield from standing.by_certificate(
            signed, device_id=self.device_id,
            fingerprint=self._fingerprint, spki=self.csr.spki_sha256,
        )  # fmt: skip
        if row is None:
            raise NotFound(f"No device {self.device_id}.")
        yield from standing.admit(row)
        if row.shown_id is None or row.shown != self._shown or row.shown_state != CertificateState.VALID:
            state = row.shown_state if row.shown_id is not None and row.shown == self._shown else "unknown"
            raise CertificateNotCurrent(f"The certificate shown is {state}.")
        if not row.not_before <= clock.now() < row.not_after:
            raise CertificateNotCurrent("The certificate shown is outside its validity.")
        if self._profile is not None and self._profile != row.profile:
            raise CertificateNotCurrent(f"The certificate shown is of the profile {row.profile}, not {self._profile}.")
        if not self._unchanged:  # of two things that do not change themselves
            check_unchanged(self.csr, self._certificate, self._shown)
            self._unchanged = True
        if row.again is not None:  # the answer to the same request was lost, so it is given again
            found = yield from standing.certificate(row.again)
            return Issued(row.again, found.certificate, found.authority)
        yield from standing.refuse_too_many(row)
        if signed is None:
            self.csr.check_key(allowed=get(row.profile).keys)
        standing.refuse_full(row)
        standing.refuse_used_key(row)
        standing.refuse_closed(row)
        return row

    def writes(self, found: standing.Row, certificate_id: str) -> tuple[list[Call], list[Call]]:
        """Change nothing else: the present certificate stays good until its end."""
        return [], []

    def guessed(self, error: LachanError) -> list[str]:
        """Nobody guesses a certificate."""
        return []


_ENROLLED = Statement(
    devices.devices.update()
    .where(devices.devices.c.id == sa.bindparam("device_id"), devices.devices.c.state == devices.DeviceState.REGISTERED)
    .values(state=devices.DeviceState.ENROLLED)
)
