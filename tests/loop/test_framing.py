"""Must show 6, framing, through the real doors: nobody's words about B bring B down; B's own compromise still does."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from lachan import clock
from lachan.demo import replay
from tests.loop.conftest import Town, attack, served
from tests.support.wait import until

PROBE = "Nov 22 16:19:02 camera authpriv.info sh: XMHDIPC: applet not found"


def attack_on(name: str) -> str:
    """The recorded attack with a host named in every line."""
    lines = []
    for pair in replay.ending(replay.ATTACK, clock.now()):
        action, document = pair.splitlines()
        lines += [action.decode(), json.dumps(json.loads(document) | {"host": {"name": name}})]
    return "\n".join(lines) + "\n"


def forged(*names: str) -> str:
    """One line per name that would, believed, be a compromise of that host."""
    lines = []
    for name in names:
        document = {"@timestamp": clock.iso(clock.now()), "host": {"name": name}, "message": PROBE}
        lines += ['{"create": {"_index": "logs"}}', json.dumps(document)]
    return "\n".join(lines) + "\n"


def shout(town: Town, name: str) -> None:
    """The attack as unauthenticated syslog (RFC 3164) that names a host, over UDP."""
    place = urlsplit(town.city.urls["syslog"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for pair in replay.ending(replay.ATTACK, clock.now()):
            message: str = json.loads(pair.splitlines()[1])["message"]
            out.sendto(f"<38>{message.replace(' camera ', f' {name} ')}".encode(), (place.hostname, place.port))


@contextmanager
def collector(town: Town, site: str) -> Iterator[Callable[[str], None]]:
    """A registered collector of a site, with a token of its own; what is called delivers a body."""
    token = {"name": f"gw-{site}", "roles": ["collector"], "days": 1, "site": site}
    headers = {"Authorization": f"ApiKey {town.story.admin.post('/api/v1/tokens', token)['api_key']}"}
    headers["Content-Type"] = "application/x-ndjson"
    with httpx.Client(base_url=town.city.urls["people"], verify=town.city.trust, headers=headers, timeout=60) as http:

        def deliver(body: str) -> None:
            answer = http.post("/_bulk", content=body)
            assert (answer.status_code, answer.json()["errors"]) == (200, False), answer.text

        yield deliver


def cut(town: Town, names: list[str]) -> int:
    """How many of them are quarantined."""
    return sum(town.answer(name) == "quarantine" for name in names)


def unbound(town: Town) -> set[str]:
    """Who has raised alerts about somebody of whom they may not speak."""
    raised = [event["data"] for event in town.story.events("AlertRaised")]
    return {sender for data in raised if data["device_id"] is None for sender in data["senders"]}


@pytest.mark.timeout(180)
def test_words_about_b_leave_b_up_and_its_own_compromise_is_contained(town: Town) -> None:
    a, _ = town.camera("liar-1", "framed")
    b, _ = town.camera("victim-1", "framed")
    others = [f"framed-{number}" for number in range(9)]
    for name in others:
        town.know(name, "framed")

    a.must("bulk", lines=attack_on("victim-1"))  # a device speaks of itself only
    a.must("bulk", lines=forged(*["victim-1"] * 50))
    shout(town, "victim-1")  # nobody speaks of anybody
    with collector(town, "elsewhere") as deliver:
        deliver(forged("victim-1"))  # a collector speaks of its own site only
    liars = {f"device:{town.story.device_ids['liar-1']}", "collector:gw-elsewhere", "nobody:nobody"}
    until(lambda: liars <= unbound(town), timeout=30, every=0.1, what="all three lies were heard")
    assert not town.alerts("victim-1")
    with collector(town, "framed") as deliver:  # of its site; but its budget is five devices at a time
        deliver(forged(*others))
        until(lambda: cut(town, others) == 5, timeout=60, every=0.1, what="the liar's budget is spent")
        deliver(forged(*(f"nobody-{number}" for number in range(990)), *others, "victim-1"))
    until(lambda: town.alerts("victim-1"), timeout=60, every=0.1, what="the collector's words about B are an alert")
    until(
        lambda: town.story.events("ContainmentWaiting", "victim-1"), timeout=60, every=0.1, what="B waits for a human"
    )

    assert town.answer("victim-1") != "quarantine"
    assert town.answer("liar-1") == "allow"
    assert b.do("ask")["status"] == 200
    assert cut(town, others) == 5

    b.must("bulk", lines=attack())
    town.contained("victim-1")
    until(lambda: b.do("ask")["status"] == 403, what="B is refused")
    assert a.do("ask")["status"] == 200
    a.process.terminate()
    b.process.terminate()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Town]:
    """An installation of its own: what a flood leaves to do would keep other tests waiting."""
    with served(tmp_path / "town") as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_thousand_forged_alerts_of_one_sender_hide_no_compromise_at_the_site(fresh: Town, tmp_path: Path) -> None:
    """Each forged line is about another device of the site, so each is an alert of its own and starts a run.

    The real compromise comes behind all of them, and is contained when its turn comes.
    """
    town = fresh
    file = tmp_path / "flood.csv"
    rows = [f"flood-{number},acme,A1,FLOOD-{number},flooded" for number in range(1000)]
    file.write_text("\n".join(["name,vendor,model,serial_number,site", *rows]), "utf-8")
    assert town.city.lachan("device", "import", str(file))["accepted"] == 1000
    b, _ = town.camera("victim-2", "flooded")
    with collector(town, "flooded") as deliver:
        deliver(forged(*(f"flood-{number}" for number in range(1000))))
    b.must("bulk", lines=attack())
    town.contained("victim-2", timeout=240)
    assert b.do("ask")["status"] == 403

    def all_heard() -> bool:
        return sum(e["data"]["site"] == "flooded" for e in town.story.events("AlertRaised")) >= 1000

    until(all_heard, timeout=60, every=1, what="each forged line is an alert of its own")
    contained = town.story.events("DeviceContained")
    quarantined = {event["device_id"] for event in contained if event["data"]["level"] == "quarantine"}
    flooded = {device["id"] for device in town.story.admin.get("/api/v1/devices?q=flood-&limit=200")["items"]}
    assert len(flooded) == 200
    assert not flooded & quarantined  # on how much depends on them nobody has said: they wait for a human
    b.process.terminate()
