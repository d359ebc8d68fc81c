"""Must show 6, detection's half: nobody testifies against another, and a flood is not a crowd.

What guards do with these facts is tested with the playbooks; here the facts themselves are right: whether the subject is
bound, what was proven, how many independent sources there are, and who sent it.
"""

from typing import Any

import orjson
import pytest

from lachan import clock
from lachan.events import AlertRaised
from lachan.identity import Principal, PrincipalKind, Role
from lachan.identity.principal import NOBODY
from lachan.runtime import Runtime
from lachan.work import outbox
from siem_rules import engine
from tests.siem_rules.support import (
    RECORDING,
    collector,
    detect,
    device,
    documents,
    joined,
    pairs,
    raised,
    send,
    shifted,
)

PROBE = "Nov 22 16:19:02 camera authpriv.info sh: XMHDIPC: applet not found"


def about(name: str, message: str = PROBE, **more: Any) -> dict[str, Any]:
    """A line that names a host."""
    return {"@timestamp": clock.iso(clock.now()), "host": {"name": name}, "message": message} | more


def facts(rt: Runtime) -> list[AlertRaised]:
    """All alerts that were raised."""
    with rt.db.read() as connection:
        return [stored.event for stored in outbox.read(connection, names=("AlertRaised",), limit=5000)]


def attack_on(name: str) -> bytes:
    """The recorded attack with a host named in each line."""
    parts = []
    for action, line in pairs(shifted(RECORDING)):
        parts.append((action, orjson.dumps(orjson.loads(line) | {"host": {"name": name}})))
    return joined(parts)


def test_device_speaks_of_itself(open_rt: Runtime) -> None:
    camera = device(open_rt, "cam-a")
    for body in (shifted(RECORDING), documents(about("cam-a")), documents(about("x", host={"id": camera.id}))):
        send(open_rt, camera, body)
    detect(open_rt)
    assert {(fact.device_id, fact.subject_bound) for fact in facts(open_rt)} == {(camera.id, True)}


def test_device_that_speaks_of_another_binds_nobody(open_rt: Runtime) -> None:
    a, b = device(open_rt, "cam-a"), device(open_rt, "cam-b", address="192.0.2.77")
    send(open_rt, a, attack_on("cam-b"))
    for host in (
        {"name": "cam-b"},
        {"id": b.id},
        {"name": "192.0.2.77"},
        {"name": ["cam-a", "cam-b"]},
        {"name": "cam-z"},
    ):
        send(open_rt, a, documents(about("", host=host)))
    detect(open_rt)
    found = facts(open_rt)
    assert len(found) >= 5
    assert {(fact.device_id, fact.subject_bound, fact.sources, fact.senders) for fact in found} == {
        (None, False, 1, (a.label,))
    }


def test_syslog_head_with_anothers_name_is_a_claim(open_rt: Runtime) -> None:
    a = device(open_rt, "cam-a")
    device(open_rt, "cam-b", site="elsewhere")
    send(open_rt, a, documents({"message": PROBE.replace(" camera ", " cam-b ")}))
    detect(open_rt)
    assert [(fact.device_id, fact.subject_bound) for fact in facts(open_rt)] == [(None, False)]


def test_lying_and_telling_the_truth_are_two_stories(open_rt: Runtime) -> None:
    """A's claims about B must not swallow B's own evidence: B's alert is raised although A's was there first."""
    a, b = device(open_rt, "cam-a"), device(open_rt, "cam-b")
    send(open_rt, a, attack_on("cam-b"))
    detect(open_rt)
    send(open_rt, b, shifted(RECORDING))
    detect(open_rt)
    bound = [fact for fact in facts(open_rt) if fact.subject_bound]
    assert {fact.device_id for fact in bound} == {b.id}
    assert len(bound) == 5
    assert {fact.senders for fact in bound} == {(b.label,)}


def test_refusals_told_by_one_and_success_by_another_do_not_add_up(open_rt: Runtime) -> None:
    """A cannot complete B's correlation: the storm and the login must come from principals that may speak of B."""
    a, b = device(open_rt, "cam-a"), device(open_rt, "cam-b")
    parts = pairs(attack_on("cam-b"))
    login = [pair for pair in parts if b"auth succeeded" in pair[1]]
    storm = [pair for pair in parts if b"Bad password" in pair[1]]
    send(open_rt, a, joined(storm))
    send(open_rt, b, joined(login))
    detect(open_rt)
    assert raised(open_rt) == {"ssh_login_storm": 1}
    assert not facts(open_rt)[0].subject_bound


