"""A disk that is full to the last byte, under real roles: readiness and doctor name it, writes are 507, nothing is lost.

The data folder lies on a small tmpfs of its own (needs root to mount it).
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lachan.ids import new_id
from tests.house import tree
from tests.loop.conftest import Town, attack, served
from tests.support import need
from tests.support.wait import until

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Town]:
    """A town whose folder is a file system of 64 MiB."""
    need.root("it mounts a tmpfs")
    mount = need.program("mount", package="mount")
    folder = tmp_path / "s"
    folder.mkdir()
    subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], check=True)
    try:
        with served(folder / "t") as made:
            yield made
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all that is left."""
    path, size = folder / "fill", 1 << 20
    with path.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return path


def test_a_full_disk_is_named_and_costs_nothing_that_was_taken(small: Town) -> None:
    town, base = small, small.city.urls["people"]
    camera, _ = town.camera("cam-1", "hk")
    body = {"name": "cam-2", "vendor": "acme", "model": "A1", "serial_number": "S2", "site": "hk"}
    web = town.story.admin.http

    def ready() -> httpx.Response:
        return httpx.get(f"{base}/readyz", verify=town.city.trust)

    assert ready().status_code == 200
    taken = fill(town.city.folder.parent)
    try:
        until(lambda: ready().status_code == 503, timeout=20, what="the door says that it is not ready")
        told = ready().json()
        assert told["checks"]["disk"] == "wrong"
        assert "disk" in told["detail"]
        assert "full" in told["detail"]
        answers = [
            web.post("/api/v1/devices", json={**body, "name": f"x-{n}", "serial_number": new_id()}) for n in range(40)
        ]
        refused = [one for one in answers if one.status_code != 201]  # pages that were free may take a few
        assert refused
        for one in refused:
            assert one.status_code in (503, 507), one.text
            assert int(one.headers["retry-after"]) >= 1
            assert one.json()["hint"]
        assert any(one.status_code == 507 for one in refused), refused[-1].text
        words = [sys.executable, "-m", "lachan", "doctor", "--json", "--data", str(town.city.data)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tree.ROOT)
        rows = {row["what"]: row for row in json.loads(done.stdout)}
        assert (done.returncode, rows["disk"]["state"]) == (1, "missing")
        assert "full" in rows["disk"]["next"]
        sent = camera.do("bulk", lines=attack())
        assert sent.get("ok") is not True, sent
    finally:
        taken.unlink()
    until(lambda: ready().status_code == 200, timeout=60, what="it is ready again")
    assert web.post("/api/v1/devices", json=body).status_code == 201
    for one in answers:
        if one.status_code == 201:
            town.story.admin.get(f"/api/v1/devices/{one.json()['id']}")
    camera.must("bulk", lines=attack())
    town.contained("cam-1", timeout=60)
