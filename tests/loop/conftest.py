"""One served installation for all tests of this folder: it costs ten seconds of processor time, so tests share it.

Each test brings devices and a site of its own; nothing that a test leaves behind is in another's way.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lachan import clock
from lachan.demo import replay
from lachan.demo.city import Camera, City
from lachan.demo.story import Story, enforce, start
from lachan.ids import new_id
from tests.support.wait import until

Json = dict[str, Any]


class Town:
    """The installation, its people (admin, an, binh, chi), and devices that tests make."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.city = City(folder, settings={"LACHAN_SYSLOG_PORT": "0", **settings})
        self.story = Story(self.city)

    def open(self) -> None:
        """Found and serve it; the repository's playbook is signed, loaded, and in enforce mode."""
        start(self.story)
        enforce(self.story)

    def know(self, name: str, site: str) -> str:
        """Register a device on which little depends; its id."""
        body = {"name": name, "vendor": "acme", "model": "A1", "serial_number": new_id(), "site": site}
        device_id: str = self.story.admin.post("/api/v1/devices", body)["id"]
        self.story.admin.ask("PATCH", f"/api/v1/devices/{device_id}", json={"criticality": "normal"})
        self.story.device_ids[name] = device_id
        return device_id

    def secret(self, name: str) -> str:
        """A fresh one-time secret of a device."""
        path = f"/api/v1/devices/{self.story.device_ids[name]}/secret"
        return str(self.story.admin.post(path, {"profile": "camera"})["secret"])

    def camera(self, name: str, site: str) -> tuple[Camera, str]:
        """Register a camera and have its own process enrol; with the secret that it used."""
        self.know(name, site)
        made, secret = self.city.camera(name), self.secret(name)
        made.must("enrol", secret=secret)
        return made, secret

    def tls(self, name: str) -> ssl.SSLContext:
        """What a program on that camera would use towards the door."""
        context = ssl.create_default_context(cafile=str(self.city.root))
        context.load_cert_chain(self.city.folder / name / "device.pem", self.city.folder / name / "device.key")
        return context

    def answer(self, name: str) -> str:
        """The trust decision for a device."""
        return str(self.story.admin.get(f"/api/v1/trust/{self.story.device_ids[name]}")["answer"])

    def alerts(self, name: str) -> list[Json]:
        """The alerts that are bound to a device."""
        return list(self.story.admin.get(f"/api/v1/alerts?device_id={self.story.device_ids[name]}")["items"])

    def contained(self, name: str, *, timeout: float = 30) -> None:
        """Wait until the decision for a device is quarantine."""
        until(lambda: self.answer(name) == "quarantine", timeout=timeout, every=0.05, what=f"{name} is contained")

    def release(self, name: str) -> None:
        """Two people release a device."""
        device_id = self.story.device_ids[name]
        listed = self.story.admin.get(f"/api/v1/containments?device_id={device_id}")["items"]
        (found,) = (one for one in listed if one["device_id"] == device_id and one["state"] == "active")
        for person in ("binh", "chi"):
            self.story.people[person].post(f"/api/v1/containments/{found['id']}/release", {"note": "cleaned"})


def attack() -> str:
    """The recorded attack, ending now, as a `_bulk` body."""
    return b"".join(replay.ending(replay.ATTACK, clock.now())).decode()


@contextmanager
def served(folder: Path, **settings: str) -> Iterator[Town]:
    """An open town in a new folder; all its processes end with the block."""
    folder.mkdir(exist_ok=True)
    made = Town(folder, **settings)
    try:
        made.open()
        yield made
    finally:
        for person in made.story.people.values():
            person.http.close()
        made.city.close()


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """The one installation."""
    with served(tmp_path_factory.mktemp("town")) as made:
        yield made
