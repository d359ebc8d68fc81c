"""The repository follows the database: by itself, in the right order, and whole after a crash at any write."""

import contextlib
from datetime import timedelta

import pytest
import sqlalchemy as sa
from tuf.api.metadata import Metadata, Targets, Timestamp

from lachan import blobs, clock, files
from lachan.signer.errors import SignerUnavailable
from lachan.work.outbox import events
from lachan.work.worker import Worker, plan
from ota_signing import bins, memory, publishing, releases, repository, service, tuf_metadata
from ota_signing.errors import LowerVersion, RepositoryBroken, WrongState
from ota_signing.memory import Memory
from ota_signing.models import approvals
from ota_signing.models import releases as release_rows
from ota_signing.repository import Repository
from ota_signing.schemas import ReleaseState
from tests.ota_signing.conftest import House
from tests.support.signer import running_signer


def stamp(house: House) -> Timestamp:
    return Metadata[Timestamp].from_bytes(Repository(house.rt.settings).read("timestamp")).signed


def whole(house: House) -> dict[str, str]:
    """Follow the public files as a client does, into every bin; what they list."""
    repository = Repository(house.rt.settings)
    stands = repository.standing()
    assert stands is not None
    _, snapshot = stands
    assert repository.missing(snapshot, thorough=True) == []
    delegated = Metadata[Targets].from_bytes(repository.get(f"{snapshot.meta['releases.json'].version}.releases.json"))
    roles = delegated.signed.delegations.succinct_roles
    return {path: sha256 for role in roles.get_roles() for path, sha256 in repository.listed(snapshot, role).items()}


def bin_file(house: House, target_path: str) -> str:
    """The name of the public file that lists a target."""
    name = f"{bins.name_of(bins.slot(target_path), bins.MIN_BITS)}.json"
    _, snapshot = Repository(house.rt.settings).standing()
    return f"{snapshot.meta[name].version}.{name}"


def release_of(house: House, release_id: str) -> releases.Release:
    with house.rt.db.read() as connection:
        return releases.get(connection, release_id, principal=house.platform)


def test_nothing_is_signed_while_all_is_fresh(house: House) -> None:
    before = stamp(house).version
    publishing.refresh(house.rt)
    assert stamp(house).version == before


@pytest.mark.parametrize(("days", "snapshots"), [(0.6, 1), (2, 1), (4, 2), (40, 2)])
def test_each_role_is_renewed_at_half_its_life(house: House, days: float, snapshots: int) -> None:
    with clock.travel(timedelta(days=days)):
        publishing.refresh(house.rt)
        now = clock.now()
        assert stamp(house).version == 2
        assert stamp(house).expires > now + timedelta(hours=23)
        assert Repository(house.rt.settings).newest("snapshot") == snapshots
        assert not publishing.stale(house.rt, Repository(house.rt.settings))
        assert whole(house) == {}


def test_what_was_made_while_the_clock_was_ahead_is_made_anew(house: House) -> None:
    """It would let a thief of the mirror show old metadata for weeks."""
    with clock.travel(timedelta(days=36)):
        publishing.refresh(house.rt)
    before = stamp(house).version
    publishing.refresh(house.rt)
    assert stamp(house).version == before + 1
    assert stamp(house).expires <= clock.now() + timedelta(days=1)


def test_the_worker_does_it_after_two_days_of_silence(house: House) -> None:
    with clock.travel(timedelta(days=2)):
        plan(house.rt)
        Worker(house.rt, kinds=["every:ota.tuf.refresh"]).run_due()
        assert stamp(house).expires > clock.now()


def test_without_a_signer_it_fails_and_recovers(quiet_house: House) -> None:
    with clock.travel(timedelta(days=2)):
        with pytest.raises(SignerUnavailable):
            publishing.refresh(quiet_house.rt)
        with running_signer(quiet_house.rt):
            publishing.refresh(quiet_house.rt)
        assert stamp(quiet_house).expires > clock.now()


def test_approval_jobs_sign_and_publishing_lists(house: House) -> None:
    release = house.approved()
    assert release.state is ReleaseState.APPROVED
    Worker(house.rt, kinds=["ota.sign"]).run_due()
    assert release_of(house, release.id).state is ReleaseState.SIGNED
    done = service.publish(house.rt, house.platform, release.id)
    assert (done.state, done.listed) == (ReleaseState.PUBLISHED, True)
    assert whole(house) == {release.target_path: release.sha256}


def test_a_refused_signature_is_told_and_not_tried_again(house: House) -> None:
    release = house.approved()
    with house.rt.db.write() as connection:
        connection.execute(release_rows.update().values(version="9"))
    assert Worker(house.rt, kinds=["ota.sign"]).run_due() == 1
    assert Worker(house.rt, kinds=["ota.sign"]).run_due() == 0
    assert "changed" in release_of(house, release.id).reason


