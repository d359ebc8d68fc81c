"""Must show 7 with Mosquitto: a quarantined device is kept out by a real broker, across its restart; a neighbour is not.

The broker is Debian's, with its dynamic-security plugin, started here on a free loopback port. What happened is read from
the broker's own log and from the devices' own clients. Devices speak MQTT with a password each; the mechanism (roles) is
the same for clients that present a certificate.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from lachan import clock
from lachan.runtime import Runtime
from soar_playbooks.containment import approvals, reconciler
from soar_playbooks.enforcement.mosquitto import MosquittoPoint, _Admin
from soar_playbooks.faults import Boundary
from tests.soar_playbooks.support import AN, BINH, load, new_device, one_containment, raise_alert, told, work
from tests.soar_playbooks.zygote import Zygote
from tests.support.need import missing, program
from tests.support.wait import until

PLUGIN = "mosquitto_dynamic_security.so"
USUAL = [{"acltype": kind, "topic": "#", "allow": True} for kind in (
    "publishClientSend", "publishClientReceive", "subscribePattern", "unsubscribePattern",
)]  # fmt: skip


class Broker:
    """A Mosquitto of our own: start, stop, restart, its log, its state file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "broker.log"
        self.state, self.password = folder / "dynsec.json", secrets.token_urlsafe(12)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        found = list(Path("/usr/lib").rglob(PLUGIN))
        if not found:
            missing("needs Mosquitto's dynamic-security plugin: apt install mosquitto")
        control = program("mosquitto_ctrl", package="mosquitto")
        subprocess.run(
            [control, "dynsec", "init", str(self.state), "admin", self.password], check=True, capture_output=True
        )
        os.chmod(self.state, 0o600)
        (folder / "password").write_text(self.password)
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\nplugin {found[0]}\n"
            f"plugin_opt_config_file {self.state}\nlog_dest file {self.log}\nlog_type all\nlog_timestamp_format %s\n"
            f"{'user root' if os.geteuid() == 0 else ''}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [program("mosquitto", package="mosquitto"), "-c", str(self.folder / "mosquitto.conf")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self.answers, timeout=20, what="the broker answers")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=10)
            self.process = None

    def answers(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.port)) == 0

    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def published(self, name: str, *, since: int) -> list[str]:
        """The broker's log lines of messages that it accepted from a client, from a line on."""
        return [
            line for line in self.lines()[since:]
            if f"Received PUBLISH from {name} " in line and "remediation/" not in line
        ]  # fmt: skip

    def denied(self, name: str, *, since: int) -> list[str]:
        return [line for line in self.lines()[since:] if f"Denied PUBLISH from {name} " in line]


class Camera:
    """A device with a client of its own that reports and listens; reconnects by itself, as cameras do."""

    def __init__(self, broker: Broker, name: str, password: str) -> None:
        self.name, self.heard = name, list[tuple[str, str]]()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self.client.username_pw_set(name, password)
        self.client.reconnect_delay_set(1, 1)
        self.drops: list[str] = []
        self.client.on_connect = lambda client, *_: client.subscribe([("town/#", 0), ("remediation/#", 0)])
        self.client.on_disconnect = lambda _c, _d, _f, reason, _p: self.drops.append(str(reason))
        self.client.on_message = lambda _c, _d, m: self.heard.append((m.topic, m.payload.decode()))
        self.client.connect("127.0.0.1", broker.port, keepalive=10)
        self.client.loop_start()
        until(self.client.is_connected, what=f"{name} is connected")

    def say(self, topic: str) -> str:
        text = secrets.token_hex(8)
        if self.client.is_connected():
            self.client.publish(topic, text)
        return text

    def reaches(self, other: "Camera", topic: str, *, timeout: float = 10) -> None:
        """Say it again and again until the other one hears one of them."""
        said: set[str] = set()

        def heard() -> bool:
            said.add(self.say(topic))
            return any(t == topic and text in said for t, text in list(other.heard))

        until(heard, timeout=timeout, every=0.05, what=f"{other.name} hears {self.name} on {topic}")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    found = Broker(folder)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def town(rt: Runtime, broker: Broker) -> Runtime:
    """The installation, driving this broker and nothing else."""
    settings = rt.settings.model_copy(
        update={
            "mosquitto_host": "127.0.0.1", "mosquitto_port": broker.port,
            "mosquitto_password_file": broker.folder / "password",
        }
    )  # fmt: skip
    only = replace(rt.wiring, enforcement=("soar_playbooks.enforcement.mosquitto:point",))
    return replace(rt, settings=settings, wiring=only)


