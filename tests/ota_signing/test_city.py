"""A city's worth of releases: what one device fetches, over mutual TLS and counted at the client, and what one more costs."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from benchmarks import firmware as city
from lachan.signer import wire
from ota_signing import bins, publishing
from ota_signing.repository import Repository
from tests.api.support import Town
from tests.ota_signing.conftest import FIRMWARE, House

MANY = 2000  # benchmarks/firmware.py does 20 000


class Counting(FetcherInterface):
    """The client's downloads over the device's own mutual TLS, counted."""

    def __init__(self, http: httpx.Client) -> None:
        self.http, self.came = http, 0

    def _fetch(self, url: str) -> Iterator[bytes]:
        with self.http.stream("GET", url) as answer:
            if answer.status_code != 200:
                raise DownloadHTTPError(f"{url}: {answer.status_code}", answer.status_code)
            for chunk in answer.iter_raw():
                self.came += len(chunk)
                yield chunk


@pytest.fixture
def crowd(house: House) -> House:
    """The house with so many published releases that the signer knows, and no metadata yet that lists them."""
    city.crowd(house.rt, MANY)
    return house


def test_a_device_fetches_kilobytes_and_one_more_costs_one_bin(
    crowd: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = frames(monkeypatch)
    publishing.refresh(crowd.rt)
    assert len(city.public(crowd.rt)) == MANY
    assert 100_000 < max(largest) < wire.MAX_FRAME / 2
    folder = Repository(crowd.rt.settings).folder
    before = {path.name for path in folder.iterdir()}
    release = crowd.published()
    new = {path.name.partition(".")[2] for path in folder.iterdir() if path.name not in before}
    assert new == {f"{bins.name_of(bins.slot(release.target_path), bins.MIN_BITS)}.json", "snapshot.json"}
    with Town(crowd.rt, tmp_path / "authority").open() as town:
        credential = town.authority.device(crowd.device().id)
        with town.client("device", credential) as http:
            fetcher = Counting(http)
            updater = device(tmp_path, town.url("device"), fetcher, crowd)
            updater.refresh()
            target = updater.get_targetinfo(release.target_path)
            assert target is not None
            assert fetcher.came <= 50_000  # of 20 000 releases a device fetches twice as much
            assert Path(updater.download_target(target)).read_bytes() == FIRMWARE


def device(folder: Path, door: str, fetcher: Counting, house: House) -> Updater:
    """A device with an empty memory and the root that it got at manufacture."""
    for name in ("metadata", "targets"):
        (folder / name).mkdir()
    root = (house.offline / "tuf-root.json").read_bytes()
    places = (str(folder / "metadata"), f"{door}/tuf/metadata/", str(folder / "targets"), f"{door}/tuf/targets/")
    return Updater(*places, fetcher, bootstrap=root)


def frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all frames that go through the signer's socket from now on."""
    sizes, real = [0], wire._exactly

    def counted(connection, length: int, **more):
        sizes.append(length)
        return real(connection, length, **more)

    monkeypatch.setattr(wire, "_exactly", counted)
    return sizes
