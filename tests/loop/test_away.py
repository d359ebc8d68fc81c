"""A database that is busy or away, under real roles: none dies, each says so once, nothing acknowledged is lost."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from lachan.ids import new_id
from tests.loop.conftest import Town, attack
from tests.loop.test_killed_roles import roles
from tests.support import away, postgresql
from tests.support.wait import until

SAID = ("the database cannot be written", "the database cannot be read", "the database's wake-ups are not heard")


class Registering(threading.Thread):
    """Registers one device after the other at the people door, and keeps what each was answered."""

    def __init__(self, town: Town) -> None:
        super().__init__(daemon=True)
        self._http = town.story.admin.http
        self._ended = threading.Event()
        self.taken: list[str] = []
        self.answers: Counter[int] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        """Ask until told to stop."""
        while not self._ended.wait(0.05):
            body = {
                "name": f"away-{new_id()}",
                "vendor": "acme",
                "model": "A1",
                "serial_number": new_id(),
                "site": "away",
            }
            answer = self._http.post("/api/v1/devices", json=body)
            self.answers[answer.status_code] += 1
            if answer.status_code == 201:
                self.taken.append(answer.json()["id"])
            elif answer.status_code != 503 or not int(answer.headers.get("retry-after", "0")):
                self.wrong.append(f"{answer.status_code} {answer.headers.get('retry-after')} {answer.text[:300]}")

    def end(self) -> None:
        """Stop after the present one."""
        self._ended.set()
        self.join(60)
        assert not self.is_alive()


@contextmanager
def registering(town: Town) -> Iterator[Registering]:
    """Devices are registered all the time, refused only with 503 and Retry-After, and again taken in the end."""
    made, before = Registering(town), roles(town)
    made.start()
    try:
        yield made
        taken = len(made.taken)
        until(lambda: len(made.taken) > taken, timeout=30, what="a device is taken again")
    finally:
        made.end()
    assert made.wrong == []
    assert roles(town) == before, "no role ended"
    for device_id in made.taken:
        town.story.admin.get(f"/api/v1/devices/{device_id}")


def said(town: Town, start: int) -> Counter[tuple[str, str]]:
    """How often each role's process said each of what it says of the database since then."""
    names = {number: role for role, number in roles(town).items()}
    found = away.lines(town.city.folder / "lachan.log", start)
    return Counter(
        (names.get(one.get("process.pid"), "?"), one["message"]) for one in found if one.get("message") in SAID
    )


def loud(town: Town, start: int) -> list[dict[str, Any]]:
    """What else was logged as a warning or worse since then."""
    found = away.lines(town.city.folder / "lachan.log", start)
    calm = (*SAID, "an outage is over")
    return [one for one in found if one.get("log.level") not in ("info", "debug") and one.get("message") not in calm]


def size(town: Town) -> int:
    """Octets of the installation's log."""
    return (town.city.folder / "lachan.log").stat().st_size


def ready(town: Town) -> bool:
    """Whether the people door says that it is ready."""
    return bool(httpx.get(f"{town.city.urls['people']}/readyz", verify=town.city.trust).status_code == 200)


@pytest.mark.timeout(240)
def test_a_busy_file(town: Town) -> None:
    camera, _ = town.camera("busy-1", "busy")
    start = size(town)
    with registering(town) as asked:
        with away.locked_file(town.city.data / "lachan.db"):
            camera.must("bulk", lines=attack())  # taken and kept
            began = time.monotonic()
            until(lambda: asked.answers[503], timeout=30, what="a registration is refused")
            until(lambda: time.monotonic() - began > 15, timeout=30, every=0.5)
        town.contained("busy-1", timeout=60)
    found = said(town, start)
    assert {role for role, _ in found} >= {"doors", "detect", "work"}
    assert set(found.values()) == {1}, found
    assert len(loud(town, start)) <= 2, loud(town, start)
    town.release("busy-1")


@pytest.fixture
def away_town(tmp_path: Path) -> Iterator[tuple[Town, postgresql.Cluster, str]]:
    """A served installation on a PostgreSQL of its own."""
    with postgresql.own_cluster() as cluster, postgresql.database(str(cluster.folder)) as url:
        made = Town(tmp_path)
        made.city.env |= {"LACHAN_DATABASE_URL": url, "LACHAN_DATABASE_WAIT": "3"}
        try:
            made.open()
            yield made, cluster, url
        finally:
            for person in made.story.people.values():
                person.http.close()
            made.city.close()


@pytest.mark.timeout(300)
def test_a_server_with_locked_tables_and_one_that_is_stopped(away_town: tuple[Town, postgresql.Cluster, str]) -> None:
    town, cluster, url = away_town
    camera, _ = town.camera("away-1", "away")
    start = size(town)
    with registering(town) as asked, away.locked_tables(url, "devices", "jobs", "pki_certificates"):
        until(lambda: asked.answers[503] > 1, timeout=30, what="two registrations are refused")
    assert set(said(town, start).values()) == {1}, said(town, start)
    assert len(loud(town, start)) <= 2, loud(town, start)

    start = size(town)
    with registering(town) as asked:
        cluster.stop()
        until(lambda: asked.answers[503] > 3, timeout=30, what="registrations are refused")
        until(lambda: camera.do("ask").get("status") == 503, timeout=30, what="the device door fails closed")
        assert not ready(town)
        cluster.start()
        until(lambda: ready(town), timeout=30, what="the people door is ready")
        until(lambda: camera.do("ask").get("status") == 200, timeout=30, what="the device door is open again")
        camera.must("bulk", lines=attack())
        town.contained("away-1", timeout=60)
    found = said(town, start)
    assert {role for role, _ in found} >= {"doors", "detect", "work"}
    assert set(found.values()) == {1}, found
    assert len(loud(town, start)) <= 2, loud(town, start)


@pytest.mark.timeout(120)
def test_the_start_waits_for_the_database_and_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    words = [sys.executable, "-m", "lachan.program.migrate", str(data)]
    with postgresql.own_cluster() as cluster, postgresql.database(str(cluster.folder)) as url:
        cluster.stop()
        env = {**os.environ, "LACHAN_DATABASE_URL": url}
        short = subprocess.run(
            words, env={**env, "LACHAN_DATABASE_START_WAIT": "2"}, stderr=subprocess.PIPE, text=True, check=False
        )
        assert short.returncode != 0
        assert "It was tried for 2 s" in short.stderr
        assert short.stderr.count("the database cannot be written") == 1
        assert "Traceback" not in short.stderr
        with subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr is not None
            assert "the database cannot be written" in waiting.stderr.readline()
            cluster.start()
            waiting.communicate(timeout=60)
            assert waiting.returncode == 0
