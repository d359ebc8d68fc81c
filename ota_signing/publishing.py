"""From approved to handed out: everything that needs the signer process, and never inside a transaction.

`sign` asks the signer and keeps its signature; `refresh` brings the public metadata in line with the database and renews it
before it expires. Its steps: the slots that changed are read, the signer makes what is due and remembers it, the files that
are new are fetched from it, some at a time, and made public, the timestamp last; then the database learns what is public.
Each step can be repeated: what was done is found done, what was half done is finished. A server that was down for days
finds its metadata old and renews it by itself.
"""

import base64
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from tuf.api.metadata import Metadata, Snapshot

from lachan import clock
from lachan.events import FirmwareHalted, FirmwareSigned
from lachan.identity import system
from lachan.signer.client import SignerClient
from lachan.signer.errors import SignerBusy, SignerRefused
from lachan.work import outbox
from ota_signing import bins, tuf_metadata
from ota_signing.errors import NoSuchRelease, WrongState
from ota_signing.models import releases
from ota_signing.models import slots as slots_
from ota_signing.repository import Repository
from ota_signing.schemas import ReleaseState

if TYPE_CHECKING:
    from lachan.runtime import Runtime
    from lachan.work.jobs import Job

_BINS = 8  # written down in one unit
SIGNING_TIMEOUT = 300.0  # seconds; the signer reads the whole artifact again


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
    signature = base64.b64decode(answer["signature"])

    def keep(connection: sa.Connection) -> None:
        where = sa.and_(
            releases.c.id == release_id, releases.c.state == ReleaseState.APPROVED,
            releases.c.digest == answer["digest"],
        )  # fmt: skip
        values = {"state": ReleaseState.SIGNED, "signed_at": clock.now(), "reason": ""}
        if connection.execute(releases.update().where(where).values(**values, signature=signature)).rowcount:
            event = FirmwareSigned(release_id=release_id, digest=answer["digest"])
            outbox.append(connection, event, actor=system("signer"))

    rt.db.run(keep)


def sign_job(rt: "Runtime", job: "Job") -> None:
    """Run the job ``ota.sign``: a refusal is written to the release and not tried again; all else is."""
    release_id = job.payload["release_id"]
    try:
        sign(rt, release_id)
    except SignerBusy:
        raise
    except SignerRefused as refusal:
        where = sa.and_(releases.c.id == release_id, releases.c.state == ReleaseState.APPROVED)
        told = releases.update().where(where).values(reason=f"signer: {refusal.detail}")
        rt.db.run(lambda connection: connection.execute(told).rowcount)


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
            _renew(rt, repository)


def audit(rt: "Runtime") -> None:
    """Recurring: have the signer read every published release again, and compare every public file, byte by byte.

    So what somebody changed beside lachan is found within the hour: a row, an approval, a file.
    """
    repository = Repository(rt.settings)
    with repository.locked():
        _renew(rt, repository, everything=True)


def refresh_job(rt: "Runtime", job: "Job") -> None:
    """Run the job ``ota.tuf.publish``: something was published, halted or resumed."""
    refresh(rt)


def stale(rt: "Runtime", repository: Repository) -> bool:
    """Tell whether the public metadata is missing, half expired or damaged, or releases have changed since.

    The timestamp speaks for all roles: it is renewed twice a day, and then the signer looks after the others.
    """
    standing = repository.standing()
    if standing is None:
        return True
    timestamp, snapshot = standing
    with rt.db.read() as connection:
        waiting = bins.waiting(connection)
    return (
        bool(waiting)
        or tuf_metadata.half_over(timestamp.expires, tuf_metadata.TIMESTAMP_LIFE, clock.now())
        or snapshot.meta["targets.json"].version != repository.newest("targets")
        or bool(repository.missing(snapshot))
    )


