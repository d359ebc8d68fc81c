"""A genuine Prometheus scrapes the people door and evaluates deploy/prometheus: each rule fires by its fault, and not before.

`Watched` starts Debian's prometheus on a free port with the shipped rules, whose ``for`` is cut to a second, and a scrape each second.
"""

import json
import re
import signal
import socket
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pytest

from lachan import clock, health
from lachan.errors import Unavailable
from lachan.identity import Role
from lachan.work import jobs
from siem_rules.forgotten import Forgotten
from tests.api.conftest import doors, town  # noqa: F401
from tests.api.support import Town
from tests.house import tree
from tests.ledger.test_sealer import happen
from tests.support import need
from tests.support.wait import until

RULES = tree.ROOT / "deploy" / "prometheus" / "lachan.rules.yml"


class Watched:
    """A Prometheus that watches a town."""

    def __init__(self, town: Town, folder: Path) -> None:  # noqa: F811
        self.town, self.folder = town, folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def __enter__(self) -> Self:
        rules = self.folder / "rules.yml"
        rules.write_text(re.sub(r"for: \w+", "for: 1s", RULES.read_text("utf-8")), "utf-8")
        token = self.folder / "token"
        token.write_text(self.town.token(Role.PLATFORM), "utf-8")
        scrape = {
            "job_name": "lachan", "scheme": "https", "scrape_interval": "1s", "tls_config": {"ca_file": str(self.town.authority.file)},
            "authorization": {"credentials_file": str(token)},
            "static_configs": [{"targets": [f"localhost:{self.town.ports['people']}"]}],
        }  # fmt: skip
        config = self.folder / "prometheus.yml"
        document = {"global": {"evaluation_interval": "1s"}, "rule_files": [str(rules)], "scrape_configs": [scrape]}
        config.write_text(json.dumps(document), "utf-8")  # JSON is YAML
        line = [
            need.program("prometheus", package="prometheus"), f"--config.file={config}", f"--storage.tsdb.path={self.folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error",
        ]  # fmt: skip
        self.process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)

    def asked(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=5) as answer:
            return json.load(answer)["data"]

    def firing(self, name: str, **labels: str) -> bool:
        """Whether an alert of that name, with these labels, fires now."""
        return any(
            one["state"] == "firing" and one["labels"]["alertname"] == name and labels.items() <= one["labels"].items()
            for one in self.asked("alerts")["alerts"]
        )

    def value(self, query: str) -> float | None:
        found = self.asked(f"query?query={quote(query)}")["result"]
        return float(found[0]["value"][1]) if found else None

    def scraped(self) -> bool:
        try:
            return self.value("up") == 1
        except OSError:
            return False


@pytest.fixture
def watched(doors: Town, tmp_path: Path) -> Iterator[Watched]:  # noqa: F811
    with Watched(doors, tmp_path) as found:
        until(found.scraped, timeout=30, what="the first scrape")
        yield found


def test_promtool_accepts_the_rules_and_each_says_what_to_do() -> None:
    done = subprocess.run(
        [need.program("promtool", package="prometheus"), "check", "rules", str(RULES)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = RULES.read_text("utf-8")
    names = re.findall(r"alert: (\w+)", text)
    assert len(names) == text.count("summary:") == text.count("description:") == text.count("severity:")
    assert set(names) == set(FAULTS)


def gave_up(watched: Watched, _monkeypatch: pytest.MonkeyPatch) -> None:
    with watched.town.rt.db.write() as c:
        jobs.enqueue(c, "pki.crl", {}, key="given-up")
        c.execute(jobs.jobs.update().where(jobs.jobs.c.key == "given-up").values(state="poisoned"))


def lane_waits(watched: Watched, _monkeypatch: pytest.MonkeyPatch) -> None:
    """An urgent job is due, and nobody works here."""
    with watched.town.rt.db.write() as c:
        jobs.enqueue(c, "soar.run", {"run_id": "x"}, due_at=clock.now() - timedelta(seconds=30))


def forgets(watched: Watched, _monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: watched.value('lachan_evidence_forgotten{what="groups"}') is not None, timeout=10)
    told = Forgotten(watched.town.rt)
    told.tell(Counter({("groups", "device:a"): 5}))


def does_not_move(watched: Watched, _monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is put back by 36 days."""
    with clock.travel(timedelta(days=36)):
        happen(watched.town.rt, 1)


def cannot_tell(_watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check of the detector asks does not answer."""

    def silent(_rt: object) -> None:
        raise Unavailable("no answer")

    known = health.resolve
    monkeypatch.setattr(health, "resolve", lambda name: silent if name.startswith("siem_rules") else known(name))


FAULTS: dict[str, tuple[Any, dict[str, str]]] = {
    "LachanGaveUp": (gave_up, {}),
    "LachanLaneWaits": (lane_waits, {"lane": "urgent"}),
    "LachanForgets": (forgets, {"what": "groups"}),
    "LachanDoesNotMove": (does_not_move, {"check": "clock"}),
    "LachanCannotTell": (cannot_tell, {"check": "detector"}),
    "LachanDoorIsGone": (None, {"job": "lachan"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (fault, _) in FAULTS.items() if fault])
def test_each_rule_fires_by_its_fault_and_not_before(
    watched: Watched, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, labels = FAULTS[name]
    until(lambda: (watched.value("sum(count_over_time(up[1m]))") or 0) >= 4, timeout=20, what="four scrapes")
    assert not watched.firing(name, **labels)
    fault(watched, monkeypatch)
    until(lambda: watched.firing(name, **labels), timeout=30, what=name)


@pytest.mark.slow
def test_a_door_that_is_gone_is_told_of(town: Town, tmp_path: Path) -> None:  # noqa: F811
    with town.open():
        watching = Watched(town, tmp_path)
        watching.__enter__()
        until(watching.scraped, timeout=30)
        assert not watching.firing("LachanDoorIsGone")
    try:
        until(lambda: watching.firing("LachanDoorIsGone", job="lachan"), timeout=30)
    finally:
        watching.__exit__()
