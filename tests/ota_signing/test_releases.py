"""The life of a release: what each step needs, and who may take it."""

import threading

import pytest

from lachan import verbs
from lachan.errors import Forbidden, Invalid, NotFound
from lachan.identity import Principal, PrincipalKind, Role
from lachan.identity.principal import PersonNeeded
from ota_signing import publishing, releases, service
from ota_signing.errors import LowerVersion, OwnProposal, VersionSpent, WrongState
from ota_signing.schemas import ReleaseState
from ota_signing.statement import ReleaseStatement
from tests.conftest import person
from tests.ota_signing.conftest import FIRMWARE, House


def test_the_statement_names_everything_that_matters() -> None:
    words = {
        "release_id": "r", "vendor": "acme", "model": "cam1", "version": "1", "sha256": "ab" * 32, "length": 7,
        "approvals_needed": 2, "proposer": "token:ci", "downgrade": False,
    }  # fmt: skip
    statement = ReleaseStatement(**words)
    assert statement.encode().startswith(b'{"approvals_needed":2,"downgrade":false,"length":7,')
    changed = {"length": 8, "approvals_needed": 3, "downgrade": True}
    digests = {ReleaseStatement(**{**words, name: changed.get(name, "x")}).digest for name in words}
    assert len(digests | {statement.digest}) == len(words) + 1


def test_versions_are_spent_and_go_up(quiet_house: House) -> None:
    quiet_house.propose("2.0.0")
    with pytest.raises(VersionSpent):
        quiet_house.propose("2.0.0", b"other")


def test_lower_versions_need_the_flag(house: House) -> None:
    house.published("2.0.0")
    for version in ("1.9", "2.0", "v2.0.0-rc1"):
        with pytest.raises(LowerVersion):
            house.propose(version)
    assert house.propose("1.9", downgrade=True).downgrade
    assert house.propose("2.0.1").state is ReleaseState.PROPOSED


@pytest.mark.parametrize(
    "words", [{"approvals_needed": 1}, {"approvals_needed": 0}, {"approvals_needed": 11}, {"version": ""},
              {"version": "1" * 65}, {"version": "1\n2"}, {"notes": "x" * 4001}],
)  # fmt: skip
def test_what_is_malformed_is_refused(quiet_house: House, words: dict) -> None:
    with pytest.raises(Invalid):
        quiet_house.propose(**words)


@pytest.mark.parametrize("role", [role for role in Role if role not in (Role.PLATFORM, Role.ADMIN)])
def test_who_may_not_propose_or_publish(quiet_house: House, role: Role) -> None:
    house, artifact = quiet_house, None
    artifact = service.upload(house.rt, house.platform, [FIRMWARE], vendor="acme", name="fw")
    caller = person("x", role, vendor="acme")
    with pytest.raises((Forbidden, NotFound)):
        service.propose(house.rt, caller, artifact_id=artifact.id, model="cam1", version="1")
    with pytest.raises(Forbidden):
        service.publish(house.rt, caller, "any")


@pytest.mark.parametrize("role", Role)
def test_only_approvers_in_a_session_approve(quiet_house: House, role: Role) -> None:
    release = quiet_house.propose()
    kinds = [(PrincipalKind.TOKEN, None), (PrincipalKind.PERSON, None), (PrincipalKind.SYSTEM, None)]
    if role is not Role.APPROVER:
        kinds.append((PrincipalKind.PERSON, "session"))
    for kind, session in kinds:
        caller = Principal(kind=kind, id="x", name="x", roles=frozenset({role}), session=session)
        with pytest.raises(PersonNeeded if role is Role.APPROVER else Forbidden):
            service.approve(quiet_house.rt, caller, release.id, digest=release.digest)


def test_more_approvals_where_a_release_asks_for_them(house: House) -> None:
    release = house.propose(approvals_needed=3)
    for number, name in enumerate(("an", "binh", "chi"), 1):
        release = service.approve(house.rt, house.person(name), release.id, digest=release.digest)
        assert release.state is (ReleaseState.APPROVED if number == 3 else ReleaseState.PROPOSED)
    publishing.sign(house.rt, release.id)
    assert house.person("an").label in {approval.person for approval in release.approvals}


def test_who_proposed_cannot_approve(quiet_house: House) -> None:
    rt, both = quiet_house.rt, quiet_house.person("dung", Role.APPROVER, Role.ADMIN)
    artifact = service.upload(rt, both, [FIRMWARE], vendor="acme", name="fw")
    release = service.propose(rt, both, artifact_id=artifact.id, model="cam1", version="1")
    with pytest.raises(OwnProposal):
        service.approve(rt, both, release.id, digest=release.digest)


def test_late_approvals_do_not_reopen_a_signed_release(house: House) -> None:
    release = house.approved()
    publishing.sign(house.rt, release.id)
    with pytest.raises(WrongState):
        service.approve(house.rt, house.person("chi"), release.id, digest=release.digest)
    again = service.approve(house.rt, house.person("an"), release.id, digest=release.digest)
    assert (again.state, len(again.approvals)) == (ReleaseState.SIGNED, 2)


def test_racing_approvals_are_all_counted(house: House) -> None:
    release = house.propose(approvals_needed=4)
    everyone = [house.person(name) for name in ("an", "binh", "chi", "dung")]
    work = [
        threading.Thread(target=service.approve, args=(house.rt, one, release.id), kwargs={"digest": release.digest})
        for one in [*everyone, *everyone]
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    with house.rt.db.read() as connection:
        after = releases.get(connection, release.id, principal=house.platform)
    assert (len(after.approvals), after.state) == (4, ReleaseState.APPROVED)


def test_holding_is_a_verb_with_an_undo(house: House) -> None:
    release = house.published()
    words = {"release_id": release.id, "reason": "cameras go dark"}
    assert verbs.get("ota.hold").undo == "ota.resume"
    for name, state in (("ota.hold", "halted"), ("ota.hold", "halted"), ("ota.resume", "published")):
        with house.rt.db.write() as connection:
            verbs.call(house.rt, connection, person("chi", Role.ANALYST), name, words)
            assert releases.get(connection, release.id, principal=house.platform).state == state
    with house.rt.db.write() as connection:
        with pytest.raises(Forbidden):
            verbs.call(house.rt, connection, person("m", Role.MANUFACTURER, vendor="acme"), "ota.hold", words)
        with pytest.raises(Invalid):
            verbs.call(house.rt, connection, house.platform, "ota.hold", {"release_id": release.id})


def test_manufacturers_see_their_releases_only(house: House) -> None:
    release = house.propose()
    mine, other = (person(v, Role.MANUFACTURER, vendor=v) for v in ("acme", "other"))
    with house.rt.db.read() as connection:
        assert releases.find(connection, principal=mine) == [release]
        assert releases.find(connection, principal=other) == []
        with pytest.raises(NotFound):
            releases.get(connection, release.id, principal=other)
        with pytest.raises(WrongState):
            releases.signature(connection, release.id, principal=mine)
