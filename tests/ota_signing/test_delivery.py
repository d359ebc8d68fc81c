"""What a device is offered, may fetch and may report."""

import pytest
import sqlalchemy as sa

from lachan import clock, devices, trust
from lachan.errors import Forbidden, Invalid, NotFound
from lachan.trust import Answer, Signal
from lachan.work.outbox import events
from ota_signing import delivery, service
from ota_signing.errors import ReleaseHalted, TrustWithheld
from ota_signing.schemas import InstallOutcome
from tests.ota_signing.conftest import FIRMWARE, House

INSTALLED, FAILED, BACK = InstallOutcome.INSTALLED, InstallOutcome.FAILED, InstallOutcome.ROLLED_BACK


def running(house: House, device_id: str) -> str | None:
    with house.rt.db.read() as connection:
        return devices.get(connection, device_id).firmware_version


def report(house: House, device, release, outcome=INSTALLED, version=None, detail=""):
    version = version or release.version
    return delivery.report(house.rt, device, release_id=release.id, version=version, outcome=outcome, detail=detail)


def told(house: House) -> int:
    with house.rt.db.read() as connection:
        query = sa.select(sa.func.count()).where(events.c.name == "FirmwareInstalled")
        return connection.execute(query).scalar_one()


def contain(house: House, device_id: str, answer: Answer) -> None:
    signal = Signal(device_id=device_id, source="test", answer=answer, reason="test", ref="r", since=clock.now())
    with house.rt.db.write() as connection:
        trust.set_signal(connection, signal)


def test_a_device_is_offered_what_is_newer_until_it_runs_it(house: House) -> None:
    camera = house.device()
    assert delivery.offer(house.rt, camera.id) is None
    release = house.published()
    offered = delivery.offer(house.rt, camera.id)
    assert offered is not None
    assert (offered.release_id, offered.sha256, offered.target_path) == (
        release.id, release.sha256, "acme/cam1/2.0.0/firmware.bin",
    )  # fmt: skip
    report(house, camera, release)
    assert delivery.offer(house.rt, camera.id) is None
    newer = house.published("2.0.1", b"newer")
    assert delivery.offer(house.rt, camera.id).release_id == newer.id


def test_only_the_vendor_and_model_it_is_made_for(house: House) -> None:
    release = house.published()
    for number, kind in enumerate(({"model": "cam2"}, {"vendor": "other"})):
        stranger = house.device(f"x-{number}", **kind)
        assert delivery.offer(house.rt, stranger.id) is None
        with pytest.raises(NotFound):
            delivery.firmware(house.rt, stranger.id, release.id)
        with pytest.raises(NotFound):
            delivery.target(house.rt, stranger.id, f"acme/cam1/2.0.0/{release.sha256}.firmware.bin")
        with pytest.raises(NotFound):
            report(house, stranger, release)


def test_nothing_is_handed_out_before_it_is_published(house: House) -> None:
    camera, release = house.device(), house.approved()
    assert delivery.offer(house.rt, camera.id) is None
    with pytest.raises(NotFound):
        delivery.firmware(house.rt, camera.id, release.id)


def test_a_halted_release_vanishes_at_once_and_comes_back(house: House) -> None:
    camera, old, new = house.device(), house.published("1.0", b"old"), house.published()
    with house.rt.db.write() as connection:
        service.halt(connection, house.platform, new.id, reason="bad")
    assert delivery.offer(house.rt, camera.id).release_id == old.id
    with pytest.raises(ReleaseHalted):
        delivery.firmware(house.rt, camera.id, new.id)
    with house.rt.db.write() as connection:
        service.resume(connection, house.platform, new.id, reason="good")
    assert delivery.offer(house.rt, camera.id).release_id == new.id
    assert delivery.firmware(house.rt, camera.id, new.id).path.read_bytes() == FIRMWARE


def test_halting_rolls_nobody_back(house: House) -> None:
    camera = house.device()
    house.published("1.0", b"old")
    new = house.published()
    report(house, camera, new)
    with house.rt.db.write() as connection:
        service.halt(connection, house.platform, new.id, reason="bad")
    assert delivery.offer(house.rt, camera.id) is None


def test_an_approved_downgrade_reaches_devices_with_a_higher_version(house: House) -> None:
    camera = house.device()
    report(house, camera, house.published("2.0.0"))
    down = house.published("1.9", b"older", downgrade=True)
    assert delivery.offer(house.rt, camera.id).release_id == down.id
    report(house, camera, down)
    assert delivery.offer(house.rt, camera.id) is None


@pytest.mark.parametrize("answer", Answer)
def test_the_trust_decision_rules(house: House, answer: Answer) -> None:
    camera, release = house.device(), house.published()
    contain(house, camera.id, answer)
    if answer in (Answer.ALLOW, Answer.LIMITED):
        assert delivery.offer(house.rt, camera.id).release_id == release.id
        return
    with pytest.raises(TrustWithheld):
        delivery.offer(house.rt, camera.id)
    with pytest.raises(TrustWithheld):
        delivery.firmware(house.rt, camera.id, release.id)


def test_reports_are_taken_once_and_move_the_registry(house: House) -> None:
    camera, release = house.device(), house.published()
    first = report(house, camera, release)
    assert report(house, camera, release) == first
    assert (running(house, camera.id), told(house)) == ("2.0.0", 1)
    assert report(house, camera, release, BACK, "1.0").id != first.id
    assert (running(house, camera.id), told(house)) == ("1.0", 2)
    report(house, camera, release, FAILED, "1.0", detail="x" * 900)
    assert running(house, camera.id) == "1.0"
    report(house, camera, release)
    assert (running(house, camera.id), told(house)) == ("2.0.0", 4)
    with house.rt.db.read() as connection:
        found = delivery.history(connection, camera.id)
    assert [install.outcome for install in found] == [INSTALLED, FAILED, BACK, INSTALLED]
    assert len(found[1].detail) == 500


def test_a_device_speaks_of_itself_and_truly(house: House) -> None:
    camera, release = house.device(), house.published()
    with pytest.raises(Invalid):
        report(house, camera, release, INSTALLED, "9.9")
    with pytest.raises(Forbidden):
        report(house, house.platform, release)
