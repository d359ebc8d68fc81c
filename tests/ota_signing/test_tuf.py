"""What python-tuf's own client accepts from our repository over HTTP, and every attack that it must refuse."""

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import Updater

from lachan import clock
from lachan.signer.keystore import open_keys
from ota_signing import bins, publishing, releases, service, setup, signing, tuf_metadata
from ota_signing.repository import Repository
from ota_signing.store import Store
from tests.ota_signing.conftest import FIRMWARE, House

# Which of the two it is depends on the length of a signature: a longer file is refused before it is hashed.
NOT_WHAT_WAS_LISTED = (LengthOrHashMismatchError, DownloadLengthMismatchError)

PATH = "acme/cam1/2.0.0/firmware.bin"
DAY = timedelta(days=1)
TWIN = next(  # another version that falls into the same bin
    version for version in (f"2.1.{number}" for number in range(10_000))
    if bins.slot(f"acme/cam1/{version}/firmware.bin") == bins.slot(PATH)
)  # fmt: skip


def bin_of(path: str = PATH) -> str:
    return f"{bins.name_of(bins.slot(path), bins.MIN_BITS)}.json"


def meta_of(encoded: bytes) -> MetaFile:
    return MetaFile.from_data(tuf_metadata.version(encoded), encoded, ["sha256"])


class Mirror:
    """A web server between device and lachan, in the hands of an attacker; and the device's client."""

    def __init__(self, house: House, folder: Path, url: str) -> None:
        self.house, self.folder, self.url = house, folder, url
        self.device = folder.parent / "device"
        for name in ("metadata", "targets"):
            (folder / name).mkdir(parents=True)
            (self.device / name).mkdir(parents=True)

    def copy(self) -> None:
        """Take over what lachan publishes now."""
        shutil.copytree(Repository(self.house.rt.settings).folder, self.folder / "metadata", dirs_exist_ok=True)
        with self.house.rt.db.read() as connection:
            for release in releases.find(connection, principal=self.house.platform):
                place = self.target(release.target_path, release.sha256)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(Store(self.house.rt.settings).path(release.sha256).read_bytes())

    def target(self, path: str, sha256: str) -> Path:
        head, _, name = path.rpartition("/")
        return self.folder / "targets" / head / f"{sha256}.{name}"

    def metadata(self, name: str) -> Path:
        return self.folder / "metadata" / name

    def bin(self, version: int, path: str = PATH) -> Path:
        """The file of the bin that lists a target."""
        return self.metadata(f"{version}.{bin_of(path)}")

    def fetch(self, path: str = PATH) -> bytes | None:
        """What the device does at every round, with what it remembers of earlier ones."""
        trusted = (self.house.offline / "tuf-root.json").read_bytes()
        updater = Updater(
            str(self.device / "metadata"), f"{self.url}/metadata/", str(self.device / "targets"),
            f"{self.url}/targets/", bootstrap=trusted,
        )  # fmt: skip
        try:
            updater.refresh()
            found = updater.get_targetinfo(path)
            return None if found is None else Path(updater.download_target(found)).read_bytes()
        finally:
            for pool in updater._fetcher._proxy_env._pool_managers.values():
                pool.clear()