def _renew(rt: "Runtime", repository: Repository, *, everything: bool = False) -> None:
    """Ask the signer, fetch the files that are new, switch to them, and write down what is public now."""
    answer = _ask(rt, "tuf", everything=everything)
    _halt_refused(rt, answer["refused"])
    snapshot = Metadata[Snapshot].from_bytes(answer["snapshot"].encode()).signed
    fetched = _fetch(rt, repository, snapshot, thorough=everything)
    repository.add("snapshot", answer["snapshot"].encode())
    repository.switch(answer["timestamp"].encode())
    _record(rt, repository, snapshot, answer["revisions"], fetched)
    repository.prune(snapshot, fetched)


def _fetch(rt: "Runtime", repository: Repository, snapshot: Snapshot, *, thorough: bool) -> list[str]:
    """Fetch the files that a snapshot names and that do not lie there; name them."""
    wanted = repository.missing(snapshot, thorough=thorough)
    left = list(wanted)
    while left:
        files = _ask(rt, "tuf_files", roles=left)["files"]
        for role, text in files.items():
            repository.add(role, text.encode())
        left = [role for role in left if role not in files]
    return wanted


def _record(
    rt: "Runtime", repository: Repository, snapshot: Snapshot, revisions: Sequence[int], fetched: Sequence[str]
) -> None:
    """Write down what clients find now: of the bins that are new, and of those whose slots waited."""
    number = sum(name.startswith(f"{bins.PREFIX}-") for name in snapshot.meta)
    bits = number.bit_length() - 1
    with rt.db.read() as connection:
        waiting = bins.waiting(connection)
    roles = {bins.name_of(slot, bits) for slot in waiting} | ({*fetched} & {*bins.names(bits)})
    public = [(bins.slots_of(role, bits), repository.listed(snapshot, role).keys()) for role in sorted(roles)]
    for start in range(0, len(public), _BINS):
        rt.db.run(partial(_record_bins, public=public[start : start + _BINS], revisions=revisions))


def _record_bins(
    connection: sa.Connection, *, public: Sequence[tuple[range, Collection[str]]], revisions: Sequence[int]
) -> None:
    """Run as a unit: some bins, as they are public now."""
    for slots, paths in public:
        _record_bin(connection, slots, paths, revisions)


def _record_bin(connection: sa.Connection, slots: range, paths: Collection[str], revisions: Sequence[int]) -> None:
    """Write which releases of these slots are public, and of which of their changes that is true."""
    columns = (releases.c.id, releases.c.target_path, releases.c.listed)
    rows = connection.execute(sa.select(*columns).where(releases.c.slot.between(slots[0], slots[-1]))).all()
    for listed in (True, False):
        wrong = [row.id for row in rows if (row.target_path in paths) is listed and row.listed is not listed]
        for start in range(0, len(wrong), 500):
            these = releases.c.id.in_(wrong[start : start + 500])
            connection.execute(releases.update().where(these).values(listed=listed))
    for slot in slots:
        here = sa.and_(slots_.c.slot == slot, slots_.c.published != revisions[slot])
        connection.execute(slots_.update().where(here).values(published=revisions[slot]))


def _halt_refused(rt: "Runtime", refused: dict[str, str]) -> None:
    """Halt what the signer refused, a few at a time; the bins do not list them already."""
    waiting = sorted(refused.items())
    for start in range(0, len(waiting), 50):
        rt.db.run(partial(_halt_few, refused=waiting[start : start + 50]))


def _halt_few(connection: sa.Connection, *, refused: Sequence[tuple[str, str]]) -> None:
    for release_id, why in refused:
        reason = f"signer: {why}"
        here = sa.and_(releases.c.id == release_id, releases.c.state == ReleaseState.PUBLISHED)
        if connection.execute(releases.update().where(here).values(state=ReleaseState.HALTED, reason=reason)).rowcount:
            path = sa.select(releases.c.target_path).where(releases.c.id == release_id)
            bins.touch(connection, bins.slot(connection.execute(path).scalar_one()))  # doors know changes by the slots
            outbox.append(connection, FirmwareHalted(release_id=release_id, reason=reason), actor=system("signer"))


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
