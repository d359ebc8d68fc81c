"""The city's MQTT broker in the demo: a real Mosquitto with its dynamic-security plugin, where the machine has one.

Steps: find the program and the plugin (never needed: without them the story has one line that says so) → write a
configuration and a fresh security file into the city's folder → start it as a child on a free loopback port → name it in
lachan's settings, so that containment drives it → register each camera as a client. What it then shows comes from both
ends: the device's own client, the broker's log, and the town, a client that hears what cameras publish. Limits: loopback,
passwords instead of certificates; the broker's restart is tested in ``tests/interop/test_soar_mosquitto.py``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import queue
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from lachan.demo.city import Camera, City, DemoFailed, tell

PLUGIN = "mosquitto_dynamic_security.so"
PLACES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
CONTROL = "$CONTROL/dynamic-security/v1"
STARTS_WITHIN = 5.0  # seconds
ANSWERS_WITHIN = 5.0  # seconds
ROUNDS = 101  # of PBKDF2, as mosquitto_ctrl writes them
_KINDS = ("publishClientSend", "publishClientReceive", "subscribePattern", "unsubscribePattern")


def beside(city: City) -> Broker | None:
    """Start a broker for a city that is not served yet; None if this machine has none that works."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which("mosquitto", path=path)
    plugin = next((found for place in PLACES for found in Path(place).glob(f"**/{PLUGIN}")), None)
    if program is None or plugin is None:
        return None
    return Broker.start(city, program, plugin)