def know(town: Runtime, *names: str) -> dict[str, str]:
    """Have the broker's administrator know these clients; gives their passwords."""
    made = {name: secrets.token_urlsafe(12) for name in names}
    with _Admin.connected(town.settings) as admin:
        admin.call({"command": "createRole", "rolename": "device", "acls": USUAL})
        for name, password in made.items():
            client: dict[str, Any] = {"command": "createClient", "username": name, "password": password}
            admin.call({**client, "roles": [{"rolename": "device", "priority": 1}]})
    return made


@pytest.mark.interop
@pytest.mark.timeout(120)
def test_quarantine_holds_at_a_real_broker_across_its_restart(town: Runtime, broker: Broker) -> None:
    names = know(town, "cam-1", "cam-2", "watcher")
    load(town)
    device = new_device(town, "cam-1")
    new_device(town, "cam-2")
    bad, good, watcher = (Camera(broker, name, names[name]) for name in ("cam-1", "cam-2", "watcher"))
    try:
        for camera in (bad, good):
            camera.reaches(watcher, f"town/{camera.name}")
        assert broker.published("cam-1", since=0)  # this is how the log looks while it may speak
        drops_of_the_neighbour = len(good.drops)

        raise_alert(town, device)
        work(town)
        (settled,) = told(town, "EnforcementSettled")
        assert settled.point == "mosquitto"
        assert settled.evidence["roles"] == ["device", "quarantine"]
        assert [answer.get("error") for answer in settled.evidence["broker"]] == [None]

        until(lambda: bad.drops, what="the live session was closed")
        until(bad.client.is_connected, what="the device is back, inside quarantine")
        _silent(broker, bad, watcher)
        bad.reaches(watcher, "remediation/cam-1")  # the way to be healed stays open
        good.reaches(watcher, "town/cam-2")
        watcher.reaches(good, "town/news")
        assert not [text for topic, text in bad.heard if topic == "town/news"]
        assert len(good.drops) == drops_of_the_neighbour

        broker.stop()
        before = len(broker.lines())
        broker.start()  # its own state file remembers the role
        for camera in (bad, good, watcher):
            until(camera.client.is_connected, timeout=20, what=f"{camera.name} is back")
        _silent(broker, bad, watcher, since=before)
        good.reaches(watcher, "town/cam-2")

        for person in (AN, BINH):
            with town.db.write() as connection:
                approvals.release(town, connection, person, containment_id=one_containment(town)["id"])
        work(town)
        assert told(town, "EnforcementSettled")[-1].evidence["roles"] == ["device"]
        until(bad.client.is_connected, what="the device is back")
        bad.reaches(watcher, "town/cam-1")
    finally:
        for camera in (bad, good, watcher):
            camera.close()


@pytest.mark.interop
@pytest.mark.timeout(120)
def test_a_broker_that_comes_back_with_an_old_state_file_is_driven_again(town: Runtime, broker: Broker) -> None:
    names = know(town, "cam-1", "watcher")
    broker.stop()
    old = broker.folder / "yesterday.json"
    shutil.copy(broker.state, old)
    broker.start()
    load(town)
    device = new_device(town, "cam-1")
    raise_alert(town, device)
    work(town)
    broker.stop(signal.SIGKILL)
    shutil.copy(old, broker.state)
    assert "quarantine" not in json.loads(broker.state.read_text()).get("roles", [])
    reconciler.reconcile(town)  # the broker is away: nothing breaks
    broker.start()
    bad, watcher = Camera(broker, "cam-1", names["cam-1"]), Camera(broker, "watcher", names["watcher"])
    try:
        bad.reaches(watcher, "town/cam-1")  # the broker has forgotten: this is the gap that the reconciler closes
        reconciler.reconcile(town)
        work(town)
        assert len(told(town, "EnforcementSettled")) == 2
        until(lambda: bad.drops, what="the live session was closed again")
        until(bad.client.is_connected, what="the device is back, inside quarantine")
        _silent(broker, bad, watcher)
        bad.reaches(watcher, "remediation/cam-1")
        reconciler.reconcile(town)
        work(town)
        assert len(told(town, "EnforcementSettled")) == 2  # and now all is quiet
    finally:
        bad.close()
        watcher.close()


