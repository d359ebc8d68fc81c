"""Publishing CRLs: made by the signer, kept as files named by rows, served by the status door.

`publish` reads how far the state of certificates has come, has the signer make the CRL (outside any transaction), stores
its file, and puts it in force in one short unit. `publish_due` is the job that every change of state makes due; `refresh`
runs each minute and renews what is half worn. CRL numbers only grow (RFC 5280 5.2.3): the row's key is the number, and a
signer's CRL that lost a race is thrown away unseen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.blobs import BLOCK, BlobStore, blobs
from lachan.database import insert_ignore
from lachan.errors import DatabaseAway, LachanError
from lachan.health import Standstill
from lachan.log import get as get_logger
from lachan.runtime import Runtime
from lachan.signer.client import SignerClient
from lachan.work.jobs import Job
from pki import authorities
from pki.errors import NoCertificate
from pki.issuing import renew_services
from pki.models import attempts, certificates, crls
from pki.revocation import revision

KEEP = 2  # CRLs of one authority: the one in force, and the one that somebody may be about to open
PATIENCE = 120.0  # seconds that the signer may take for a CRL of millions
FORGET_AT_ONCE = 500
LATE = timedelta(minutes=5)  # for a change to reach the CRL
log = get_logger(__name__)


@dataclass(frozen=True)
class Published:
    """A CRL as it is served.

    Attributes:
        authority: whose it is.
        number: CRLNumber.
        blob: its name in `store`; empty when it is held in its row (the root's).
        inline: what its row holds.
        size: octets.
        this_update: since when it is in force.
        next_update: when the next one is due at the latest.
        revision: the authority's count of changes that it has seen.
    """

    authority: str
    number: int
    blob: str
    inline: bytes
    size: int
    this_update: datetime
    next_update: datetime
    revision: int


def store(rt: Runtime) -> BlobStore:
    """Where published CRLs lie."""
    return blobs(rt.settings, "crl")


def content(rt: Runtime, found: Published) -> bytes:
    """All of a CRL (DER); with millions of entries that is tens of megabytes."""
    return b"".join(store(rt).open(found.blob)) if found.blob else found.inline


def latest(rt: Runtime, authority: str) -> Published:
    """Give the CRL in force of an authority (``issuing``, ``root`` …).

    Raises:
        NoCertificate: no such authority has a CRL.
    """
    with rt.db.read() as connection:
        return in_force(connection, authority)


def in_force(connection: sa.Connection, authority: str) -> Published:
    """Do what `latest` does, with the caller's connection.

    Raises:
        NoCertificate: no such authority has a CRL.
    """
    found = _latest(connection, authority)
    if found is None:
        raise NoCertificate(f"There is no CRL of {authority!r}.")
    return found


def publish(rt: Runtime, authority: str = authorities.FIRST) -> Published:
    """Have the next CRL of an issuing authority made and put it in force.

    Raises:
        SignerUnavailable: the signer does not answer; the job tries again.
        OSError: its file cannot be stored.
    """
    with rt.db.read() as connection:
        seen = revision(connection, authority)  # before signing: whatever is in by then, the signer sees
    signer = SignerClient(rt.settings.signer_path, timeout=PATIENCE)
    try:
        answer = signer.request("crl", authority=authority)
    finally:
        signer.close()
    row = {
        "authority": authority,
        "number": answer["number"],
        "file": f"{authority}/{answer['number']}-{answer['digest'][:16]}.crl",
        "size": answer["size"],
        "digest": answer["digest"],
        "this_update": clock.parse(answer["this_update"]),
        "next_update": clock.parse(answer["next_update"]),
        "revision": seen,
    }
    with answer["crl"] as file:
        store(rt).put(row["file"], iter(partial(file.read, BLOCK), b""))
    won = rt.db.run(lambda connection: _put_in_force(connection, row))
    _sweep(store(rt), authority, before=row["number"] - KEEP + 1)
    if not won:
        store(rt).delete(row["file"])
    return latest(rt, authority)


def publish_due(rt: Runtime, job: Job) -> None:
    """Do the job of one revision: publish until a CRL in force has seen it."""
    authority = job.payload.get("authority", authorities.FIRST)
    while True:
        with rt.db.read() as connection:
            found = _latest(connection, authority)
        if found is not None and found.revision >= job.payload["revision"]:
            return
        publish(rt, authority)


def refresh(rt: Runtime) -> None:
    """Renew CRLs that are half worn or missed a change (its job failed), and the service certificates; forget old attempts.

    Raises:
        LachanError, OSError: one of them could not be made; the others were.
    """
    failed: Exception | None = None
    for authority in authorities.every(rt.db):
        try:
            if _is_due(rt, authority.name):
                publish(rt, authority.name)
        except DatabaseAway:  # it was said, once
            raise
        except (LachanError, OSError) as error:
            log.error("a CRL could not be published", authority=authority.name, error=str(error))
            failed = error
    renew_services(rt)
    _forget_attempts(rt)
    if failed is not None:
        raise failed


def health(rt: Runtime) -> Iterable[Standstill]:
    """See whether each authority has a CRL in force that knows all changes, and the root has one for a good while."""
    yield from _health_of_root(rt)
    advice = "See that the roles work and sign run and that there is room on the disk, then run `lachan pki crl`."
    now = clock.now()
    for authority in authorities.every(rt.db):
        with rt.db.read() as connection:
            last = _latest(connection, authority.name)
            missed = _first_missed(connection, authority.name, last.revision) if last else None
        if missed is not None and now - missed > LATE:
            yield Standstill(what=f"Changes since {clock.iso(missed)} are in no CRL of {authority.name}.", next=advice)
        if last is None:
            yield Standstill(what=f"The authority {authority.name} has no CRL.", next=advice)
        elif now >= last.next_update:
            yield Standstill(what=f"The CRL of {authority.name} ended at {clock.iso(last.next_update)}.", next=advice)
        elif clock.lies_ahead(last.this_update):
            begins = clock.iso(last.this_update)
            yield Standstill(what=f"The CRL of {authority.name} is in force from {begins} only.", next=advice)
        elif last.blob and not store(rt).exists(last.blob):
            yield Standstill(what=f"The file of the CRL of {authority.name} is not there: {last.blob}.", next=advice)
        elif now > last.this_update + (last.next_update - last.this_update) * 3 / 4:
            ends = clock.iso(last.next_update)
            yield Standstill(
                what=f"The CRL of {authority.name} should have been renewed; it ends at {ends}.", next=advice
            )


def _health_of_root(rt: Runtime) -> Iterable[Standstill]:
    """The root's key is elsewhere: whoever brings it back needs time."""
    with rt.db.read() as connection:
        last = _latest(connection, authorities.ROOT)
    if last is None or clock.now() <= last.next_update - (last.next_update - last.this_update) / 4:
        return
    advice = "Bring the offline folder with the root's key, then run `lachan pki root-crl FOLDER`; take it away again."
    yield Standstill(what=f"The root's CRL must be renewed; it ends at {clock.iso(last.next_update)}.", next=advice)


def _first_missed(connection: sa.Connection, authority: str, seen: int) -> datetime | None:
    """When the first change was made that a CRL has not seen; None when it has seen them all."""
    c = certificates.c
    missed = sa.select(c.state_since).where(c.authority == authority, sa.text("revision > 0"), c.revision > seen)
    since: datetime | None = connection.execute(missed.order_by(c.revision).limit(1)).scalar()
    return since


def _is_due(rt: Runtime, authority: str) -> bool:
    with rt.db.read() as connection:
        found, seen = _latest(connection, authority), revision(connection, authority)
    if found is None or found.revision < seen or (found.blob and not store(rt).exists(found.blob)):
        return True
    half = found.this_update + (found.next_update - found.this_update) / 2
    return clock.now() >= half or clock.lies_ahead(found.this_update)


def _put_in_force(connection: sa.Connection, row: dict[str, Any]) -> bool:
    """Write the row and forget the old ones; false when another CRL of this number (and file) was first."""
    insert_ignore(connection, crls, row, index=("authority", "number"))
    mine = crls.c.authority == row["authority"]
    connection.execute(crls.delete().where(mine, crls.c.number <= row["number"] - KEEP))
    there = sa.select(crls.c.file).where(mine, crls.c.number == row["number"])
    return bool(connection.execute(there).scalar() == row["file"])


def _sweep(place: BlobStore, authority: str, *, before: int) -> None:
    """Delete the files of numbers that are over, also those that a crash left without a row."""
    for name in place.names(f"{authority}/"):
        if int(name.rpartition("/")[2].partition("-")[0]) < before:
            place.delete(name)


def _forget_attempts(rt: Runtime) -> None:
    old = (
        sa.select(attempts.c.who).where(attempts.c.window_start < clock.now() - timedelta(days=1)).limit(FORGET_AT_ONCE)
    )
    page = attempts.delete().where(attempts.c.who.in_(old))
    with rt.db.read() as connection:
        if connection.execute(old.limit(1)).first() is None:
            return
    while rt.db.run(lambda connection: connection.execute(page).rowcount) == FORGET_AT_ONCE:
        pass


def _latest(connection: sa.Connection, authority: str) -> Published | None:
    query = sa.select(crls).where(crls.c.authority == authority).order_by(crls.c.number.desc()).limit(1)
    row = connection.execute(query).first()
    if row is None:
        return None
    return Published(
        row.authority, row.number, row.file, row.crl or b"", row.size, row.this_update, row.next_update, row.revision
    )
