"""Ways around the second pair of eyes, and around whose word counts."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import clock, devices
from lachan.devices import NewDevice
from lachan.identity import Role, system
from lachan.runtime import Runtime
from lachan.signer.errors import SignerRefused
from ota_signing import service
from ota_signing.models import releases as release_rows
from ota_signing.statement import ReleaseStatement
from posture import engagements
from posture.engagements import EngagementWanted, Method
from posture.errors import EngagementInvalid
from tests.api.support import Town
from tests.conftest import person
from tests.ota_signing.conftest import House


def test_a_token_makes_neither_people_nor_sessions(doors: Town) -> None:
    """An administrator's token could else make two approvers, sign in as both, and be four eyes all alone."""
    bearer = {"Authorization": f"Bearer {doors.token(Role.ADMIN)}"}
    admin = doors.sign_in("chi", Role.ADMIN)
    with doors.client("people") as client:
        new = {"name": "ghost", "roles": ["approver"]}
        refused = client.post("/api/v1/users", json=new, headers=bearer)
        assert (refused.status_code, refused.json()["code"]) == (403, "person-needed")
        assert client.post("/api/v1/users", json=new, headers=admin.headers).status_code == 201
        refused = client.post("/api/v1/users/ghost/link", headers=bearer)
        assert (refused.status_code, refused.json()["code"]) == (403, "person-needed")
        assert client.get("/api/v1/users", headers=bearer).status_code == 200


def wanted(device_id: str, **more: Any) -> EngagementWanted:
    now = clock.now()
    return EngagementWanted(
        reason="look", device_ids=(device_id,), ports=(80,), methods=(Method.HTTP,), not_before=now,
        not_after=now + timedelta(hours=1), **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "::", "[::]", "169.254.169.254", "100.100.100.200", "224.0.0.1", "255.255.255.255", "fe80::1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "OWN",
    ],
)  # fmt: skip
def test_a_registered_address_points_no_probe_at_ourselves_or_the_cloud(
    rt: Runtime, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manufacturer writes the address into the registry; approving a look at its camera must not mean more."""
    if address == "OWN":  # an address of this machine that is not loopback: the test's machine may have none
        address = "192.0.2.7"
        monkeypatch.setattr(engagements, "is_own", lambda found: str(found) == "192.0.2.7")
    new = NewDevice(name="cam-1", vendor="acme", model="m", serial_number="1", site="s", address=address)
    with rt.db.write() as connection:
        made = devices.register(connection, new, actor=person("maker", Role.MANUFACTURER, vendor="acme"))
        with pytest.raises(EngagementInvalid):
            engagements.request(connection, wanted(made.id), actor=person("an", Role.ANALYST))


def test_a_network_that_is_named_opens_its_special_addresses(rt: Runtime) -> None:
    """A camera that never got an address is looked at where an approver can read that it is link-local."""
    new = NewDevice(name="cam-1", vendor="acme", model="m", serial_number="1", site="s", address="169.254.7.7")
    with rt.db.write() as connection:
        made = devices.register(connection, new, actor=system("test"))
        asked = wanted(made.id, networks=("169.254.7.0/24",))
        assert engagements.request(connection, asked, actor=person("an", Role.ANALYST)).networks


def test_a_release_cannot_ask_for_fewer_approvals_than_the_installation_does(house: House) -> None:
    """Whoever writes rows lowers k before people look; one genuine approval then satisfies the row, not the signer."""
    least = house.rt.settings.ota_approvals
    release = house.propose()
    with house.rt.db.write() as connection:
        row = connection.execute(sa.select(release_rows).where(release_rows.c.id == release.id)).mappings().one()
        lowered = ReleaseStatement.of({**row, "approvals_needed": 1})
        values = {"approvals_needed": 1, "digest": lowered.digest}
        connection.execute(release_rows.update().where(release_rows.c.id == release.id).values(**values))
    service.approve(house.rt, house.person("an"), release.id, digest=lowered.digest)
    with pytest.raises(SignerRefused, match=f"1 of {least}"):
        house.rt.signer.request("release", release_id=release.id)
    service.approve(house.rt, house.person("binh"), release.id, digest=lowered.digest)
    assert house.rt.signer.request("release", release_id=release.id)["digest"] == lowered.digest
