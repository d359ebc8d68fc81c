"""Releases as they stand: found, read, locked, and the rules that several verbs share (`ota_signing.service`)."""

from typing import Any

import sqlalchemy as sa

from lachan.database import for_update
from lachan.identity import Permission, Principal, require, scope
from lachan.work import jobs
from ota_signing import bins
from ota_signing.errors import LowerVersion, NoSuchRelease, WrongState
from ota_signing.models import approvals, releases
from ota_signing.schemas import Approval, Release, ReleaseState
from ota_signing.versions import Version

_HIDDEN = frozenset({"proposer_id", "signature", "slot"})
_VISIBLE = [column for column in releases.c if column.name not in _HIDDEN]


def get(connection: sa.Connection, release_id: str, *, principal: Principal) -> Release:
    """One release with its approvals, if the caller may see it.

    Raises:
        Forbidden: the caller may not read releases.
        NoSuchRelease: there is none, or it is another vendor's.
    """
    require(principal, Permission.OTA_READ)
    query = scope(principal, sa.select(*_VISIBLE).where(releases.c.id == release_id), releases.c.vendor)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NoSuchRelease(f"No release {release_id}.")
    return _release(connection, row)


def find(
    connection: sa.Connection, *, principal: Principal, after: str = "", limit: int = 100, state: str | None = None
) -> list[Release]:
    """Releases by id (oldest first), after a given one, that the caller may see; of one state if it is named."""
    require(principal, Permission.OTA_READ)
    query = sa.select(*_VISIBLE).where(releases.c.id > after).order_by(releases.c.id).limit(limit)
    if state is not None:
        query = query.where(releases.c.state == state)
    rows = connection.execute(scope(principal, query, releases.c.vendor)).mappings().all()
    return [_release(connection, row) for row in rows]


def signature(connection: sa.Connection, release_id: str, *, principal: Principal) -> bytes:
    """Give the detached CMS signature (DER) of a release.

    Raises:
        NoSuchRelease: there is none, or it is another vendor's.
        WrongState: it is not signed yet.
    """
    get(connection, release_id, principal=principal)
    found = connection.execute(sa.select(releases.c.signature).where(releases.c.id == release_id)).scalar()
    if found is None:
        raise WrongState("The release is not signed yet.")
    return bytes(found)


def refuse_lower(connection: sa.Connection, *, vendor: str, model: str, version: str) -> None:
    """Keep an unflagged release above all that were published before.

    Raises:
        LowerVersion: one of the same or a higher version was published.
    """
    query = sa.select(releases.c.version).where(
        releases.c.vendor == vendor, releases.c.model == model, releases.c.state == ReleaseState.PUBLISHED
    )
    highest = max(connection.execute(query).scalars(), key=Version, default=None)
    if highest is not None and Version(version) <= Version(highest):
        raise LowerVersion(f"{version} is not above {highest}, which is published.", published=highest)


def set_state(connection: sa.Connection, release_id: str, state: ReleaseState, **values: Any) -> None:
    """Write a release's state, and other columns with it."""
    connection.execute(releases.update().where(releases.c.id == release_id).values(state=state, **values))


def refresh_soon(connection: sa.Connection, target_path: str) -> None:
    """Have the bin of a target made again, once the caller's transaction has committed."""
    bins.touch(connection, bins.slot(target_path))
    jobs.enqueue(connection, "ota.tuf.publish", {})  # no key: a job that runs just now may have looked too early


def locked(connection: sa.Connection, release_id: str, principal: Principal) -> sa.RowMapping:
    """Read a release's row, if the caller may see it, and keep it from others until the transaction ends.

    Raises:
        NoSuchRelease: there is none, or it is another vendor's.
    """
    query = scope(principal, sa.select(releases).where(releases.c.id == release_id), releases.c.vendor)
    row = connection.execute(for_update(query, connection)).mappings().first()
    if row is None:
        raise NoSuchRelease(f"No release {release_id}.")
    return row


def _release(connection: sa.Connection, row: sa.RowMapping) -> Release:
    query = sa.select(approvals).where(approvals.c.release_id == row["id"]).order_by(approvals.c.approved_at)
    found = tuple(
        Approval(person=a["person"], digest=a["digest"], approved_at=a["approved_at"])
        for a in connection.execute(query).mappings()
    )
    return Release(**{**row, "state": ReleaseState(row["state"])}, approvals=found)
