"""From a signer's answer to a certificate row: the part that enrolment, the doors and the services share."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lachan import clock
from lachan.events import CertificateIssued
from lachan.identity import Principal, system
from lachan.ids import new_id
from lachan.runtime import Runtime
from lachan.statements import Statement, pipeline
from lachan.work import outbox
from pki import authorities, unrecorded
from pki.authorities import OCSP_RESPONDER, Authority
from pki.errors import AuthorityMissing
from pki.models import authorities as authority_rows
from pki.models import certificates
from pki.profiles import Names, Profile, load
from pki.standing import Signed
from pki.states import CertificateState

Call = tuple[Statement, Mapping[str, Any]]
INSERT = Statement(
    certificates.insert(),
    columns=(
        "id", "authority", "serial_number", "device_id", "profile", "subject", "fingerprint", "spki_sha256", "certificate",
        "not_before", "not_after", "state", "state_since", "issued_at",
    ),
)  # fmt: skip
_REGISTERED = Statement(sa.select(certificates).where(certificates.c.fingerprint == sa.bindparam("fingerprint")))
RENEW_BEFORE = 3  # a service's certificate is renewed in the last third of its life


@dataclass(frozen=True)
class Issued:
    """A certificate row that was just written (or found again).

    Attributes:
        id: the row's.
        content: the certificate, DER.
        authority: the name of its issuer.
    """

    id: str
    content: bytes
    authority: str

    @cached_property
    def certificate(self) -> x509.Certificate:
        """Itself, parsed."""
        return x509.load_der_x509_certificate(self.content)


@dataclass(frozen=True)
class Prepared:
    """A certificate that the signer made, and the statements that record it.

    Attributes:
        issued: what stands in the books once they ran.
        calls: the row's and the fact's.
        signed: what the signer made for whom.
    """

    issued: Issued
    calls: tuple[Call, ...]
    signed: Signed


def prepare(
    answer: dict[str, Any],
    *,
    dialect: str,
    profile: str,
    device_id: str | None,
    actor: Principal,
    vendor: str | None = None,
    spki_sha256: str | None = None,
) -> Prepared:
    """Make ready what records a certificate and `CertificateIssued`, outside of the transaction that will.

    Args:
        answer: of the signer's ``issue``.
        dialect: of the database.
        profile: the profile's name.
        device_id: whose it is; None for a door or a service.
        actor: who asked for it.
        vendor: the device's.
        spki_sha256: of its key, if the caller knows it.
    """
    issued = Issued(new_id(), answer["certificate"], answer["authority"])
    row = _row(issued, spki_sha256)
    row |= {"subject": answer["subject"][:300], "device_id": device_id, "profile": profile}
    event = CertificateIssued(
        device_id=device_id,
        serial_number=row["serial_number"],
        fingerprint=row["fingerprint"],
        profile=profile,
        not_after=clock.iso(row["not_after"]),
    )
    _, told = outbox.calls(event, actor=actor, vendor=vendor, dialect=dialect)
    locks = dialect == "postgresql"
    signed = Signed(device_id or "", row["authority"], row["serial_number"], locks=locks)
    return Prepared(issued, ((INSERT, row), *told), signed)


def record(
    connection: sa.Connection, answer: dict[str, Any], *, profile: str, device_id: str | None, actor: Principal
) -> Issued:
    """Record a certificate in the caller's transaction; arguments as of `prepare`."""
    prepared = prepare(
        answer, dialect=connection.dialect.name, profile=profile, device_id=device_id, actor=actor,
        vendor=outbox.vendor_of(connection, device_id),
    )  # fmt: skip
    if device_id is None:
        unrecorded.refuse_closed(
            connection, authority=prepared.signed.authority, serial_number=prepared.signed.serial_number
        )
    pipeline(connection, prepared.calls)
    return prepared.issued


def registered(connection: sa.Connection, certificate: bytes, *, device_id: str) -> Any | None:
    """Find the row of a certificate that somebody shows; its presence, not its absence, is what admits.

    Args:
        connection: an open connection.
        certificate: DER, as it was shown.
        device_id: whose it must be.

    Returns:
        The row of exactly these bytes, in whatever state; None for anything else that our key may have signed, such as
        a copy with another encoding of the same ECDSA signature, or a certificate that was signed and not recorded.
    """
    row = _REGISTERED.first(connection, fingerprint=hashlib.sha256(certificate).hexdigest())
    return row if row is not None and row.certificate == certificate and row.device_id == device_id else None


def _row(issued: Issued, spki_sha256: str | None) -> dict[str, Any]:
    certificate = issued.certificate
    if spki_sha256 is None:
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        spki_sha256 = hashlib.sha256(spki).hexdigest()
    now = clock.now()
    return {
        "id": issued.id,
        "authority": issued.authority,
        "serial_number": f"{certificate.serial_number:x}",
        "fingerprint": hashlib.sha256(issued.content).hexdigest(),
        "spki_sha256": spki_sha256,
        "certificate": issued.content,
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
        "state": CertificateState.VALID,
        "state_since": now,
        "issued_at": now,
    }


def record_service(connection: sa.Connection, name: str, certificate: x509.Certificate) -> None:
    """Make a service's certificate the present one, in the caller's transaction."""
    where = authority_rows.c.name == name
    values = {"certificate": certificate.public_bytes(Encoding.DER), "created_at": clock.now()}
    if connection.execute(authority_rows.update().where(where).values(**values)).rowcount == 0:
        connection.execute(authority_rows.insert().values(name=name, **values))


def renew_services(rt: Runtime) -> None:
    """Renew the certificates of OCSP responders and firmware signer in the last third of their life."""
    for authority, profile in services(authorities.every(rt.db)):
        name = authority.service(profile.name)
        if not _is_worn(rt, name):
            continue
        answer = rt.signer.request("issue", profile=profile.name, authority=authority.name)
        rt.db.run(functools.partial(_record_renewal, answer=answer, profile=profile.name, name=name))


def _is_worn(rt: Runtime, name: str) -> bool:
    """Whether a service's certificate is in its last third, not valid yet, or was never made (the making of its authority broke off)."""
    try:
        present = authorities.service_certificate(rt.db, name)
    except AuthorityMissing:
        return True
    life, now = present.not_valid_after_utc - present.not_valid_before_utc, clock.now()
    return now < present.not_valid_before_utc or present.not_valid_after_utc - now <= life / RENEW_BEFORE


def services(found: tuple[Authority, ...]) -> Iterator[tuple[Authority, Profile]]:
    """Which authority certifies which of our services: OCSP responders every one, the others the first line's newest."""
    for authority in found:
        for profile in load().values():
            if profile.names is Names.SERVICE and (
                profile.name == OCSP_RESPONDER or authority == authorities.current(found, profile.authority)
            ):
                yield authority, profile


def _record_renewal(connection: sa.Connection, *, answer: dict[str, Any], profile: str, name: str) -> None:
    issued = record(connection, answer, profile=profile, device_id=None, actor=system("pki"))
    record_service(connection, name, issued.certificate)
