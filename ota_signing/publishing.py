"""From approved to handed out: everything that needs the signer process, and never inside a transaction.

`sign` asks the signer and keeps its signature; `publish` makes a signed release the firmware of its model; `refresh`
brings the public metadata in line with the database and renews it before it expires. Each can be repeated: what was
done is found done, what was half done is finished. A server that was down for days finds its metadata old and renews
it by itself.
"""

import base64
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from lachan import clock
from lachan.errors import LachanError
from lachan.events import FirmwareHalted, FirmwarePublished, FirmwareSigned
from lachan.identity import Permission, Principal, require, system
from lachan.log import get as get_logger
from lachan.signer.client import SignerClient
from lachan.signer.errors import SignerBusy, SignerRefused
from lachan.work import outbox
from ota_signing import releases as releases_
from ota_signing import tuf_metadata
from ota_signing.errors import NoSuchRelease, WrongState
from ota_signing.models import releases
from ota_signing.repository import Repository
from ota_signing.schemas import Release, ReleaseState
from ota_signing.tuf_metadata import Online

if TYPE_CHECKING:
    from lachan.runtime import Runtime
    from lachan.work.jobs import Job

SIGNING_TIMEOUT = 300.0  # seconds; the signer reads the whole artifact again
log = get_logger(__name__)


def sign(rt: "Runtime", release_id: str) -> None:
    """Have an approved release signed and keep the signature; one that is signed stays as it is.

    Raises:
        WrongState: it is not approved.
        SignerRefused: the signer does not find what it needs; the refusal is in its log and the ledger.
        SignerUnavailable: the signer does not answer.
    """
    state = _state(rt, release_id)
    if state not in (ReleaseState.PROPOSED, ReleaseState.APPROVED):
        return
    if state is ReleaseState.PROPOSED:
        raise WrongState("The release lacks approvals.", state=str(state))
    answer = _ask(rt, "release", release_id=release_id)
    with rt.db.write() as connection:
        where = sa.and_(releases.c.id == release_id, releases.c.state == ReleaseState.APPROVED)
        values = {"state": ReleaseState.SIGNED, "signed_at": clock.now(), "reason": ""}
        signature = base64.b64decode(answer["signature"])
        if connection.execute(releases.update().where(where).values(**values, signature=signature)).rowcount:
            event = FirmwareSigned(release_id=release_id, digest=answer["digest"])
            outbox.append(connection, event, actor=system("signer"))


def sign_job(rt: "Runtime", job: "Job") -> None:
    """The job ``ota.sign``: a refusal is written to the release and not tried again; all else is."""
    release_id = job.payload["release_id"]
    try:
        sign(rt, release_id)
    except SignerBusy:
        raise
    except SignerRefused as refusal:
        with rt.db.write() as connection:
            where = sa.and_(releases.c.id == release_id, releases.c.state == ReleaseState.APPROVED)
            connection.execute(releases.update().where(where).values(reason=f"signer: {refusal.detail}"))


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
        releases_.get(connection, release_id, principal=principal)
    sign(rt, release_id)
    with rt.db.write() as connection:
        release = releases_.get(connection, release_id, principal=principal)
        if release.state not in (ReleaseState.SIGNED, ReleaseState.PUBLISHED):
            raise WrongState(f"The release is {release.state}.", state=str(release.state))
        if release.state is ReleaseState.SIGNED:
            if not release.downgrade:
                releases_.refuse_lower(connection, vendor=release.vendor, model=release.model, version=release.version)
            releases_.set_state(connection, release_id, ReleaseState.PUBLISHED, published_at=clock.now())
            event = FirmwarePublished(release_id=release_id, version=release.version)
            outbox.append(connection, event, actor=principal)
            releases_.refresh_soon(connection)
    try:
        refresh(rt)  # at once where the signer answers; else the job above does it
    except LachanError as error:
        log.warning("the metadata follows later", release=release_id, error=error.detail)
    with rt.db.read() as connection:
        return releases_.get(connection, release_id, principal=principal)