@pytest.mark.parametrize(
    ("sender", "bound"),
    [
        (collector("gw-7", "ward-7"), True),
        (collector("gw-8", "ward-8"), False),
        (NOBODY, False),
        (
            Principal(
                kind=PrincipalKind.TOKEN, id="t", name="platform", roles=frozenset({Role.PLATFORM}), site="ward-7"
            ),
            False,
        ),
        (Principal(kind=PrincipalKind.PERSON, id="p", name="an", roles=frozenset({Role.ADMIN}), session="s"), False),
    ],
    ids=["own site", "other site", "unauthenticated", "platform", "person"],
)
def test_only_a_collector_of_the_site_speaks_of_its_devices(open_rt: Runtime, sender: Principal, bound: bool) -> None:
    b = device(open_rt, "cam-b", site="ward-7", address="192.0.2.77")
    for name in ("cam-b", b.id, "192.0.2.77"):
        send(open_rt, sender, documents(about(name)))
    detect(open_rt)
    assert {(fact.device_id, fact.subject_bound) for fact in facts(open_rt)} == {(b.id if bound else None, bound)}


def test_address_that_two_devices_share_binds_neither(open_rt: Runtime) -> None:
    device(open_rt, "cam-b", address="192.168.1.2")
    device(open_rt, "cam-c", address="192.168.1.2")
    send(open_rt, collector("gw"), documents(about("192.168.1.2")))
    detect(open_rt)
    assert [fact.subject_bound for fact in facts(open_rt)] == [False]


def test_second_independent_source_is_told(open_rt: Runtime) -> None:
    b = device(open_rt, "cam-b")
    send(open_rt, b, documents(about("cam-b")))
    detect(open_rt)
    send(open_rt, b, documents(about("cam-b")))
    detect(open_rt)
    assert [fact.sources for fact in facts(open_rt)] == [1]
    send(open_rt, collector("gw"), documents(about("cam-b")))
    detect(open_rt)
    found = facts(open_rt)
    assert [fact.sources for fact in found] == [1, 2]
    assert found[0].alert_id == found[1].alert_id
    assert found[1].senders == ("collector:gw", b.label)
    send(open_rt, collector("gw2"), documents(about("cam-b")))
    detect(open_rt)
    assert len(facts(open_rt)) == 2


def test_thousand_forged_lines_from_one_sender_are_few_alerts_and_the_real_one_stands_out(open_rt: Runtime) -> None:
    a, b = device(open_rt, "cam-a"), device(open_rt, "cam-b")
    forged = [about("cam-b"), *(about(f"cam-{number}") for number in range(1000))]
    send(open_rt, a, documents(*forged))
    send(open_rt, NOBODY, documents(*forged))
    send(open_rt, b, shifted(RECORDING))
    detector = detect(open_rt)
    found = facts(open_rt)
    claims = [fact for fact in found if not fact.subject_bound]
    assert {fact.device_id for fact in claims} == {None}
    assert len(claims) <= 2 * (engine.ALERT_GROUPS + 1)
    assert detector.engine.counters["alert_groups_merged"] > 1900
    real = [fact for fact in found if fact.subject_bound]
    assert {(fact.device_id, fact.outcome) for fact in real} >= {(b.id, "success")}
    assert {fact.senders for fact in real} == {(b.label,)}


def test_thousand_forged_storms_with_made_up_addresses_are_few_alerts(open_rt: Runtime) -> None:
    camera = device(open_rt, "cam-a")
    message = "Nov 22 16:18:57 camera authpriv.warn dropbear[53]: Bad password attempt for 'root' from 10.{}.{}.1:34099"
    lines = [about("cam-a", message.format(n // 250, n % 250)) for n in range(1000) for _ in range(10)]
    for start in range(0, len(lines), 2500):
        send(open_rt, camera, documents(*lines[start : start + 2500]))
    detect(open_rt)
    assert 1 < len(facts(open_rt)) <= engine.ALERT_GROUPS + 1
    assert {fact.outcome for fact in facts(open_rt)} == {"attempt"}


def test_sender_cannot_write_our_own_fields(open_rt: Runtime) -> None:
    camera = device(open_rt, "cam-a")
    lie = {
        "lachan": {"category": "process_creation", "product": "linux"},
        "process": {"executable": "/tmp/x"},
        "message": "nothing",
    }
    send(open_rt, camera, documents(lie | {"@timestamp": clock.iso(clock.now())}))
    detect(open_rt)
    assert not facts(open_rt)
