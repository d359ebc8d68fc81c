"""Artifacts: firmware files, received as a stream, kept by content, recorded once.

The bytes go to the store first and the row follows, so a row never names a file that is not there. The same bytes of
the same vendor are one artifact, however often they are sent.
"""

from typing import TYPE_CHECKING

import sqlalchemy as sa

from lachan.errors import Invalid
from lachan.identity import Permission, Principal, require, scope
from ota_signing.errors import NoSuchArtifact
from ota_signing.models import artifacts
from ota_signing.schemas import Artifact
from ota_signing.store import Store

if TYPE_CHECKING:
    from lachan.runtime import Runtime


def check_names(**names: str) -> None:
    """Refuse names that are empty, longer than 100 characters, or not printable.

    Raises:
        Invalid: one of them is; ``fields['field']`` says which.
    """
    for field, value in names.items():
        if not value.strip() or len(value) > 100 or not value.isprintable():
            raise Invalid(f"{field} must be 1 to 100 printable characters.", field=field)


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
