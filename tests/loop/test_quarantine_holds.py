"""Must show 7, quarantine holds: every way back in is refused or closed within a second; after release all work."""

import http.client
import json
import socket
import ssl
import threading
import time
from datetime import datetime
from urllib.parse import urlsplit

import pytest

from lachan import clock
from tests.loop.conftest import Town, attack
from tests.support.wait import until

FIRMWARE = "GET /device/v1/firmware HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Idle(threading.Thread):
    """A session that was used once and then stays open and silent: when is it closed?"""

    def __init__(self, town: Town, name: str) -> None:
        super().__init__(daemon=True)
        door = urlsplit(town.city.urls["device"])
        raw = socket.create_connection((door.hostname or "", door.port or 0), timeout=30)
        self.tls = town.tls(name).wrap_socket(raw, server_hostname=door.hostname)
        self.tls.sendall(FIRMWARE.encode())
        answer = http.client.HTTPResponse(self.tls)
        answer.begin()
        assert answer.status == 200
        answer.read()
        self.closed_at = 0.0
        self.start()

    def run(self) -> None:
        """Wait for the end of the session, cleanly or not."""
        try:
            over = self.tls.recv(1) == b""
        except TimeoutError:
            over = False
        except (ConnectionError, ssl.SSLError):
            over = True
        if over:
            self.closed_at = time.time()
        self.tls.close()


@pytest.mark.timeout(180)
def test_every_way_back_in_is_refused_and_after_release_all_work(town: Town) -> None:
    camera, secret = town.camera("held-1", "held")
    neighbour, _ = town.camera("held-2", "held")
    unused = town.secret("held-1")  # a second secret, good and never used: no way out either
    assert camera.must("resume")["status"] == 200
    assert camera.must("resume")["reused"], "the door resumes sessions, so resumption must be shown to be refused"
    idle, bystander = Idle(town, "held-1"), Idle(town, "held-2")
    camera.must("watch")
    until(lambda: camera.must("seen")["changes"], what="the camera's own connection")

    sent = time.time()
    camera.must("bulk", lines=attack())
    contained = until(lambda: town.story.events("DeviceContained", "held-1"), timeout=20, what="containment")
    at = datetime.fromisoformat(contained[0]["happened_at"]).timestamp()

    def cut() -> float:
        changes = camera.must("seen")["changes"]
        return next((when for when, state in changes if when >= sent and state in ("403", "closed")), 0.0)

    assert until(cut, what="the polling connection is cut") - at <= 1.0
    assert until(lambda: idle.closed_at, what="the silent connection is closed") - at <= 1.0

    assert camera.do("ask")["status"] == 403
    assert camera.do("resume")["status"] == 403
    assert camera.do("bulk", lines=attack())["status"] == 403
    for words in (
        {"renew": True},  # simplereenroll with a new key
        {"renew": True, "keep_key": True},
        {"secret": secret},  # the old secret, a new key
        {"secret": secret, "keep_key": True},  # … and with the old one, within the ten minutes of a lost answer
        {"secret": unused},
    ):
        answer = camera.do("enrol", save=False, **words)
        assert (answer["ok"], answer["status"] in (401, 403)) == (False, True), (words, answer)
    listed = town.story.admin.get(f"/api/v1/devices/{town.story.device_ids['held-1']}/certificates")
    assert len(listed.get("items", listed) if isinstance(listed, dict) else listed) == 1
    assert neighbour.do("ask")["status"] == 200
    assert bystander.is_alive() and not bystander.closed_at
    assert neighbour.must("enrol", renew=True)["status"] == 200
    assert neighbour.do("ask")["status"] == 200
    assert until(lambda: bystander.closed_at, what="the connection under the replaced certificate is closed")

    town.release("held-1")
    until(lambda: camera.do("ask")["status"] == 200, timeout=20, what="the camera is let in again")
    assert camera.must("resume")["status"] == 200
    document = {"@timestamp": clock.iso(clock.now()), "message": "back at work"}
    line = json.dumps({"create": {"_index": "logs"}}) + "\n" + json.dumps(document) + "\n"
    assert camera.must("bulk", lines=line)["status"] == 200
    assert camera.must("enrol", renew=True)["status"] == 200
    again = camera.do("enrol", secret=secret)
    assert again["ok"] is False  # release makes no spent secret good again
    assert camera.must("enrol", secret=town.secret("held-1"))["status"] == 200
    until(lambda: camera.must("seen")["changes"][-1][1] == "200", what="the polling connection is served again")
    camera.process.terminate()
    neighbour.process.terminate()