def refresh(rt: "Runtime") -> None:
    """Recurring: bring the public metadata in line with the database, and renew it in time.

    A published release whose approvals the signer does not find any more is halted, with the signer's reason.

    Raises:
        SignerRefused: the offline-signed metadata does not verify.
        SignerUnavailable: the signer does not answer.
    """
    repository = Repository(rt.settings)
    with repository.locked():
        if stale(rt, repository):
            answer = _ask(rt, "tuf")
            _halt_refused(rt, answer["refused"])
            repository.publish(
                Online(**{role: answer[role].encode() for role in ("releases", "snapshot", "timestamp")})
            )
        _mark_listed(rt, repository)


def refresh_job(rt: "Runtime", job: "Job") -> None:
    """The job ``ota.tuf.publish``: something was published, halted or resumed."""
    refresh(rt)


def stale(rt: "Runtime", repository: Repository) -> bool:
    """Whether the public metadata is missing, half expired, damaged, or lists other releases than it should."""
    now = clock.now()
    try:
        timestamp = Metadata[Timestamp].from_bytes(repository.read("timestamp") or b"").signed
        version = timestamp.snapshot_meta.version
        snapshot = Metadata[Snapshot].from_bytes(_file(repository, f"{version}.snapshot.json")).signed
        version = snapshot.meta["releases.json"].version
        encoded = _file(repository, f"{version}.releases.json")
        listed = Metadata[Targets].from_bytes(encoded).signed
    except (DeserializationError, KeyError):
        return True
    return (
        tuf_metadata.half_over(timestamp.expires, tuf_metadata.TIMESTAMP_LIFE, now)
        or tuf_metadata.half_over(snapshot.expires, tuf_metadata.SNAPSHOT_LIFE, now)
        or tuf_metadata.half_over(listed.expires, tuf_metadata.RELEASES_LIFE, now)
        or snapshot.meta["targets.json"].version != repository.newest("targets")
        or tuf_metadata.listed(encoded) != _published(rt)
    )


def _file(repository: Repository, name: str) -> bytes:
    path = repository.file(name)
    return b"" if path is None else path.read_bytes()


def _published(rt: "Runtime") -> dict[str, str]:
    query = sa.select(releases.c.target_path, releases.c.sha256).where(releases.c.state == ReleaseState.PUBLISHED)
    with rt.db.read() as connection:
        return {row.target_path: row.sha256 for row in connection.execute(query)}


def _halt_refused(rt: "Runtime", refused: dict[str, str]) -> None:
    if not refused:
        return
    with rt.db.write() as connection:
        for release_id, why in refused.items():
            reason = f"signer: {why}"
            releases_.set_state(connection, release_id, ReleaseState.HALTED, reason=reason)
            event = FirmwareHalted(release_id=release_id, reason=reason)
            outbox.append(connection, event, actor=system("signer"))


def _mark_listed(rt: "Runtime", repository: Repository) -> None:
    paths = set(tuf_metadata.listed(repository.read("releases") or b""))
    with rt.db.read() as connection:
        rows = connection.execute(sa.select(releases.c.id, releases.c.target_path, releases.c.listed)).all()
    wrong = {row.id: row.target_path in paths for row in rows if row.listed is not (row.target_path in paths)}
    if wrong:
        with rt.db.write() as connection:
            for release_id, listed in wrong.items():
                connection.execute(releases.update().where(releases.c.id == release_id).values(listed=listed))


def _state(rt: "Runtime", release_id: str) -> ReleaseState:
    with rt.db.read() as connection:
        found = connection.execute(sa.select(releases.c.state).where(releases.c.id == release_id)).scalar()
    if found is None:
        raise NoSuchRelease(f"No release {release_id}.")
    return ReleaseState(found)


def _ask(rt: "Runtime", kind: str, **fields: Any) -> dict[str, Any]:
    client = SignerClient(rt.settings.signer_path, timeout=SIGNING_TIMEOUT)
    try:
        return client.request(kind, **fields)
    finally:
        client.close()
