"""The repository follows the database: by itself, in the right order, and whole after a crash at any write."""

import contextlib
from datetime import timedelta

import pytest
from tuf.api.metadata import Metadata, Timestamp

from lachan import clock
from lachan.signer.errors import SignerUnavailable
from lachan.work.worker import Worker, plan
from ota_signing import publishing, releases, repository, tuf_metadata
from ota_signing.errors import LowerVersion, RepositoryBroken, WrongState
from ota_signing.models import releases as release_rows
from ota_signing.repository import Memory, Repository
from ota_signing.schemas import ReleaseState
from tests.ota_signing.conftest import House
from tests.support.signer import running_signer


def stamp(house: House) -> Timestamp:
    return Metadata[Timestamp].from_bytes(Repository(house.rt.settings).read("timestamp")).signed


def whole(house: House) -> dict[str, str]:
    """Follow the public files as a client does; what they list."""
    public = Repository(house.rt.settings)
    snapshot = Metadata.from_bytes((public.folder / f"{stamp(house).snapshot_meta.version}.snapshot.json").read_bytes())
    meta = snapshot.signed.meta["releases.json"]
    encoded = (public.folder / f"{meta.version}.releases.json").read_bytes()
    meta.verify_length_and_hashes(encoded)
    return tuf_metadata.listed(encoded)


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
    done = publishing.publish(house.rt, house.platform, release.id)
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
    done = publishing.publish(house.rt, house.platform, release.id)
    assert (done.state, done.listed) == (ReleaseState.PUBLISHED, False)
    with running_signer(house.rt):
        Worker(house.rt, kinds=["ota.tuf.publish"]).run_due()
    assert release_of(house, release.id).listed


def test_a_published_release_changed_by_hand_is_taken_out(house: House) -> None:
    release = house.published()
    with house.rt.db.write() as connection:
        connection.execute(release_rows.update().values(sha256="ab" * 32))
    publishing.refresh(house.rt)
    after = release_of(house, release.id)
    assert (after.state, after.listed) == (ReleaseState.HALTED, False)
    assert "signer: artifact-changed" in after.reason
    assert whole(house) == {}


def test_a_release_published_by_hand_is_not_listed(house: House) -> None:
    """All rows in order, but the signer never signed for it: somebody wrote state and signature into the database."""
    release = house.approved()
    with house.rt.db.write() as connection:
        connection.execute(release_rows.update().values(state="published", signature=b"x", published_at=clock.now()))
    publishing.refresh(house.rt)
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


@pytest.mark.parametrize("at", range(6))  # three files of the signer's memory, three public ones
def test_a_crash_at_any_write_leaves_clients_whole_and_is_healed(
    house: House, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The public files are whole before, after, and at every write in between; the next round finishes the work."""
    first, second = house.published("1.0", b"one"), house.approved("1.1", b"two")
    publishing.sign(house.rt, second.id)
    version = stamp(house).version
    real, written = repository.write_atomically, []

    def failing(path, content, **more) -> None:
        written.append(path.name)
        if len(written) > at:
            raise Crash
        real(path, content, **more)

    with monkeypatch.context() as patch:
        patch.setattr(repository, "write_atomically", failing)
        with contextlib.suppress(Crash):
            publishing.publish(house.rt, house.platform, second.id)
    assert len(written) == at + 1
    assert set(whole(house)) in ({first.target_path}, {first.target_path, second.target_path})
    publishing.refresh(house.rt)
    assert set(whole(house)) == {first.target_path, second.target_path}
    assert stamp(house).version > version
    assert release_of(house, second.id).listed


def test_damaged_public_files_are_replaced(house: House) -> None:
    release = house.published()
    folder = Repository(house.rt.settings).folder
    for name in ("timestamp.json", "2.snapshot.json", "2.releases.json"):
        (folder / name).write_bytes(b'{"torn":')
        publishing.refresh(house.rt)
        assert whole(house) == {release.target_path: release.sha256}


def test_old_versions_are_cleared_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "KEEP", 3)
    for number in range(6):
        house.published(f"1.{number}", b"v%d" % number)
    folder = Repository(house.rt.settings).folder
    assert sorted(path.name for path in folder.glob("*.releases.json")) == [f"{n}.releases.json" for n in (5, 6, 7)]
    assert whole(house)


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
        publishing.publish(house.rt, house.platform, low.id)
    assert publishing.publish(house.rt, house.platform, house.approved("1.6", b"d", downgrade=True).id).listed


def test_halted_releases_are_not_published_again(house: House) -> None:
    release = house.published()
    with house.rt.db.write() as connection:
        assert releases.halt(connection, house.platform, release.id, reason="stop")
        assert not releases.halt(connection, house.platform, release.id, reason="stop")
    with pytest.raises(WrongState):
        publishing.publish(house.rt, house.platform, release.id)


def test_a_signer_without_metadata_says_so(tmp_path, settings) -> None:
    with pytest.raises(RepositoryBroken):
        Memory(tmp_path, Repository(settings)).trusted()
