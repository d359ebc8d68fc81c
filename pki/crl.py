"""Publishing CRLs: made by the signer, kept as rows, served as bytes by the status door.

`publish_due` is the job that every change of state makes due; `refresh` runs each minute and renews what is half worn. CRL
numbers only grow (RFC 5280 5.2.3): the row's key is the number, and a signer's CRL that lost a race is thrown away unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from lachan import clock
from lachan.database import insert_ignore
from lachan.runtime import Runtime
from lachan.work.jobs import Job
from pki.errors import NoCertificate
from pki.issuing import renew_services
from pki.models import attempts, authorities, crls
from pki.revocation import revision

KEEP = 5  # CRLs of one authority; old ones only serve people who compare


@dataclass(frozen=True)
class Published:
    """A CRL as it is served."""

    number: int
    content: bytes
    this_update: datetime
    next_update: datetime
    revision: int


def latest(rt: Runtime, authority: str) -> Published:
    """The CRL in force of an authority (``issuing`` or ``root``).

    Raises:
        NoCertificate: no such authority has a CRL.
    """
    with rt.db.read() as connection:
        found = _latest(connection, authority)
    if found is None:
        raise NoCertificate(f"There is no CRL of {authority!r}.")
    return found


def publish(rt: Runtime) -> Published:
    """Have the next CRL of the issuing authority made and put it in force.

    Raises:
        SignerUnavailable: the signer does not answer; the job tries again.
    """
    with rt.db.read() as connection:
        seen = revision(connection)  # before signing: whatever is in by then, the signer sees
    answer = rt.signer.request("crl")
    row = {
        "authority": "issuing",
        "number": answer["number"],
        "crl": answer["crl"],
        "this_update": clock.parse(answer["this_update"]),
        "next_update": clock.parse(answer["next_update"]),
        "revision": seen,
    }
    with rt.db.write() as connection:
        insert_ignore(connection, crls, row, index=("authority", "number"))
        old = sa.and_(crls.c.authority == "issuing", crls.c.number <= answer["number"] - KEEP)
        connection.execute(crls.delete().where(old))
    return latest(rt, "issuing")


def publish_due(rt: Runtime, job: Job) -> None:
    """The job of one revision: publish until a CRL in force has seen it."""
    while True:
        with rt.db.read() as connection:
            found = _latest(connection, "issuing")
        if found is not None and found.revision >= job.payload["revision"]:
            return
        publish(rt)


def refresh(rt: Runtime) -> None:
    """Renew a CRL that is half worn or missed a change (its job failed), and the service certificates; forget old attempts."""
    with rt.db.read() as connection:
        if connection.execute(sa.select(authorities.c.name)).first() is None:
            return
        found, now, seen = _latest(connection, "issuing"), clock.now(), revision(connection)
    if found is None or found.revision < seen or now >= found.this_update + (found.next_update - found.this_update) / 2:
        publish(rt)
    renew_services(rt)
    with rt.db.write() as connection:
        connection.execute(attempts.delete().where(attempts.c.window_start < now - timedelta(days=1)))


def _latest(connection: sa.Connection, authority: str) -> Published | None:
    query = sa.select(crls).where(crls.c.authority == authority).order_by(crls.c.number.desc()).limit(1)
    row = connection.execute(query).first()
    return Published(row.number, row.crl, row.this_update, row.next_update, row.revision) if row else None
