"""Four eyes are of two humans: a person, that person's tokens and shell account are one; and no token outgrows its maker."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from lachan import cliutil, clock, devices
from lachan.devices import Criticality, NewDevice
from lachan.identity import Role, humans, system, tokens
from lachan.identity.errors import BadToken, Outlives
from lachan.identity.models import tokens as rows
from lachan.runtime import Runtime
from lachan.signer.errors import SignerRefused
from ota_signing import service
from ota_signing.errors import OwnProposal
from posture import engagements
from posture.engagements import EngagementWanted, Method
from posture.errors import OwnApproval
from tests.api.support import Town
from tests.conftest import person
from tests.ota_signing.conftest import House

OPEN: list[httpx.Client] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Clients are closed after each test."""
    yield
    while OPEN:
        OPEN.pop().close()


class Desk:
    """Somebody at the people door, by session or by token."""

    def __init__(self, town: Town, headers: dict[str, str]) -> None:
        self.client = httpx.Client(
            base_url=town.url("people"),
            verify=town.context(),
            timeout=10,
            headers={**headers, "Origin": town.url("people")},
        )
        OPEN.append(self.client)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def token(self, *roles: str, days: int = 1) -> str:
        made = self.post("/api/v1/tokens", name="t", roles=list(roles), days=days)
        assert made.status_code == 201, made.text
        return str(made.json()["token"])


@pytest.fixture
def shell_town(town: Town) -> Iterator[Town]:
    """The shell account that runs these tests counts as an."""
    account = cliutil.operator().id.removeprefix("shell:")
    settings = town.rt.settings.model_copy(update={"shell_persons": {account: "an"}})
    town.rt = Runtime(settings, town.rt.db, town.rt.wiring)
    with town.open():
        yield town


def essential(town: Town, name: str) -> str:
    """A device whose cut waits for people."""
    new = NewDevice(name=name, vendor="acme", model="M", serial_number=name, site="s")
    with town.rt.db.write() as c:
        made = devices.register(c, new, actor=system("t"), criticality=Criticality.ESSENTIAL)
    return made.id


def contain(desk: Desk, device_id: str) -> str:
    made = desk.post("/api/v1/containments", device_id=device_id, level="quarantine", reason="odd")
    assert made.status_code in (200, 201, 202), made.text
    return str(made.json()["id"])


def test_a_person_approves_nothing_that_its_token_or_its_tokens_token_asked_for(shell_town: Town) -> None:
    town = shell_town
    both = [Role.ADMIN, Role.APPROVER, Role.ANALYST]
    an, binh = (Desk(town, town.sign_in(name, *both).headers) for name in ("an", "binh"))
    first = an.token("admin", "analyst", days=2)
    second = Desk(town, {"Authorization": f"Bearer {first}"}).token("analyst")
    for number, text in enumerate((first, second)):
        machine = Desk(town, {"Authorization": f"Bearer {text}"})
        found = contain(machine, essential(town, f"cam-{number}"))
        refused = an.post(f"/api/v1/containments/{found}/approve")
        assert (refused.status_code, refused.json()["code"]) == (403, "four-eyes"), refused.text
        assert binh.post(f"/api/v1/containments/{found}/approve").status_code == 200
    other = Desk(town, {"Authorization": f"Bearer {binh.token('analyst')}"})
    found = contain(other, essential(town, "cam-9"))
    assert an.post(f"/api/v1/containments/{found}/approve").status_code == 200, "another's token is another human"


def test_what_a_shell_asked_for_is_its_persons_act(shell_town: Town) -> None:
    town = shell_town
    an, binh = (Desk(town, town.sign_in(name, Role.APPROVER).headers) for name in ("an", "binh"))
    device_id = essential(town, "cam-1")
    now = clock.now()
    wanted = EngagementWanted(
        reason="look", device_ids=(device_id,), networks=("10.0.0.0/24",), ports=(80,), methods=(Method.HTTP,), not_before=now,
        not_after=now + timedelta(hours=1),
    )  # fmt: skip
    with town.rt.db.write() as c:
        c.execute(devices.devices.update().where(devices.devices.c.id == device_id).values(address="10.0.0.7"))
        asked = engagements.request(c, wanted, actor=cliutil.operator())
    refused = an.post(f"/api/v1/engagements/{asked.id}/approve")
    assert refused.status_code in (403, 409), refused.text
    assert binh.post(f"/api/v1/engagements/{asked.id}/approve").status_code == 200


