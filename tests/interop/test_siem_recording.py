"""Must show 5 with other people's programs: curl delivers the recording; real daemons make a new one."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

import lachan.demo.recording as recordings
from lachan import clock
from lachan.identity import Role, tokens
from lachan.runtime import Runtime
from siem_rules import ingest, service
from siem_rules.models import alerts
from tests.api.support import Town
from tests.conftest import person
from tests.siem_rules.conftest import open_rt  # noqa: F401
from tests.siem_rules.support import (
    BENIGN,
    EXPECTED,
    RECORDING,
    collector,
    delayed,
    detect,
    pairs,
    raised,
    send,
    shifted,
)
from tests.support import need

pytestmark = pytest.mark.interop


@pytest.fixture
def town(rt: Runtime, tmp_path: Path) -> Iterator[Town]:
    """An installation with its doors open."""
    made = Town(rt, tmp_path / "authority")
    with made.open():
        yield made
    ingest.close(rt)


def test_curl_delivers_in_order_shuffled_twice_and_benign(town: Town, tmp_path: Path) -> None:
    curl = need.program("curl", package="curl")

    def deliver(body: bytes, site: str) -> None:
        file = tmp_path / "recording.bulk"
        file.write_bytes(body)
        key = tokens.api_key(town.token(Role.COLLECTOR, site=site))
        command = [
            curl, "--silent", "--show-error", "--fail", "--cacert", str(town.authority.file), "-H", f"Authorization: ApiKey {key}",
            "--data-binary", f"@{file}", f"{town.url('people')}/_bulk",
        ]  # fmt: skip
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        assert answer.startswith('{"took":')

    body = shifted(RECORDING)
    deliver(shifted(BENIGN), "site-0")
    detect(town.rt)
    assert not raised(town.rt)
    deliver(body, "site-1")
    detect(town.rt)
    assert raised(town.rt) == Counter(EXPECTED)
    deliver(body, "site-1")  # another token of the same name is the same sender
    detect(town.rt)
    assert raised(town.rt) == Counter(EXPECTED)
    for seed in range(20):
        closed(town.rt)  # what was received after a person's close begins anew, whatever its date
        other = shifted(RECORDING, clock.now() - timedelta(hours=seed + 1))
        renamed = delayed(other, seed).replace(b'"recording-', b'"shuffle-%d-' % seed)
        deliver(renamed, "site-1")
        detect(town.rt)
        assert raised(town.rt) == Counter(dict.fromkeys(EXPECTED, seed + 2)), f"shuffle {seed}"


def closed(rt: Runtime) -> None:
    """Have an analyst close every open alert."""
    analyst = person("an", Role.ANALYST)
    with rt.db.write() as connection:
        for alert_id in connection.execute(sa.select(alerts.c.id).where(alerts.c.state == "open")).scalars().all():
            service.close(connection, analyst, alert_id, verdict="true_positive")


def test_attack_can_be_recorded_again(
    open_rt: Runtime,  # noqa: F811
    tmp_path: Path,
) -> None:
    for name, package in (
        ("dropbear", "dropbear-bin"),
        ("dbclient", "dropbear-bin"),
        ("busybox", "busybox"),
        ("ip", "iproute2"),
    ):
        need.program(name, package=package)
    need.root("network, mount and process namespaces")
    script = shutil.copy(Path(recordings.__file__).parent / "record.py", tmp_path)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    attack, benign = (tmp_path / f"{name}.bulk" for name in ("recording", "benign"))
    assert len(pairs(attack.read_bytes())) > 40
    send(open_rt, collector("benign"), shifted(benign))
    detect(open_rt)
    assert not raised(open_rt)
    send(open_rt, collector("attack"), shifted(attack))
    detect(open_rt)
    assert raised(open_rt) == Counter(EXPECTED)