class Server(http.server.ThreadingHTTPServer):
    """A server that does not mind when a client hangs up."""

    def handle_error(self, *_: object) -> None:
        """Nothing."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def mirror(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror of a repository with one published release."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "mirror"
    server = Server(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    made = Mirror(house, folder, f"http://127.0.0.1:{server.server_address[1]}")
    house.published()
    made.copy()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def key_of(house: House, role: str):
    """The private key of an online role, as a thief would use it."""
    keys = open_keys(house.rt.settings.signer_home)
    online = signing.online_keys(keys, lambda name: lambda data: keys.sign(name, data))
    return getattr(online, role)


def forge(path: Path, signer, change) -> bytes:
    """Metadata read from a file, changed, and signed with a stolen key."""
    metadata = Metadata.from_bytes(path.read_bytes())
    change(metadata.signed)
    return tuf_metadata.encode(metadata, [signer])


def test_the_client_downloads_what_people_approved(mirror: Mirror) -> None:
    assert mirror.fetch() == FIRMWARE
    assert mirror.fetch("acme/cam1/9.9/firmware.bin") is None


def test_the_entry_says_whom_it_is_for(mirror: Mirror) -> None:
    release = Metadata[Targets].from_bytes(mirror.bin(2).read_bytes()).signed.targets[PATH]
    assert release.custom["model"] == "cam1"
    assert release.custom["version"] == "2.0.0"
    assert release.length == len(FIRMWARE)


def test_rolled_back_timestamp_is_refused(mirror: Mirror) -> None:
    old = mirror.metadata("timestamp.json").read_bytes()
    mirror.house.published("2.1.0", b"newer")
    mirror.copy()
    assert mirror.fetch("acme/cam1/2.1.0/firmware.bin") == b"newer"
    mirror.metadata("timestamp.json").write_bytes(old)
    with pytest.raises(BadVersionNumberError):
        mirror.fetch()


def test_rolled_back_snapshot_under_a_stolen_timestamp_key_is_refused(mirror: Mirror) -> None:
    mirror.house.published("2.1.0", b"newer")
    mirror.copy()
    mirror.fetch()
    path = mirror.metadata("timestamp.json")
    version = Metadata[Timestamp].from_bytes(path.read_bytes()).signed.snapshot_meta.version

    def back(signed: Timestamp) -> None:
        signed.version += 1
        older = mirror.metadata(f"{version - 1}.snapshot.json").read_bytes()
        signed.snapshot_meta = meta_of(older)

    path.write_bytes(forge(path, key_of(mirror.house, "timestamp"), back))
    with pytest.raises(BadVersionNumberError):
        mirror.fetch()


def test_an_older_snapshot_under_a_newer_name_is_refused(mirror: Mirror) -> None:
    mirror.house.published("2.1.0", b"newer")
    mirror.copy()
    mirror.metadata("3.snapshot.json").write_bytes(mirror.metadata("2.snapshot.json").read_bytes())
    with pytest.raises(NOT_WHAT_WAS_LISTED):
        mirror.fetch()


@pytest.mark.parametrize("stolen", [(), ("snapshot", "timestamp")], ids=["no key", "online keys"])
def test_mixed_metadata_is_refused(mirror: Mirror, stolen: tuple[str, ...]) -> None:
    """Releases of one moment beside the snapshot of another; or with the releases' own older version called newer."""
    mirror.house.published(TWIN, b"newer")
    mirror.copy()
    mirror.bin(3).write_bytes(mirror.bin(2).read_bytes())
    if stolen:
        path = mirror.metadata("3.snapshot.json")

        def mix(signed: Snapshot) -> None:
            meta = meta_of(mirror.bin(2).read_bytes())
            meta.version = 3
            signed.meta[bin_of()] = meta

        path.write_bytes(forge(path, key_of(mirror.house, "snapshot"), mix))
        stamp = mirror.metadata("timestamp.json")
        stamp.write_bytes(
            forge(
                stamp,
                key_of(mirror.house, "timestamp"),
                lambda signed: setattr(signed, "snapshot_meta", meta_of(path.read_bytes())),
            )
        )
    with pytest.raises(BadVersionNumberError if stolen else NOT_WHAT_WAS_LISTED):
        mirror.fetch()


def test_expired_metadata_is_refused_and_a_server_back_after_two_days_recovers(
    request: pytest.FixtureRequest,
) -> None:
    """The repository is two days old, as if the server had been down: nobody accepts it until the recurring job ran."""
    with clock.travel(-2 * DAY):
        house: House = request.getfixturevalue("house")
        mirror: Mirror = request.getfixturevalue("mirror")
    with pytest.raises(ExpiredMetadataError):
        mirror.fetch()
    publishing.refresh(house.rt)
    mirror.copy()
    assert mirror.fetch() == FIRMWARE