def test_a_release_that_a_persons_token_proposed_is_not_that_persons_to_approve(house: House) -> None:
    """At the desk, and in the signer, which reads rows again whoever wrote them."""
    an = house.person("an")
    with house.rt.db.write() as c:
        text = tokens.issue(
            c,
            house.rt.settings.data,
            name="ci",
            roles=[Role.PLATFORM],
            actor=person("x", Role.ADMIN),
            valid=timedelta(days=1),
        )
        token_id = tokens.parse(text)[0]
        c.execute(rows.update().where(rows.c.id == token_id).values(human=an.id))
        machine = tokens.verify(c, house.rt.settings.data, text)
    file = service.upload(house.rt, machine, [b"firmware"], vendor="acme", name="fw.bin")
    release = service.propose(house.rt, machine, artifact_id=file.id, model="cam1", version="2.0.0")
    with pytest.raises(OwnProposal):
        service.approve(house.rt, an, release.id, digest=release.digest)
    with house.rt.db.write() as c:  # as if two others had, and the maker were found out since
        c.execute(rows.update().where(rows.c.id == token_id).values(human=""))
    for name in ("an", "binh"):
        service.approve(house.rt, house.person(name), release.id, digest=release.digest)
    with house.rt.db.write() as c:
        c.execute(rows.update().where(rows.c.id == token_id).values(human=an.id))
    with pytest.raises(SignerRefused, match="proposed it and approved it"):
        house.rt.signer.request("release", release_id=release.id)


def test_own_approval_of_an_engagement_by_token(rt: Runtime) -> None:
    an = person("an", Role.ANALYST, Role.APPROVER)
    with rt.db.write() as c:
        made = devices.register(
            c,
            NewDevice(name="cam-1", vendor="a", model="m", serial_number="1", site="s", address="10.0.0.7"),
            actor=system("t"),
        )
        text = tokens.issue(
            c,
            rt.settings.data,
            name="ci",
            roles=[Role.ANALYST],
            actor=person("an", Role.ADMIN),
            valid=timedelta(days=1),
        )
        machine = tokens.verify(c, rt.settings.data, text)
        now = clock.now()
        wanted = EngagementWanted(
            reason="look", device_ids=(made.id,), ports=(80,), methods=(Method.HTTP,), not_before=now,
            not_after=now + timedelta(hours=1),
        )  # fmt: skip
        asked = engagements.request(c, wanted, actor=machine)
        with pytest.raises(OwnApproval):
            engagements.approve(c, asked.id, actor=an)
        assert humans.stands_behind(c, an, machine.id) and not humans.stands_behind(c, person("b"), machine.id)
        engagements.approve(c, asked.id, actor=person("binh", Role.APPROVER))


def test_no_token_outlives_outreaches_or_survives_the_one_that_made_it(doors: Town) -> None:
    an = Desk(doors, doors.sign_in("an", Role.ADMIN).headers)
    first = an.token("admin", days=10)
    machine = Desk(doors, {"Authorization": f"Bearer {first}"})
    outlives = machine.post("/api/v1/tokens", name="x", roles=["auditor"], days=11)
    assert (outlives.status_code, outlives.json()["code"]) == (422, "outlives"), outlives.text
    second = machine.token("admin", days=9)
    third = Desk(doors, {"Authorization": f"Bearer {second}"}).token("auditor", days=8)
    neighbour = an.token("auditor", days=8)

    def status(text: str) -> int:
        return Desk(doors, {"Authorization": f"Bearer {text}"}).client.get("/api/v1/devices").status_code

    assert [status(text) for text in (first, second, third, neighbour)] == [200] * 4
    assert an.client.delete(f"/api/v1/tokens/{tokens.parse(first)[0]}").status_code == 204
    assert [status(text) for text in (first, second, third, neighbour)] == [401, 401, 401, 200]


def test_a_token_that_was_revoked_or_is_narrow_makes_none(rt: Runtime) -> None:
    data, admin = rt.settings.data, person("an", Role.ADMIN)
    with rt.db.write() as c:
        text = tokens.issue(c, data, name="a", roles=[Role.ADMIN], actor=admin, valid=timedelta(days=9))
        machine = tokens.verify(c, data, text)
        with pytest.raises(Outlives):
            tokens.issue(c, data, name="b", roles=[Role.AUDITOR], actor=machine, valid=timedelta(days=10))
        child = tokens.issue(c, data, name="b", roles=[Role.AUDITOR], actor=machine, valid=timedelta(days=8))
        assert tokens.verify(c, data, child).human == admin.id
        tokens.revoke(c, machine.id, actor=admin)
        with pytest.raises(BadToken):
            tokens.issue(c, data, name="b", roles=[Role.AUDITOR], actor=machine, valid=timedelta(days=1))
        with pytest.raises(BadToken):
            tokens.verify(c, data, child)
        assert c.execute(sa.select(sa.func.count()).where(rows.c.revoked_at.is_(None))).scalar() == 0