def test_published_while_the_signer_is_down_follows_later(quiet_house: House) -> None:
    house = quiet_house
    release = house.approved()
    with running_signer(house.rt):
        publishing.sign(house.rt, release.id)
    done = service.publish(house.rt, house.platform, release.id)
    assert (done.state, done.listed) == (ReleaseState.PUBLISHED, False)
    with running_signer(house.rt):
        Worker(house.rt, kinds=["ota.tuf.publish"]).run_due()
    assert release_of(house, release.id).listed


def test_a_published_release_changed_by_hand_is_taken_out(house: House) -> None:
    release = house.published()
    with house.rt.db.write() as connection:
        connection.execute(release_rows.update().values(sha256="ab" * 32))
    publishing.audit(house.rt)
    after = release_of(house, release.id)
    assert (after.state, after.listed) == (ReleaseState.HALTED, False)
    assert "signer: artifact-changed" in after.reason
    assert whole(house) == {}


def test_a_release_published_by_hand_is_not_listed(house: House) -> None:
    """All rows in order, but the signer never signed for it: somebody wrote state and signature into the database."""
    release = house.approved()
    with house.rt.db.write() as connection:
        connection.execute(release_rows.update().values(state="published", signature=b"x", published_at=clock.now()))
    publishing.audit(house.rt)
    after = release_of(house, release.id)
    assert (after.state, after.reason) == (ReleaseState.HALTED, "signer: never-signed")
    assert whole(house) == {}


def test_people_who_left_take_no_firmware_with_them(house: House) -> None:
    from lachan.identity.models import people

    release = house.published()
    with house.rt.db.write() as connection:
        connection.execute(people.update().values(active=False))
    with clock.travel(timedelta(days=2)):
        publishing.refresh(house.rt)
    assert release_of(house, release.id).state is ReleaseState.PUBLISHED


class Crash(OSError):
    """The disk is gone."""