def test_each_role_expires(mirror: Mirror) -> None:
    """Whatever is fresh beside it: one expired role stops the client."""
    for role in ("timestamp", "snapshot", "releases"):
        shutil.rmtree(mirror.folder / "metadata")
        mirror.copy()
        expire(mirror, role)
        shutil.rmtree(mirror.device)
        for name in ("metadata", "targets"):
            (mirror.device / name).mkdir(parents=True)
        with pytest.raises(ExpiredMetadataError):
            mirror.fetch()


def expire(mirror: Mirror, role: str) -> None:
    """Sign an expired version of a role, and everything above it again."""
    files = {"releases": f"2.{bin_of()}", "snapshot": "2.snapshot.json", "timestamp": "timestamp.json"}

    def age(signed) -> None:
        signed.expires = (clock.now() - DAY).replace(microsecond=0)

    path = mirror.metadata(files[role])
    path.write_bytes(forge(path, key_of(mirror.house, role), age))
    if role == "releases":
        snap = mirror.metadata(files["snapshot"])
        meta = meta_of(path.read_bytes())
        snap.write_bytes(forge(snap, key_of(mirror.house, "snapshot"), lambda s: s.meta.update({bin_of(): meta})))
    if role != "timestamp":
        stamp = mirror.metadata(files["timestamp"])
        meta = meta_of(mirror.metadata(files["snapshot"]).read_bytes())
        stamp.write_bytes(forge(stamp, key_of(mirror.house, "timestamp"), lambda s: setattr(s, "snapshot_meta", meta)))


def test_changed_and_endless_firmware_is_refused(mirror: Mirror) -> None:
    place = mirror.target(PATH, releases_sha(mirror))
    place.write_bytes(b"X" + FIRMWARE[1:])
    with pytest.raises(NOT_WHAT_WAS_LISTED):
        mirror.fetch()
    place.write_bytes(FIRMWARE + b"more" * 100_000)
    with pytest.raises(DownloadLengthMismatchError):
        mirror.fetch()


def releases_sha(mirror: Mirror) -> str:
    listed = tuf_metadata.listed(mirror.bin(2).read_bytes())
    return listed[PATH]


def test_stolen_snapshot_and_timestamp_keys_install_nothing(mirror: Mirror) -> None:
    """All keys that are used without approvals are stolen; firmware still needs the releases key."""
    evil = b"malware"
    path = mirror.bin(2)

    def add(signed: Targets) -> None:
        signed.version += 1
        signed.targets[PATH] = TargetFile.from_data(PATH, evil, ["sha256"])

    forged = forge(path, key_of(mirror.house, "snapshot"), add)
    mirror.bin(3).write_bytes(forged)
    snap = mirror.metadata("2.snapshot.json")

    def point(signed: Snapshot) -> None:
        signed.version += 1
        signed.meta[bin_of()] = meta_of(forged)

    new = forge(snap, key_of(mirror.house, "snapshot"), point)
    mirror.metadata("3.snapshot.json").write_bytes(new)
    stamp = mirror.metadata("timestamp.json")

    def stamped(signed: Timestamp) -> None:
        signed.version += 1
        signed.snapshot_meta = meta_of(new)

    stamp.write_bytes(forge(stamp, key_of(mirror.house, "timestamp"), stamped))
    with pytest.raises(UnsignedMetadataError):
        mirror.fetch()


@pytest.mark.parametrize("role", ["releases", "snapshot", "timestamp"])
def test_online_keys_cannot_make_a_root(mirror: Mirror, role: str) -> None:
    thief = key_of(mirror.house, role)

    def take(signed: Root) -> None:
        signed.version += 1
        signed.add_key(thief.public_key, "root")
        signed.roles["root"].threshold = 1

    mirror.metadata("2.root.json").write_bytes(forge(mirror.metadata("1.root.json"), thief, take))
    with pytest.raises(UnsignedMetadataError):
        mirror.fetch()


def test_releases_key_cannot_leave_its_paths(mirror: Mirror) -> None:
    """Only vendor/model/version/file belongs to it; other names are nobody's."""
    assert mirror.fetch("firmware.bin") is None
    assert mirror.fetch("a/b/c/d/e") is None


