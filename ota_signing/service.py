"""The verbs of firmware: upload, propose, approve, publish, halt, resume.

A release goes uploaded → proposed → approved (k of n) → signed → published → halted, and back to published. Every verb
checks its own precondition inside its transaction and writes its fact with it. Approvals cover the digest of the release
statement; the signer reads them again (`ota_signing.approvals`), so nothing here is what protects a signature.
One call shape: a verb with ``(rt, principal, …)`` opens its own transactions, one with ``(connection, principal, …)`` joins
the caller's. What a device asks and tells is in `ota_signing.delivery`.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import insert_ignore
from lachan.errors import Invalid, LachanError
from lachan.events import (
    ArtifactUploaded,
    FirmwareApproved,
    FirmwareHalted,
    FirmwarePublished,
    FirmwareResumed,
    ReleaseProposed,
)
from lachan.identity import Permission, Principal, require
from lachan.identity.humans import stands_behind
from lachan.ids import new_id
from lachan.log import get as get_logger
from lachan.work import jobs, outbox
from ota_signing import artifacts, bins, publishing, releases
from ota_signing.artifacts import check_names
from ota_signing.errors import DigestMoved, OwnProposal, VersionSpent, WrongState
from ota_signing.models import approvals
from ota_signing.models import artifacts as artifact_rows
from ota_signing.models import releases as release_rows
from ota_signing.schemas import Artifact, Release, ReleaseState
from ota_signing.settings import OtaSettings
from ota_signing.statement import ReleaseStatement
from ota_signing.store import Incoming, Store, Stored

if TYPE_CHECKING:
    from lachan.runtime import Runtime

log = get_logger(__name__)


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


def record(rt: "Runtime", principal: Principal, stored: Stored, *, vendor: str, name: str) -> Artifact:
    """Write the row of a file that is in the store; the same content of the same vendor gives the first row."""
    require(principal, Permission.OTA_UPLOAD, vendor=vendor)
    values: dict[str, Any] = {
        "id": new_id(), "vendor": vendor, "name": name, "sha256": stored.sha256, "length": stored.length,
        "uploaded_by": principal.label, "uploaded_at": clock.now(),
    }  # fmt: skip

    def unit(connection: sa.Connection) -> Artifact:
        if insert_ignore(connection, artifact_rows, values, index=("vendor", "sha256")):
            event = ArtifactUploaded(
                artifact_id=values["id"], sha256=stored.sha256, length=stored.length, vendor=vendor
            )
            outbox.append(connection, event, actor=principal)
        query = sa.select(artifact_rows).where(
            artifact_rows.c.vendor == vendor, artifact_rows.c.sha256 == stored.sha256
        )
        return Artifact(**connection.execute(query).mappings().one())

    return rt.db.run(unit)


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
    words = {"model": model, "version": version, "approvals_needed": needed, "downgrade": downgrade, "notes": notes}
    _check_words(words, minimum=minimum)

    def unit(connection: sa.Connection) -> Release:
        artifact = artifacts.get(connection, artifact_id, principal=principal)
        return releases.get(connection, _insert(connection, principal, artifact, words), principal=principal)

    return rt.db.run(unit)


def _check_words(words: Mapping[str, Any], *, minimum: int) -> None:
    check_names(model=words["model"], version=words["version"])
    if not minimum <= words["approvals_needed"] <= 10:
        raise Invalid(f"approvals_needed must be {minimum} to 10.", field="approvals_needed")
    if len(words["version"]) > 64 or len(words["notes"]) > 4000:
        raise Invalid("A version has at most 64 characters, notes have at most 4000.", field="version")


def _refuse_spent(connection: sa.Connection, *, vendor: str, model: str, version: str, downgrade: bool) -> None:
    same = (release_rows.c.vendor == vendor, release_rows.c.model == model, release_rows.c.version == version)
    if connection.execute(sa.select(release_rows.c.id).where(*same)).first():
        raise VersionSpent(f"{vendor} {model} {version} has a release already.")
    if not downgrade:
        releases.refuse_lower(connection, vendor=vendor, model=model, version=version)


def _insert(connection: sa.Connection, principal: Principal, artifact: Artifact, words: dict[str, Any]) -> str:
    require(principal, Permission.OTA_PROPOSE, vendor=artifact.vendor)
    _refuse_spent(
        connection, vendor=artifact.vendor, model=words["model"], version=words["version"], downgrade=words["downgrade"]
    )
    release_id = new_id()
    values = {
        "id": release_id, "vendor": artifact.vendor, "artifact_id": artifact.id, "sha256": artifact.sha256,
        "length": artifact.length, "proposer": principal.label, "proposer_id": principal.id,
        "state": ReleaseState.PROPOSED, "proposed_at": clock.now(), **words,
    }  # fmt: skip
    statement = ReleaseStatement.of(values)
    path = statement.target_path
    values |= {"digest": statement.digest, "target_path": path, "slot": bins.slot(path)}
    connection.execute(release_rows.insert().values(**values))
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

    def unit(connection: sa.Connection) -> Release:
        row = releases.locked(connection, release_id, principal)
        statement = ReleaseStatement.of(row)
        if stands_behind(connection, principal, row["proposer_id"]) or principal.label == row["proposer"]:
            raise OwnProposal(f"{principal.label} proposed this release.")
        if digest != statement.digest:
            raise DigestMoved(f"You approve {digest[:16]}…, the release has {statement.digest[:16]}….")
        mine = sa.and_(approvals.c.release_id == release_id, approvals.c.person_id == principal.id)
        if not connection.execute(sa.select(approvals.c.digest).where(mine)).first():
            if row["state"] not in (ReleaseState.PROPOSED, ReleaseState.APPROVED):
                raise WrongState(f"The release is {row['state']}.", state=row["state"])
            _record_approval(connection, principal, statement)
        return releases.get(connection, release_id, principal=principal)

    return rt.db.run(unit)


def _record_approval(connection: sa.Connection, principal: Principal, statement: ReleaseStatement) -> None:
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
        releases.set_state(connection, release_id, ReleaseState.APPROVED)
        jobs.enqueue(connection, "ota.sign", {"release_id": release_id}, key=f"ota.sign:{release_id}")


def halt(connection: sa.Connection, principal: Principal, release_id: str, *, reason: str) -> bool:
    """Stop handing a release out, at once; in the caller's transaction. Tell whether that changed anything.

    Raises:
        Forbidden: the caller may not hold releases.
        NoSuchRelease: there is none, or it is another vendor's.
        WrongState: it was never published.
    """
    require(principal, Permission.OTA_HOLD)
    row = releases.locked(connection, release_id, principal)
    if row["state"] == ReleaseState.HALTED:
        return False
    if row["state"] != ReleaseState.PUBLISHED:
        raise WrongState(f"The release is {row['state']}, only a published one can be halted.", state=row["state"])
    releases.set_state(connection, release_id, ReleaseState.HALTED, reason=reason)
    outbox.append(connection, FirmwareHalted(release_id=release_id, reason=reason), actor=principal)
    releases.refresh_soon(connection, row["target_path"])
    return True


def resume(connection: sa.Connection, principal: Principal, release_id: str, *, reason: str) -> bool:
    """Hand a halted release out again, in the caller's transaction. Tell whether that changed anything.

    Raises:
        Forbidden: the caller may not hold releases.
        NoSuchRelease: there is none, or it is another vendor's.
        WrongState: it is neither halted nor published.
    """
    require(principal, Permission.OTA_HOLD)
    row = releases.locked(connection, release_id, principal)
    if row["state"] == ReleaseState.PUBLISHED:
        return False
    if row["state"] != ReleaseState.HALTED:
        raise WrongState(f"The release is {row['state']}, only a halted one can be resumed.", state=row["state"])
    releases.set_state(connection, release_id, ReleaseState.PUBLISHED, reason="")
    outbox.append(connection, FirmwareResumed(release_id=release_id, reason=reason), actor=principal)
    releases.refresh_soon(connection, row["target_path"])
    return True


def publish(rt: "Runtime", principal: Principal, release_id: str) -> Release:
    """Make a release the firmware of its model; signs it first where that has not happened yet.

    Raises:
        Forbidden: the caller may not publish.
        NoSuchRelease: there is none, or it is another vendor's.
        WrongState: it lacks approvals, or was halted.
        LowerVersion: a higher version was published meanwhile, and this is not flagged as a downgrade.
        SignerRefused: the signer does not sign it.
        SignerUnavailable: it is not signed yet and the signer does not answer.
    """
    require(principal, Permission.OTA_PUBLISH)
    with rt.db.read() as connection:
        releases.get(connection, release_id, principal=principal)
    publishing.sign(rt, release_id)

    def unit(connection: sa.Connection) -> None:
        release = releases.get(connection, release_id, principal=principal)
        if release.state not in (ReleaseState.SIGNED, ReleaseState.PUBLISHED):
            raise WrongState(f"The release is {release.state}.", state=str(release.state))
        if release.state is ReleaseState.SIGNED:
            if not release.downgrade:
                releases.refuse_lower(connection, vendor=release.vendor, model=release.model, version=release.version)
            releases.set_state(connection, release_id, ReleaseState.PUBLISHED, published_at=clock.now())
            event = FirmwarePublished(release_id=release_id, version=release.version)
            outbox.append(connection, event, actor=principal)
            releases.refresh_soon(connection, release.target_path)

    rt.db.run(unit)
    try:
        publishing.refresh(rt)  # at once where the signer answers; else the job above does it
    except LachanError as error:
        log.warning("the metadata follows later", release=release_id, error=error.detail)
    with rt.db.read() as connection:
        return releases.get(connection, release_id, principal=principal)