@pytest.mark.interop
def test_a_client_that_the_broker_does_not_know_is_watched_until_it_appears(town: Runtime, broker: Broker) -> None:
    load(town)
    device = new_device(town, "cam-1")
    raise_alert(town, device)
    work(town)
    (settled,) = told(town, "EnforcementSettled")
    assert "does not know" in settled.evidence["broker"]
    point = MosquittoPoint(town.settings)
    assert point.observe(town) == {device.id: "quarantine"}
    know(town, "cam-1")
    assert point.observe(town) == {}
    reconciler.reconcile(town)
    work(town)
    assert point.observe(town) == {device.id: "quarantine"}
    assert told(town, "EnforcementSettled")[-1].evidence["roles"] == ["device", "quarantine"]


@pytest.mark.interop
@pytest.mark.timeout(300)
def test_killed_at_each_boundary_around_the_broker_the_device_is_cut_once(
    town: Runtime, broker: Broker, database_url: str
) -> None:
    """Must show 8 at a real peer: a worker dies around the point's work; the broker's side shows one cut, not two."""
    around = [b for b in Boundary if b.partition("-")[0] in {"enforce", "point", "settle"}]
    assert len(around) == 5
    names = know(town, "watcher", *(f"cam-{number}" for number in range(len(around))))
    load(town)
    zygote = Zygote(
        town.settings.data, database_url, points="soar_playbooks.enforcement.mosquitto:point", mosquitto_host="127.0.0.1",
        mosquitto_port=broker.port, mosquitto_password_file=str(broker.folder / "password"), budget_sender=100,
    )  # fmt: skip
    watcher = Camera(broker, "watcher", names["watcher"])
    try:
        for number, boundary in enumerate(around):
            name, begin = f"cam-{number}", 200 * number
            camera = Camera(broker, name, names[name])
            with clock.travel(timedelta(seconds=begin)):
                device = new_device(town, name)
                raise_alert(town, device)
            assert zygote.live(fault=f"{boundary}:1", offset=begin) == [-9], boundary
            assert zygote.live(offset=begin + 60) == zygote.live(offset=begin + 120) == [0]
            until(lambda camera=camera: camera.drops, what=f"{boundary}: the live session was closed")  # type: ignore[misc]
            until(camera.client.is_connected, what="the device is back, inside quarantine")
            _silent(broker, camera, watcher)
            assert len(camera.drops) == 1, boundary
            mine = [event for event in told(town, "EnforcementSettled") if event.device_id == device.id]
            assert [event.evidence["roles"] for event in mine] == [["device", "quarantine"]], boundary
            camera.close()
    finally:
        watcher.close()
        zygote.close()


def _silent(broker: Broker, bad: Camera, watcher: Camera, *, since: int | None = None) -> None:
    """What the device says outside remediation is denied by the broker's own log, and nobody hears it."""
    begin = len(broker.lines()) if since is None else since
    heard = len(watcher.heard)

    def denied() -> bool:
        bad.say(f"town/{bad.name}")
        return len(broker.denied(bad.name, since=begin)) >= 5

    until(denied, every=0.05, what="the broker denies what the device says")
    assert broker.published(bad.name, since=begin) == []
    assert not [topic for topic, _ in watcher.heard[heard:] if topic == f"town/{bad.name}"]
