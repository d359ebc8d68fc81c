"""Publishing killed with kill -9 at any step, signer included: clients find the old repository or the new one, whole."""

import signal

from ota_signing import publishing, service
from ota_signing.schemas import ReleaseState
from tests.ota_signing.conftest import House
from tests.ota_signing.killed import Lives
from tests.ota_signing.test_publishing import release_of, stamp, whole
from tests.support.signer import running_signer


def test_publishing_killed_at_any_step_leaves_the_old_or_the_new(quiet_house: House) -> None:
    house, step, listed = quiet_house, 0, set[str]()
    lives = Lives(house.rt.settings)
    seen = {"old": 0, "new": 0}
    while True:
        step += 1
        with running_signer(house.rt):
            release = house.approved(f"1.{step}", b"v%d" % step)
            publishing.sign(house.rt, release.id)
        status = lives.live(release.id, step)
        found, version = set(whole(house)), stamp(house).version
        assert found in (listed, listed | {release.target_path}), step
        seen["old" if found == listed else "new"] += 1
        if status == 0:
            assert found == listed | {release.target_path}
            break
        assert status == -signal.SIGKILL
        with running_signer(house.rt):
            publishing.refresh(house.rt)
            if release_of(house, release.id).state is not ReleaseState.PUBLISHED:  # killed before anybody was told so
                service.publish(house.rt, house.platform, release.id)
        listed.add(release.target_path)
        assert set(whole(house)) == listed
        assert stamp(house).version >= version
        assert release_of(house, release.id).listed
        assert not publishing.stale(house.rt, publishing.Repository(house.rt.settings))
    lives.close()
    # Two commits (published; recorded), two files of the signer (bin, state), three in public; before and after each.
    assert step == 2 * (2 + 2 + 3) + 1
    assert seen["old"] > 5
    assert seen["new"] > 2
