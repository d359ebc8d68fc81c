"""Nobody looks at a device without an engagement that another person approved."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import clock
from lachan.errors import Forbidden, NotFound
from lachan.identity import Principal, PrincipalKind, Role
from lachan.identity.principal import PersonNeeded
from lachan.net.sockets import Refusal, SocketRefused, permit
from lachan.runtime import Runtime
from lachan.work import outbox
from posture import engagements
from posture.engagements import EngagementState, Method
from posture.errors import EngagementDecided, EngagementInvalid, EngagementNotFound, NotApproved, OwnApproval
from posture.models import engagements as table
from tests.conftest import person
from tests.posture.conftest import ANALYST, APPROVER, approved, register, wanted

BOTH = person("both", Role.ANALYST, Role.APPROVER)


def request(
    rt: Runtime, device_id: str, *ports: int, actor: Principal = ANALYST, **changes: Any
) -> engagements.Engagement:
    with rt.db.write() as connection:
        return engagements.request(connection, wanted(device_id, *ports, **changes), actor=actor)


def approve(rt: Runtime, engagement_id: str, actor: Principal = APPROVER) -> engagements.Engagement:
    with rt.db.write() as connection:
        return engagements.approve(connection, engagement_id, actor=actor)


def test_asked_approved_and_told(rt: Runtime) -> None:
    device = register(rt)
    found = approve(rt, request(rt, device.id, 80, 443, methods=(Method.TLS,)).id)
    assert (found.state, found.requested_by, found.approved_by) == (
        EngagementState.APPROVED,
        "person:an",
        "person:binh",
    )
    assert found.approved_digest == found.digest
    scope = engagements.scope_of(rt, found)
    assert scope.methods == {"connect", "tls"}
    assert str(permit(scope, "127.0.0.1", 443, method="tls")) == "127.0.0.1"
    with rt.db.read() as connection:
        told = [(e.name, e.actor) for e in outbox.read(connection) if e.name.startswith("Engagement")]
    assert told == [("EngagementRequested", "person:an"), ("EngagementApproved", "person:binh")]


def test_nobody_approves_their_own(rt: Runtime) -> None:
    found = request(rt, register(rt).id, 80, actor=BOTH)
    with pytest.raises(OwnApproval):
        approve(rt, found.id, BOTH)
    with pytest.raises(NotApproved):
        engagements.scope_of(rt, found)


@pytest.mark.parametrize(
    ("who", "error"),
    [
        (person("binh", Role.APPROVER, session=None), PersonNeeded),
        (
            Principal(kind=PrincipalKind.TOKEN, id="t", name="t", roles=frozenset({Role.APPROVER}), session="s"),
            PersonNeeded,
        ),
        (person("chi", Role.ANALYST), Forbidden),
        (person("root", Role.ADMIN), Forbidden),
    ],
)
def test_only_an_approver_in_a_session_approves(rt: Runtime, who: Principal, error: type[Exception]) -> None:
    found = request(rt, register(rt).id, 80)
    with pytest.raises(error):
        approve(rt, found.id, who)


def test_only_who_may_run_requests(rt: Runtime) -> None:
    device = register(rt)
    for who in (APPROVER, person("m", Role.MANUFACTURER, vendor="acme"), person("au", Role.AUDITOR)):
        with pytest.raises(Forbidden):
            request(rt, device.id, 80, actor=who)


def test_decided_once(rt: Runtime) -> None:
    found = approved(rt, register(rt).id, 80)
    with pytest.raises(EngagementDecided):
        approve(rt, found.id)
    with rt.db.write() as connection:
        engagements.stop(connection, found.id, actor=APPROVER, reason="enough")
    with pytest.raises(EngagementDecided):
        approve(rt, found.id)
    with rt.db.write() as connection, pytest.raises(EngagementDecided):
        engagements.stop(connection, found.id, actor=ANALYST, reason="again")
    with rt.db.write() as connection, pytest.raises(EngagementNotFound):
        engagements.stop(connection, "nowhere", actor=ANALYST, reason="x")


def test_a_window_that_passed_is_not_approved(rt: Runtime) -> None:
    found = request(rt, register(rt).id, 80)
    with clock.travel(timedelta(hours=2)), pytest.raises(EngagementDecided):
        approve(rt, found.id)


def test_a_stop_holds_at_once(rt: Runtime) -> None:
    """The scope a probe already holds opens nothing any more."""
    found = approved(rt, register(rt).id, 80)
    scope = engagements.scope_of(rt, found)
    permit(scope, "127.0.0.1", 80, method="tls")
    with rt.db.write() as connection:
        engagements.stop(connection, found.id, actor=ANALYST, reason="the ward called")
    with pytest.raises(SocketRefused) as refused:
        permit(scope, "127.0.0.1", 80, method="tls")
    assert refused.value.reason is Refusal.STOPPED
    with rt.db.read() as connection:
        assert [e.name for e in outbox.read(connection)][-1] == "EngagementStopped"


def test_an_auditor_stops_nothing(rt: Runtime) -> None:
    found = approved(rt, register(rt).id, 80)
    with rt.db.write() as connection, pytest.raises(Forbidden):
        engagements.stop(connection, found.id, actor=person("au", Role.AUDITOR), reason="x")


@pytest.mark.parametrize(
    "change",
    [
        {"ports": [22]}, {"networks": ["10.0.0.0/16"]}, {"methods": ["default-login"]}, {"rate": 1e3 + 1}, {"lockout": True},
        {"loopback": False}, {"not_after": clock.now() + timedelta(days=30)}, {"targets": []}, {"requested_by": "person:x"},
    ],
)  # fmt: skip
def test_a_row_changed_after_approval_opens_nothing(rt: Runtime, change: dict[str, Any]) -> None:
    found = approved(rt, register(rt).id, 80)
    with rt.db.write() as connection:
        connection.execute(table.update().where(table.c.id == found.id).values(**change))
    with rt.db.read() as connection, pytest.raises(NotApproved):
        engagements.scope_of(rt, engagements.get(connection, found.id))


def test_a_row_set_to_approved_by_hand_opens_nothing(rt: Runtime) -> None:
    found = request(rt, register(rt).id, 80)
    with rt.db.write() as connection:
        connection.execute(sa.update(table).values(state="approved"))
    with rt.db.read() as connection, pytest.raises(NotApproved):
        engagements.scope_of(rt, engagements.get(connection, found.id))


@pytest.mark.parametrize(
    "change",
    [
        {"reason": " "}, {"device_ids": ()}, {"methods": ()}, {"ports": ()}, {"ports": (0,)}, {"ports": (65_536,)},
        {"not_after": clock.now() - timedelta(days=1)}, {"not_after": clock.now() + timedelta(days=90)}, {"rate": 0.0},
        {"burst": 0}, {"loopback": False}, {"networks": ("10.0.0.0/8",)}, {"networks": ("not a network",)},
        {"networks": ("::1/128",), "loopback": False},
    ],
)  # fmt: skip
def test_requests_that_are_refused(rt: Runtime, change: dict[str, Any]) -> None:
    device = register(rt)
    with pytest.raises(EngagementInvalid):
        request(rt, device.id, *change.pop("ports", (80,)), **change)


def test_a_device_without_address_cannot_be_looked_at(rt: Runtime) -> None:
    with pytest.raises(EngagementInvalid):
        request(rt, register(rt, address=None).id, 80)
    with pytest.raises(NotFound):
        request(rt, "no-such-device", 80)


def test_a_device_known_by_name_must_lie_in_a_named_network(rt: Runtime) -> None:
    device = register(rt, address="localhost")
    with pytest.raises(EngagementInvalid):
        request(rt, device.id, 80)
    found = approved(rt, device.id, 80, networks=("192.0.2.0/24",))
    with pytest.raises(SocketRefused) as refused:
        permit(engagements.scope_of(rt, found), "localhost", 80, method="tls")
    assert refused.value.reason is Refusal.OUTSIDE_SCOPE


def test_the_address_is_the_one_that_was_approved(rt: Runtime) -> None:
    """A manufacturer who changes a device's address afterwards moves no probe."""
    device = register(rt)
    found = approved(rt, device.id, 80)
    with rt.db.write() as connection:
        connection.execute(sa.text("UPDATE devices SET address = '192.0.2.66'"))
    assert found.address_of(device.id) == "127.0.0.1"
    with pytest.raises(SocketRefused):
        permit(engagements.scope_of(rt, found), "192.0.2.66", 80, method="tls")
    with pytest.raises(NotApproved):
        found.address_of("another")


def test_manufacturers_see_no_engagement(rt: Runtime) -> None:
    found = approved(rt, register(rt).id, 80)
    maker = person("m", Role.MANUFACTURER, vendor="acme")
    with rt.db.read() as connection:
        assert engagements.find(connection, principal=maker) == []
        assert [e.id for e in engagements.find(connection, principal=ANALYST)] == [found.id]
        with pytest.raises(EngagementNotFound):
            engagements.visible(connection, found.id, principal=maker)
