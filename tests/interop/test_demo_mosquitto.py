"""The demo with a real broker beside it: what it tells about Mosquitto, in its document."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lachan.demo.broker import PLACES, PLUGIN
from tests.support.need import missing, program


@pytest.mark.interop
@pytest.mark.timeout(180)
def test_the_demo_shows_quarantine_at_a_real_broker() -> None:
    program("mosquitto", package="mosquitto")
    if not any(next(Path(place).glob(f"**/{PLUGIN}"), None) for place in PLACES):
        missing("needs Mosquitto's dynamic-security plugin: apt install mosquitto")
    done = subprocess.run([sys.executable, "-m", "lachan", "demo", "--json"], capture_output=True, text=True)
    document = json.loads(done.stdout)
    assert (done.returncode, document["ok"], document["broker"]) == (0, True, True), document
    told = {step["name"]: step["detail"] for step in document["steps"]}
    assert "Mosquitto: disconnected after" in told["quarantine"]
    assert "publish and subscribe refused" in told["quarantine"]
    assert "Mosquitto: one connection, every heartbeat accepted" in told["neighbour"]
    assert "Mosquitto hears its heartbeat again" in told["release"]
