"""The camera's MQTT side in the demo: one connection kept open, a heartbeat again and again, and what became of each.

The client comes back by itself whenever it is disconnected, as cameras do, and asks for its subscriptions again. MQTT 5
tells a device what the broker thinks: every heartbeat (QoS 1) is acknowledged as accepted or not authorised (MQTT 5.0
3.4.2.1), every subscription is granted or refused (3.9.3). Limit: plain TCP on loopback with a password; a street would
use TLS with the certificate.
"""

import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

EVERY = 0.1  # seconds between two heartbeats


class Heartbeat(threading.Thread):
    """See the module's text.

    Attributes:
        changes: (seconds since the epoch, ``accepted`` | ``refused`` | ``disconnected``), one entry per change.
        granted: What of its subscriptions the broker granted at the last connection, by topic.
        remedies: How many messages to ``remediation/…`` were accepted.
    """

    def __init__(self, name: str, *, port: int, password: str) -> None:
        super().__init__(daemon=True)
        self._name, self._port = name, port
        self._topics = (f"city/{name}/orders", f"remediation/{name}")
        self.changes: list[tuple[float, str]] = []
        self.granted: dict[str, bool] = {}
        self.remedies = 0
        self._beats: dict[int, str] = {}
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self._client.username_pw_set(name, password)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        self._client.on_disconnect = self._on_disconnect
        self._up = False  # the library's own word stays true after the broker's DISCONNECT

    def run(self) -> None:
        """Keep connected and keep beating, for as long as the process lives."""
        due = 0.0
        while True:
            if self._client.loop(timeout=EVERY / 2) != mqtt.MQTT_ERR_SUCCESS:
                self._connect()
            if self._up and time.monotonic() >= due:
                due = time.monotonic() + EVERY
                for topic in (f"city/{self._name}/heartbeat", f"remediation/{self._name}/heartbeat"):
                    sent = self._client.publish(topic, str(time.time()), qos=1)
                    self._beats[sent.mid] = topic

    def seen(self) -> dict[str, Any]:
        """Tell what the device's own client saw so far."""
        return {"changes": list(self.changes), "granted": dict(self.granted), "remedies": self.remedies}

    def _connect(self) -> None:
        try:
            self._client.connect("127.0.0.1", self._port, keepalive=10)
        except OSError:
            time.sleep(EVERY)  # the broker is away: a camera in the street has all the time in the world

    def _on_connect(self, client: mqtt.Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if not reason.is_failure:
            self._up = True
            client.subscribe([(topic, 1) for topic in self._topics])

    def _on_disconnect(self, *_: object) -> None:
        self._up = False
        self._note("disconnected")

    def _on_subscribe(self, _client: object, _data: object, _mid: int, reasons: Any, _properties: object) -> None:
        self.granted = {topic: not reason.is_failure for topic, reason in zip(self._topics, reasons, strict=True)}

    def _on_publish(self, _client: object, _data: object, mid: int, reason: Any, _properties: object) -> None:
        topic = self._beats.pop(mid, "")
        if topic.startswith("city/"):
            self._note("refused" if reason.is_failure else "accepted")
        elif not reason.is_failure:
            self.remedies += 1

    def _note(self, state: str) -> None:
        if not self.changes or self.changes[-1][1] != state:
            self.changes.append((time.time(), state))
