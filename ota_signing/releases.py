"""Releases: uploaded → proposed → approved (k of n) → signed → published → halted, and back to published.

Every step checks its own precondition inside its transaction and writes its fact with it. Approvals cover the digest of
the release statement; the signer reads them again (`ota_signing.approvals`), so nothing here is what protects a
signature. `sign` and `publish` live in `ota_signing.publishing`, since they talk to the signer process.
"""

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import for_update
from lachan.errors import Invalid
from lachan.events import FirmwareApproved, FirmwareHalted, FirmwareResumed, ReleaseProposed
from lachan.identity import Permission, Principal, require, scope
from lachan.ids import new_id
from lachan.work import jobs, outbox
from ota_signing import artifacts
from ota_signing.errors import DigestMoved, LowerVersion, NoSuchRelease, OwnProposal, VersionSpent, WrongState
from ota_signing.models import approvals, releases
from ota_signing.schemas import Approval, Artifact, Release, ReleaseState
from ota_signing.settings import OtaSettings
from ota_signing.statement import Statement
from ota_signing.versions import Version

if TYPE_CHECKING:
    from lachan.runtime import Runtime

_HIDDEN = frozenset({"proposer_id", "signature"})
_VISIBLE = [column for column in releases.c if column.name not in _HIDDEN]


def propose(
    rt: "Runtime",
    principal: Principal,
    *,
    artifact_id: str,
    model: str,
    version: str,
    approvals_needed: int | None = None,
    downgrade: bool = False,
    notes: str = "",
) -> Release:
    """Propose an artifact as the firmware of a model.

    Args:
        rt: the installation.
        principal: who proposes; may not approve afterwards.
        artifact_id: the uploaded file; its vendor is the release's.
        model: as in the device registry.
        version: as devices will report it, at most 64 characters.
        approvals_needed: k; ``ota_approvals`` of the settings by default, never less than that.
        downgrade: have devices with a higher version install it, too.
        notes: for people.

    Raises:
        Forbidden: the caller may not propose.
        NoSuchArtifact: there is no such artifact, or it is another vendor's.
        Invalid: a name does not fit, or k is below the installation's minimum or above 10.
        VersionSpent: that vendor, model and version has a release already.
        LowerVersion: the version is not above the newest published one, and ``downgrade`` is not set.
    """
    minimum = OtaSettings.of(rt.settings).ota_approvals
    needed = minimum if approvals_needed is None else approvals_needed
    _check_words(model=model, version=version, notes=notes, needed=needed, minimum=minimum)
    with rt.db.write() as connection:
        artifact = artifacts.get(connection, artifact_id, principal=principal)
        require(principal, Permission.OTA_PROPOSE, vendor=artifact.vendor)
        _refuse_spent(connection, vendor=artifact.vendor, model=model, version=version, downgrade=downgrade)
        words = {"model": model, "version": version, "approvals_needed": needed, "downgrade": downgrade, "notes": notes}
        release_id = _insert(connection, principal, artifact, words)
        return get(connection, release_id, principal=principal)


def _check_words(*, model: str, version: str, notes: str, needed: int, minimum: int) -> None:
    artifacts.check_names(model=model, version=version)
    if not minimum <= needed <= 10:
        raise Invalid(f"approvals_needed must be {minimum} to 10.", field="approvals_needed")
    if len(version) > 64 or len(notes) > 4000:
        raise Invalid("A version has at most 64 characters, notes have at most 4000.", field="version")


def _refuse_spent(connection: sa.Connection, *, vendor: str, model: str, version: str, downgrade: bool) -> None:
    same = (releases.c.vendor == vendor, releases.c.model == model, releases.c.version == version)
    if connection.execute(sa.select(releases.c.id).where(*same)).first():
        raise VersionSpent(f"{vendor} {model} {version} has a release already.")
    if not downgrade:
        refuse_lower(connection, vendor=vendor, model=model, version=version)


def _insert(connection: sa.Connection, principal: Principal, artifact: Artifact, words: dict[str, Any]) -> str:
    release_id = new_id()
    values = {
        "id": release_id, "vendor": artifact.vendor, "artifact_id": artifact.id, "sha256": artifact.sha256,
        "length": artifact.length, "proposer": principal.label, "proposer_id": principal.id,
        "state": ReleaseState.PROPOSED, "proposed_at": clock.now(), **words,
    }  # fmt: skip
    statement = Statement.of(values)
    values |= {"digest": statement.digest, "target_path": statement.target_path}
    connection.execute(releases.insert().values(**values))
    event = ReleaseProposed(
        release_id=release_id, vendor=artifact.vendor, model=statement.model, version=statement.version,
        sha256=artifact.sha256, approvals_needed=statement.approvals_needed,
    )  # fmt: skip
    outbox.append(connection, event, actor=principal)
    return release_id


