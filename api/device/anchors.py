"""The manufacturers' authorities that the device door believes, each for devices of that manufacturer only.

Steps of `add`: the certificate is an authority's and in its validity → the strict rules that it breaks itself must be among its
exceptions → row, fact, and the doors are told, in one transaction. An exception is for certificates that a manufacturer has in the
field and cannot change; it is named at that anchor, holds under no other, and `described` shows it in ``lachan doctor``.
Limits: whom an authority certified before it is removed is refused from then on; nothing is revoked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from api.device.certificates import Anchor
from api.device.paths import WORDS, StrictRule, broken, extension
from api.models import door_anchors
from lachan import clock, trust
from lachan.database import insert_ignore
from lachan.errors import Conflict, Invalid, NotFound
from lachan.events import AnchorAdded, AnchorRemoved
from lachan.identity import Permission, Principal, require
from lachan.runtime import Runtime
from lachan.work.outbox import append


@dataclass(frozen=True)
class VendorAnchor:
    """A row: the anchor as the door uses it, its fingerprint (SHA-256, hex) and since when it is believed."""

    anchor: Anchor
    fingerprint: str
    added_at: datetime


def every(connection: sa.Connection) -> list[VendorAnchor]:
    """Give all, by fingerprint; an exception of another version is none."""
    rows = connection.execute(sa.select(door_anchors).order_by(door_anchors.c.fingerprint)).all()
    return [
        VendorAnchor(
            Anchor(
                x509.load_der_x509_certificate(row.certificate),
                row.vendor,
                frozenset(WORDS[word] for word in row.exceptions.split() if word in WORDS),
            ),
            row.fingerprint,
            row.added_at,
        )
        for row in rows
    ]


def add(
    connection: sa.Connection,
    principal: Principal,
    *,
    certificate: x509.Certificate,
    vendor: str,
    exceptions: frozenset[StrictRule] = frozenset(),
) -> str:
    """Believe an authority for a manufacturer's devices, in the caller's transaction.

    Returns:
        Its fingerprint, SHA-256 in hex.

    Raises:
        Forbidden: the principal is no administrator.
        Invalid: it is no authority, not in its validity, or breaks a strict rule that is not excepted.
        Conflict: it is believed already.
    """
    require(principal, Permission.PKI_ANCHOR)
    now = clock.now()
    _check(certificate, exceptions, at=now)
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    words = tuple(sorted(rule.word for rule in exceptions))
    row = {
        "fingerprint": fingerprint, "vendor": vendor, "certificate": certificate.public_bytes(Encoding.DER),
        "added_at": now, "exceptions": " ".join(words),
    }  # fmt: skip
    if not insert_ignore(connection, door_anchors, row, index=("fingerprint",)):
        raise Conflict("This authority is believed already; remove it first to change it.")
    append(connection, AnchorAdded(fingerprint=fingerprint, anchor_of=vendor, exceptions=words), actor=principal)
    trust.touch(connection)
    return fingerprint


def _check(certificate: x509.Certificate, exceptions: frozenset[StrictRule], *, at: datetime) -> None:
    constraints = extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        raise Invalid("The certificate is no authority's (basic constraints).", field="certificate")
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise Invalid("The certificate is not in its validity.", field="certificate")
    left = [rule for rule in broken([certificate]) if rule not in exceptions]
    if left:
        names = ", ".join(f"{rule.word} (RFC 5280 {rule.value[1]})" for rule in left)
        raise Invalid(
            f"The certificate breaks {names}; except it if the manufacturer cannot change it.", field="except"
        )


def remove(connection: sa.Connection, principal: Principal, *, fingerprint: str) -> None:
    """Believe an authority no longer, in the caller's transaction.

    Raises:
        Forbidden: the principal is no administrator.
        NotFound: no such authority is believed.
    """
    require(principal, Permission.PKI_ANCHOR)
    gone = door_anchors.delete().where(door_anchors.c.fingerprint == fingerprint).returning(door_anchors.c.vendor)
    vendor = connection.execute(gone).scalar()
    if vendor is None:
        raise NotFound(f"No authority {fingerprint} is believed.")
    append(connection, AnchorRemoved(fingerprint=fingerprint, anchor_of=vendor), actor=principal)
    trust.touch(connection)


def described(rt: Runtime) -> Iterator[tuple[str, str]]:
    """Give (what, sentence) for ``lachan doctor``: each authority, for whom, and its exceptions."""
    with rt.db.read() as connection:
        found = every(connection)
    for one in found:
        words = ", ".join(sorted(rule.word for rule in one.anchor.exceptions))
        end = clock.iso(one.anchor.certificate.not_valid_after_utc)
        said = f"excepted from strict rules: {words}" if words else "no exceptions"
        yield f"authority of {one.anchor.vendor}", f"{one.fingerprint[:16]}, until {end}; {said}"
