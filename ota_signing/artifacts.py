"""Artifacts: firmware files, received as a stream, kept by content, recorded once.

The bytes go to the store first and the row follows, so a row never names a file that is not there. The same bytes of
the same vendor are one artifact, however often they are sent.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import insert_ignore
from lachan.errors import Invalid
from lachan.events import ArtifactUploaded
from lachan.identity import Permission, Principal, require, scope
from lachan.ids import new_id
from lachan.work import outbox
from ota_signing.errors import NoSuchArtifact
from ota_signing.models import artifacts
from ota_signing.schemas import Artifact
from ota_signing.settings import OtaSettings
from ota_signing.store import Incoming, Store, Stored

if TYPE_CHECKING:
    from lachan.runtime import Runtime


def receive(rt: "Runtime", principal: Principal, *, vendor: str) -> Incoming:
    """Begin an upload, after asking whether the caller may.

    Raises:
        Forbidden: the caller may not upload.
        NotFound: a manufacturer uploads for another vendor.
    """
    require(principal, Permission.OTA_UPLOAD, vendor=vendor)
    return Store(rt.settings).receive(limit=OtaSettings.of(rt.settings).ota_artifact_max_bytes)


def upload(
    rt: "Runtime", principal: Principal, chunks: Iterable[bytes], *, vendor: str, name: str, sha256: str | None = None
) -> Artifact:
    """Take a whole artifact from an iterable of bytes.

    Args:
        rt: the installation.
        principal: who uploads.
        chunks: the bytes, in order.
        vendor: whose firmware it is.
        name: file name, for people.
        sha256: what the sender says the digest is (hex).

    Raises:
        Forbidden: the caller may not upload.
        NotFound: a manufacturer uploads for another vendor.
        Invalid: vendor or name is empty, too long or has control characters.
        ArtifactTooLarge: it passes ``ota_artifact_max_bytes``.
        ArtifactBroken: it is empty, or not what the sender announced.
    """
    check_names(vendor=vendor, name=name)
    with receive(rt, principal, vendor=vendor) as incoming:
        for chunk in chunks:
            incoming.write(chunk)
        stored = incoming.finish(sha256=sha256)
    return record(rt, principal, stored, vendor=vendor, name=name)


def check_names(**names: str) -> None:
    """Refuse names that are empty, longer than 100 characters, or not printable.

    Raises:
        Invalid: one of them is; ``fields['field']`` says which.
    """
    for field, value in names.items():
        if not value.strip() or len(value) > 100 or not value.isprintable():
            raise Invalid(f"{field} must be 1 to 100 printable characters.", field=field)


def record(rt: "Runtime", principal: Principal, stored: Stored, *, vendor: str, name: str) -> Artifact:
    """Write the row of a file that is in the store; the same content of the same vendor gives the first row."""
    require(principal, Permission.OTA_UPLOAD, vendor=vendor)
    values: dict[str, Any] = {
        "id": new_id(), "vendor": vendor, "name": name, "sha256": stored.sha256, "length": stored.length,
        "uploaded_by": principal.label, "uploaded_at": clock.now(),
    }  # fmt: skip
    with rt.db.write() as connection:
        if insert_ignore(connection, artifacts, values, index=("vendor", "sha256")):
            event = ArtifactUploaded(
                artifact_id=values["id"], sha256=stored.sha256, length=stored.length, vendor=vendor
            )
            outbox.append(connection, event, actor=principal)
        query = sa.select(artifacts).where(artifacts.c.vendor == vendor, artifacts.c.sha256 == stored.sha256)
        return Artifact(**connection.execute(query).mappings().one())


def get(connection: sa.Connection, artifact_id: str, *, principal: Principal) -> Artifact:
    """One artifact that the caller may see.

    Raises:
        Forbidden: the caller may not read releases.
        NoSuchArtifact: there is none, or it is another vendor's.
    """
    require(principal, Permission.OTA_READ)
    query = scope(principal, sa.select(artifacts).where(artifacts.c.id == artifact_id), artifacts.c.vendor)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NoSuchArtifact(f"No artifact {artifact_id}.")
    return Artifact(**row)


def find(connection: sa.Connection, *, principal: Principal, after: str = "", limit: int = 100) -> list[Artifact]:
    """Artifacts by id (oldest first), after a given one, that the caller may see."""
    require(principal, Permission.OTA_READ)
    query = sa.select(artifacts).where(artifacts.c.id > after).order_by(artifacts.c.id).limit(limit)
    return [Artifact(**row) for row in connection.execute(scope(principal, query, artifacts.c.vendor)).mappings()]


def sweep(rt: "Runtime") -> None:
    """Recurring: remove what broken uploads left behind."""
    Store(rt.settings).sweep()