def approve(rt: "Runtime", principal: Principal, release_id: str, *, digest: str) -> Release:
    """Approve what a release says; the k-th approval makes its signing due. Approving twice changes nothing.

    Args:
        rt: the installation.
        principal: a person in a session of their own.
        release_id: the release.
        digest: the digest that the person saw; it must still be the release's.

    Raises:
        PersonNeeded: this is a token or a device, not a person's session.
        Forbidden: the person may not approve.
        OwnProposal: the person proposed it.
        NoSuchRelease: there is none, or it is another vendor's.
        DigestMoved: the release's digest is another one.
        WrongState: it is already signed and this person did not approve it.
    """
    require(principal, Permission.OTA_APPROVE)
    with rt.db.write() as connection:
        row = _locked(connection, release_id, principal)
        statement = Statement.of(row)
        if principal.id == row["proposer_id"] or principal.label == row["proposer"]:
            raise OwnProposal(f"{principal.label} proposed this release.")
        if digest != statement.digest:
            raise DigestMoved(f"You approve {digest[:16]}…, the release has {statement.digest[:16]}….")
        mine = sa.and_(approvals.c.release_id == release_id, approvals.c.person_id == principal.id)
        if not connection.execute(sa.select(approvals.c.digest).where(mine)).first():
            if row["state"] not in (ReleaseState.PROPOSED, ReleaseState.APPROVED):
                raise WrongState(f"The release is {row['state']}.", state=row["state"])
            _record_approval(connection, principal, statement)
        return get(connection, release_id, principal=principal)


def _record_approval(connection: sa.Connection, principal: Principal, statement: Statement) -> None:
    release_id = statement.release_id
    event = FirmwareApproved(release_id=release_id, approver=principal.label, digest=statement.digest)
    connection.execute(
        approvals.insert().values(
            release_id=release_id, person_id=principal.id, person=principal.label, session=principal.session,
            digest=statement.digest, event_id=outbox.append(connection, event, actor=principal),
            approved_at=clock.now(),
        )
    )  # fmt: skip
    count = sa.select(sa.func.count()).where(
        approvals.c.release_id == release_id, approvals.c.digest == statement.digest
    )
    if connection.execute(count).scalar_one() >= statement.approvals_needed:
        set_state(connection, release_id, ReleaseState.APPROVED)
        jobs.enqueue(connection, "ota.sign", {"release_id": release_id}, key=f"ota.sign:{release_id}")


def halt(connection: sa.Connection, principal: Principal, release_id: str, *, reason: str) -> bool:
    """Stop handing a release out, at once; in the caller's transaction. Tell whether that changed anything.

    Raises:
        Forbidden: the caller may not hold releases.
        NoSuchRelease: there is none, or it is another vendor's.
        WrongState: it was never published.
    """
    require(principal, Permission.OTA_HOLD)
    row = _locked(connection, release_id, principal)
    if row["state"] == ReleaseState.HALTED:
        return False
    if row["state"] != ReleaseState.PUBLISHED:
        raise WrongState(f"The release is {row['state']}, only a published one can be halted.", state=row["state"])
    set_state(connection, release_id, ReleaseState.HALTED, reason=reason)
    outbox.append(connection, FirmwareHalted(release_id=release_id, reason=reason), actor=principal)
    refresh_soon(connection)
    return True


def resume(connection: sa.Connection, principal: Principal, release_id: str, *, reason: str) -> bool:
    """Hand a halted release out again, in the caller's transaction. Tell whether that changed anything.

    Raises:
        Forbidden: the caller may not hold releases.
        NoSuchRelease: there is none, or it is another vendor's.
        WrongState: it is neither halted nor published.
    """
    require(principal, Permission.OTA_HOLD)
    row = _locked(connection, release_id, principal)
    if row["state"] == ReleaseState.PUBLISHED:
        return False
    if row["state"] != ReleaseState.HALTED:
        raise WrongState(f"The release is {row['state']}, only a halted one can be resumed.", state=row["state"])
    set_state(connection, release_id, ReleaseState.PUBLISHED, reason="")
    outbox.append(connection, FirmwareResumed(release_id=release_id, reason=reason), actor=principal)
    refresh_soon(connection)
    return True


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
    """The detached CMS signature (DER) of a release.

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


def refresh_soon(connection: sa.Connection) -> None:
    """Have the repository's metadata follow, once the caller's transaction has committed."""
    jobs.enqueue(connection, "ota.tuf.publish", {})  # no key: a job that runs just now may have looked too early


def _locked(connection: sa.Connection, release_id: str, principal: Principal) -> sa.RowMapping:
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