@pytest.mark.parametrize("at", range(5))  # bin and state of the signer's memory; bin, snapshot and timestamp in public
def test_a_crash_at_any_write_leaves_clients_whole_and_is_healed(
    house: House, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The public files are whole before, after, and at every write in between; the next round finishes the work."""
    first, second = house.published("1.0", b"one"), house.approved("1.1", b"two")
    publishing.sign(house.rt, second.id)
    version = stamp(house).version
    real, written = files.write_atomically, []

    def failing(path, content, **more) -> int:
        written.append(path.name)
        if len(written) > at:
            raise Crash
        return real(path, content, **more)

    with monkeypatch.context() as patch:
        patch.setattr(memory, "write_atomically", failing)
        patch.setattr(blobs, "write_atomically", failing)
        with contextlib.suppress(Crash):
            service.publish(house.rt, house.platform, second.id)
    assert len(written) == at + 1
    assert set(whole(house)) in ({first.target_path}, {first.target_path, second.target_path})
    publishing.refresh(house.rt)
    assert set(whole(house)) == {first.target_path, second.target_path}
    assert stamp(house).version > version
    assert release_of(house, second.id).listed


def test_damaged_public_files_are_replaced(house: House) -> None:
    release = house.published()
    folder = Repository(house.rt.settings).folder
    for name in ("timestamp.json", "2.snapshot.json", "1.releases.json", bin_file(house, release.target_path)):
        (folder / name).write_bytes(b'{"torn":')
        publishing.refresh(house.rt)
        assert whole(house) == {release.target_path: release.sha256}


def test_a_file_changed_in_place_is_found_by_the_audit(house: House) -> None:
    """Of the same length, so that only its bytes tell."""
    release = house.published()
    path = Repository(house.rt.settings).folder / bin_file(house, release.target_path)
    before = path.read_bytes()
    path.write_bytes(before.replace(b"cam1", b"cam2"))
    publishing.refresh(house.rt)
    assert path.read_bytes() != before
    publishing.audit(house.rt)
    assert path.read_bytes() == before


def test_a_file_that_the_signer_lost_is_made_again(house: House) -> None:
    release = house.published()
    name = bin_file(house, release.target_path)
    (house.rt.settings.signer_home / "tuf" / name).unlink()
    (Repository(house.rt.settings).folder / name).unlink()
    publishing.refresh(house.rt)
    assert whole(house) == {release.target_path: release.sha256}
    assert int(bin_file(house, release.target_path).partition(".")[0]) == int(name.partition(".")[0]) + 1


def test_old_versions_are_cleared_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "KEEP", 3)
    monkeypatch.setattr(repository, "KEEP_BINS", 1)
    release = house.published()
    name = bin_file(house, release.target_path).partition(".")[2]
    for _ in range(3):
        for verb in (service.halt, service.resume):
            with house.rt.db.write() as connection:
                verb(connection, house.platform, release.id, reason="again")
            publishing.refresh(house.rt)
    folder = Repository(house.rt.settings).folder
    assert sorted(path.name for path in folder.glob("*.snapshot.json")) == [f"{n}.snapshot.json" for n in (6, 7, 8)]
    assert sorted(path.name for path in folder.glob(f"*.{name}")) == [f"8.{name}"]
    own = house.rt.settings.signer_home / "tuf"
    assert [path.name for path in own.glob(f"*.{name}")] == [f"8.{name}"]
    assert whole(house)


def test_one_release_makes_one_bin_again(house: House) -> None:
    """Whatever stands already: what is written is the bin, the snapshot and the timestamp, and no other bin is signed."""
    for number in range(4):
        house.published(f"1.{number}", b"v%d" % number)
    folder = Repository(house.rt.settings).folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    log = house.rt.settings.signer_home / "signatures.log"
    lines = len(log.read_bytes().splitlines())
    release = house.approved("2.0", b"new")
    publishing.sign(house.rt, release.id)
    service.publish(house.rt, house.platform, release.id)
    new = {path.name for path in folder.iterdir()} - before.keys()
    assert new == {bin_file(house, release.target_path), f"{stamp(house).snapshot_meta.version}.snapshot.json"}
    assert len(log.read_bytes().splitlines()) == lines + 1 + 3  # the release itself; bin, snapshot, timestamp


def test_more_releases_get_more_bins_and_names_stay(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    first = house.published("1.0", b"one")
    old = Repository(house.rt.settings).standing()[1].meta
    monkeypatch.setattr(bins, "FULL", 1 / 32)  # the second release is one too many for 32 bins
    second = house.published("1.1", b"two")
    snapshot = Repository(house.rt.settings).standing()[1]
    assert len(snapshot.meta) == 64 + 2
    assert all(snapshot.meta[name].version >= meta.version for name, meta in old.items())
    assert whole(house) == {release.target_path: release.sha256 for release in (first, second)}
    with house.rt.db.write() as connection:
        service.halt(connection, house.platform, second.id, reason="gone")
    publishing.refresh(house.rt)
    assert len(Repository(house.rt.settings).standing()[1].meta) == 64 + 2  # never fewer again
    assert whole(house) == {first.target_path: first.sha256}


def test_what_cannot_be_read_refuses_itself_and_no_other(house: House) -> None:
    good, bad, worse = (house.published(f"1.{n}", b"v%d" % n) for n in range(3))
    with house.rt.db.write() as connection:
        connection.execute(release_rows.update().where(release_rows.c.id == bad.id).values(vendor="ac\x00me"))
        event = sa.select(approvals.c.event_id).where(approvals.c.release_id == worse.id)
        connection.execute(events.update().where(events.c.id.in_(event)).values(body=b"{not json"))
    publishing.audit(house.rt)
    assert whole(house) == {good.target_path: good.sha256}
    assert "artifact-changed" in release_of(house, bad.id).reason
    assert "approval-unrecorded" in release_of(house, worse.id).reason


def test_a_name_that_cannot_be_printed_is_not_listed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients would make other canonical bytes of it, and refuse the bin of everybody in it."""
    good = house.published("1.0", b"good")
    monkeypatch.setattr(service, "check_names", lambda **names: None)
    bad = house.published("1.1\n", b"bad")
    assert (bad.state, bad.reason) == (ReleaseState.HALTED, "signer: unreadable")
    assert whole(house) == {good.target_path: good.sha256}


def test_a_repository_from_before_bins_counts_on(house: House) -> None:
    """An installation whose signer knew one list: the next round makes all bins, and no version goes back."""
    release, own = house.published(), house.rt.settings.signer_home / "tuf"
    public = Repository(house.rt.settings)
    for role in ("releases", "snapshot", "timestamp"):
        (own / f"{role}.json").write_bytes(public.read(role))
    before = {role: tuf_metadata.version(public.read(role)) for role in ("releases", "snapshot", "timestamp")}
    for path in (own / "state.json", *own.glob("*.releases-*.json"), *public.folder.glob("*.releases-*.json")):
        path.unlink()
    publishing.refresh(house.rt)
    assert whole(house) == {release.target_path: release.sha256}
    assert all(tuf_metadata.version(public.read(role)) > version for role, version in before.items())


def test_versions_never_go_back_though_the_public_folder_is_lost(house: House) -> None:
    house.published()
    before, folder = stamp(house).version, Repository(house.rt.settings).folder
    for path in folder.glob("*.json"):
        if "root" not in path.name and "targets" not in path.name:
            path.unlink()
    publishing.refresh(house.rt)
    assert stamp(house).version > before
    assert whole(house)


def test_a_lower_version_is_published_only_as_a_downgrade(house: House) -> None:
    low = house.approved("1.5", b"low")
    house.published("2.0", b"high")
    with pytest.raises(LowerVersion):
        service.publish(house.rt, house.platform, low.id)
    assert service.publish(house.rt, house.platform, house.approved("1.6", b"d", downgrade=True).id).listed


def test_halted_releases_are_not_published_again(house: House) -> None:
    release = house.published()
    with house.rt.db.write() as connection:
        assert service.halt(connection, house.platform, release.id, reason="stop")
        assert not service.halt(connection, house.platform, release.id, reason="stop")
    with pytest.raises(WrongState):
        service.publish(house.rt, house.platform, release.id)


def test_a_signer_without_metadata_says_so(tmp_path, settings) -> None:
    with pytest.raises(RepositoryBroken):
        Memory(tmp_path, Repository(settings)).trusted()
