"""A device is looked at, judged and recorded; trust hears of it."""

from __future__ import annotations

import json

from lachan.runtime import Runtime
from posture import service
from tests.posture.cameras import BadCamera
from tests.posture.conftest import ANALYST, approved, register


def verdicts(rt: Runtime, device_id: str) -> dict[str, tuple[str, str]]:
    with rt.db.read() as connection:
        return {v.criterion: (str(v.result), v.reason) for v, _, _ in service.current(connection, device_id)}


def test_planted_faults_are_found(rt: Runtime, bad: BadCamera) -> None:
    device = register(rt)
    engagement = approved(rt, device.id, bad.port)
    found = service.assess(rt, device.id, actor=ANALYST, engagement_id=engagement.id)
    now = verdicts(rt, device.id)
    assert now["CAM-1.1"] == ("fail", "default_login_accepted")
    assert now["CAM-1.3"] == ("fail", "basic_over_cleartext")
    assert now["CAM-5.1"] == ("fail", "plain_http_admin")
    assert now["CAM-5.3"] == ("fail", "basic_over_cleartext")
    assert now["CAM-6.2"][0] == "fail"
    codes = {o.code for o in found.observations}
    assert codes >= {"directory_listing", "version_disclosed", "default_login_accepted"}
    assert "pass" not in {result for result, _ in now.values()}, "nothing was declared: silence proves nothing"
    print(json.dumps(now, indent=1))
    print(len(found.observations), found.counts)