class Broker:
    """A running broker, and the town's own client on it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.log = folder / "broker.log"
        self.passwords = {name: secrets.token_urlsafe(16) for name in ("lachan", "town")}
        self.heard: dict[str, float] = {}
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._town: Any = None

    @classmethod
    def start(cls, city: City, program: str, plugin: Path) -> Broker | None:
        """Write what it needs, start it, and tell lachan's settings; None if it would not start."""
        folder = city.folder / "broker"
        folder.mkdir(mode=0o700)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            broker = cls(folder, free.getsockname()[1])
        broker._write(plugin)
        process = subprocess.Popen(
            [program, "-c", str(folder / "mosquitto.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        city.others.append(process)
        if not broker._answers_on_its_port(process):
            return None
        city.env |= {
            "LACHAN_MOSQUITTO_HOST": "127.0.0.1", "LACHAN_MOSQUITTO_PORT": str(broker.port),
            "LACHAN_MOSQUITTO_USER": "lachan", "LACHAN_MOSQUITTO_PASSWORD_FILE": str(folder / "password"),
        }  # fmt: skip
        broker._listen()
        return broker

    def _write(self, plugin: Path) -> None:
        state = self.folder / "dynsec.json"
        clients = [_client(name, password) for name, password in self.passwords.items()]
        access = {"publishClientSend": False, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
        sends = _allow(f"{CONTROL.rpartition('/')[0]}/#", "publishClientSend")
        roles = [{"rolename": "admin", "acls": sends + _allow("#", *_KINDS[1:]) + _allow(f"{CONTROL}/#", *_KINDS[1:])}]
        text = json.dumps({"clients": clients, "roles": roles, "defaultACLAccess": access})
        for file, words in ((state, text), (self.folder / "password", self.passwords["lachan"])):
            file.touch(mode=0o600)
            file.write_text(words)
        user = "user root\n" if os.geteuid() == 0 else ""  # else it would give up the right to read its folder
        (self.folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\nplugin {plugin}\nplugin_opt_config_file {state}\n"
            f"log_dest file {self.log}\nlog_type all\n{user}"
        )

    def _answers_on_its_port(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            time.sleep(0.01)
        return False

    def _listen(self) -> None:
        """Connect the town: it hears all heartbeats, and registers clients as the broker's administrator."""
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        def on_message(_client: object, _data: object, message: Any) -> None:
            if message.topic.startswith("city/"):
                self.heard[message.topic.split("/")[1]] = time.time()
            else:
                self._answers.put(json.loads(message.payload))

        ready: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._town = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="town", protocol=mqtt.MQTTv5)
        self._town.username_pw_set("town", self.passwords["town"])
        self._town.on_message = on_message
        self._town.on_connect = lambda client, *_: client.subscribe([("city/#", 0), (f"{CONTROL}/response", 1)])
        self._town.on_subscribe = lambda *_: ready.put(None)
        self._town.connect("127.0.0.1", self.port, keepalive=30)
        self._town.loop_start()
        _within(ready, "let the town in")

    def admit(self, city: City, camera: Camera) -> None:
        """Register a camera as a client that may speak under ``city/NAME/#``; it connects and is heard.

        Raises:
            DemoFailed: the broker refuses, or the heartbeat does not arrive.
        """
        name, password = camera.name, secrets.token_urlsafe(16)
        role = {"command": "createRole", "rolename": f"device-{name}", "acls": _allow(f"city/{name}/#", *_KINDS)}
        client = {"command": "createClient", "username": name, "password": password}
        client["roles"] = [{"rolename": f"device-{name}", "priority": 1}]  # type: ignore[assignment]
        self._town.publish(CONTROL, json.dumps({"commands": [role, client]}), qos=1)
        problems = [r["error"] for r in _within(self._answers, "answer its administrator")["responses"] if "error" in r]
        tell(not problems, f"the broker does not register {name}: {problems}")
        camera.must("mqtt", port=self.port, password=password)
        city.wait(lambda: name in self.heard, f"the town hearing the heartbeat of {name}")

    def cut(self, city: City, camera: Camera, since: float) -> str:
        """Show that a camera was disconnected and may publish and subscribe under ``remediation/#`` only; in words.

        Raises:
            DemoFailed: it is not so.
        """

        def seen() -> dict[str, Any]:
            found: dict[str, Any] = camera.must("mqtt_seen")
            told = [state for at, state in found["changes"] if at >= since]
            return found if told[:1] == ["disconnected"] and told[-1] == "refused" else {}

        found = city.wait(seen, f"the broker cutting {camera.name}", within=10)
        closed = next(at for at, state in found["changes"] if at >= since and state == "disconnected")
        refused = found["changes"][-1][0]
        wanted = {f"city/{camera.name}/orders": False, f"remediation/{camera.name}": True}
        tell(found["granted"] == wanted, f"the broker grants {camera.name} {found['granted']}")
        city.wait(lambda: camera.must("mqtt_seen")["remedies"] > found["remedies"], "the way to be healed being open")
        tell(self.heard[camera.name] <= refused, f"the town still hears {camera.name}")
        denied = self.log.read_text(errors="replace").count(f"Denied PUBLISH from {camera.name} ")
        tell(denied > 0, f"the broker's log denies {camera.name} nothing")
        ms = round((closed - since) * 1000)
        return f"; Mosquitto: disconnected after {ms} ms, then publish and subscribe refused but for remediation/#"

    def untouched(self, camera: Camera) -> str:
        """Show that a camera was never disconnected or refused; in words.

        Raises:
            DemoFailed: it was.
        """
        states = [state for _, state in camera.must("mqtt_seen")["changes"]]
        tell(states == ["accepted"], f"at the broker {camera.name} saw {states}")
        return "; Mosquitto: one connection, every heartbeat accepted"

    def back(self, city: City, camera: Camera) -> str:
        """Show that a released camera publishes again and is heard; in words.

        Raises:
            DemoFailed: it does not.
        """
        released = time.time()
        city.wait(lambda: camera.must("mqtt_seen")["changes"][-1][1] == "accepted", "the broker accepting it again")
        city.wait(lambda: self.heard[camera.name] > released, f"the town hearing {camera.name} again")
        return "; Mosquitto hears its heartbeat again"


def _allow(topic: str, *kinds: str) -> list[dict[str, Any]]:
    return [{"acltype": kind, "topic": topic, "allow": True} for kind in kinds]


def _client(name: str, password: str) -> dict[str, Any]:
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS)
    made = {"username": name, "iterations": ROUNDS, "roles": [{"rolename": "admin"}]}
    return {**made, "password": base64.b64encode(digest).decode(), "salt": base64.b64encode(salt).decode()}


def _within(source: queue.SimpleQueue[Any], what: str) -> Any:
    try:
        return source.get(timeout=ANSWERS_WITHIN)
    except queue.Empty:
        raise DemoFailed(f"the broker did not {what} within {ANSWERS_WITHIN:g} s") from None