def test_a_halted_release_is_gone_from_the_repository(mirror: Mirror) -> None:
    house = mirror.house
    with house.rt.db.read() as connection:
        release = releases.find(connection, principal=house.platform)[0]
    with house.rt.db.write() as connection:
        service.halt(connection, house.platform, release.id, reason="bricks cameras")
    publishing.refresh(house.rt)
    mirror.copy()
    assert mirror.fetch() is None
    with house.rt.db.write() as connection:
        service.resume(connection, house.platform, release.id, reason="it was the weather")
    publishing.refresh(house.rt)
    mirror.copy()
    assert mirror.fetch() == FIRMWARE


def test_renewed_root_and_targets_are_followed(mirror: Mirror) -> None:
    assert mirror.fetch() == FIRMWARE
    assert setup.renew(mirror.house.rt.settings, mirror.house.offline) == (2, 2)
    publishing.refresh(mirror.house.rt)
    mirror.copy()
    assert mirror.fetch() == FIRMWARE
    snapshot = Metadata[Snapshot].from_bytes(Repository(mirror.house.rt.settings).read("snapshot")).signed
    assert snapshot.meta["targets.json"].version == 2


def test_offline_keys_differ_from_online_keys(house: House) -> None:
    repository = Repository(house.rt.settings)
    root = Metadata[Root].from_bytes(repository.read("root")).signed
    sets = {role: set(root.roles[role].keyids) for role in ("root", "targets", "snapshot", "timestamp")}
    targets = Metadata[Targets].from_bytes(repository.read("targets")).signed
    sets["releases"] = set(targets.delegations.roles["releases"].keyids)
    everything = [keyid for keys in sets.values() for keyid in keys]
    assert len(everything) == len(set(everything)) == 9
    online = {key_of(house, role).public_key.keyid for role in ("releases", "snapshot", "timestamp")}
    assert online == sets["releases"] | sets["snapshot"] | sets["timestamp"]
    assert root.roles["root"].threshold == root.roles["targets"].threshold == 2
    inside = [path for path in house.rt.settings.data.rglob("*") if path.is_file() and "tuf-root-" in path.name]
    assert inside == []
    assert all(b"PRIVATE KEY" not in path.read_bytes() for path in repository.folder.iterdir())
    text = json.dumps([path.name for path in (house.rt.settings.signer_home / "keys").iterdir()])
    assert "tuf-root" not in text
    assert "tuf-targets" not in text
    assert all(path.stat().st_mode & 0o077 == 0 for path in house.offline.glob("*.pem"))


def test_init_again_changes_nothing(house: House) -> None:
    from lachan.signer.context import InitContext

    before = {path.name: path.read_bytes() for path in Repository(house.rt.settings).folder.iterdir()}
    keys = open_keys(house.rt.settings.signer_home)
    setup.init(InitContext(settings=house.rt.settings, db=house.rt.db, keys=keys, offline=house.offline))
    assert before == {path.name: path.read_bytes() for path in Repository(house.rt.settings).folder.iterdir()}


def test_forged_roots_and_targets_in_the_public_folder_are_not_adopted(house: House) -> None:
    """Who can write to the public folder cannot make the signer follow a root or targets of their own."""
    repository = Repository(house.rt.settings)
    thief = key_of(house, "snapshot")

    def take(signed: Root) -> None:
        signed.version += 1

    repository.add("root", forge(repository.folder / "1.root.json", thief, take))
    from lachan.signer.errors import SignerRefused

    with pytest.raises(SignerRefused, match="does not verify"):
        house.rt.signer.request("tuf")
    (repository.folder / "2.root.json").unlink()

    def more(signed: Targets) -> None:
        signed.version += 1

    repository.add("targets", forge(repository.folder / "1.targets.json", thief, more))
    with pytest.raises(SignerRefused, match="not signed"):
        house.rt.signer.request("tuf")
    with pytest.raises(RepositoryError):
        root = Metadata[Root].from_bytes(repository.read("root")).signed
        forged = Metadata[Targets].from_bytes(repository.read("targets"))
        root.verify_delegate("targets", forged.signed_bytes, forged.signatures)
