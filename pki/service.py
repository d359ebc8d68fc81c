"""The verbs of the PKI on one page, for those who call it: routes, command line, doors.

* `issue_secret`: a one-time enrolment secret for a device.
* `enrol`, `reenrol`: certificates for devices; `enrolling`, `renewing` the same on an event loop, with `OnLoop`. `issue_server_certificate`: for the doors.
* `suspend`, `release`, `revoke`, `close_unrecorded`: the state of certificates. `latest`, `publish`: CRLs. `answer`: OCSP.
* `first_shown`, `clone_seen`: what a door saw of replaced certificates.
* `hierarchy`: root and issuing authorities. `certificates_of`: what a device has. `registered`: the row of exact bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from lachan import devices
from lachan.identity import Permission, Principal, require
from lachan.runtime import Runtime
from pki.authorities import hierarchy, pem, service_certificate
from pki.crl import latest, publish
from pki.enrolment import Enrolled, enrol, enrolling, reenrol, renewing
from pki.issuing import registered
from pki.models import certificates
from pki.ocsp import answer
from pki.replacing import clone_seen, first_shown
from pki.revocation import close_unrecorded, release, revoke, suspend
from pki.secrets import NewSecret, issue_secret
from pki.servers import issue_server_certificate
from pki.steps import OnLoop

__all__ = [
    "CertificateRow", "Enrolled", "NewSecret", "OnLoop", "answer", "certificates_of", "clone_seen", "close_unrecorded", "enrol",
    "enrolling", "first_shown", "hierarchy", "issue_secret", "issue_server_certificate", "latest", "pem", "publish", "reenrol",
    "registered", "release", "renewing", "revoke", "service_certificate", "suspend",
]  # fmt: skip


@dataclass(frozen=True)
class CertificateRow:
    """One certificate of a device as people read it."""

    serial_number: str
    fingerprint: str
    profile: str
    subject: str
    state: str
    reason: str
    not_before: datetime
    not_after: datetime
    issued_at: datetime


def certificates_of(rt: Runtime, principal: Principal, device_id: str) -> list[CertificateRow]:
    """Give a device's certificates, newest first.

    Raises:
        Forbidden: the principal lacks ``pki:read``.
        NotFound: no such device, or another vendor's.
    """
    require(principal, Permission.PKI_READ)
    columns = [certificates.c[name] for name in CertificateRow.__dataclass_fields__]
    with rt.db.read() as connection:
        devices.get(connection, device_id, principal=principal)
        query = sa.select(*columns).where(certificates.c.device_id == device_id).order_by(certificates.c.id.desc())
        return [CertificateRow(**row) for row in connection.execute(query).mappings()]
