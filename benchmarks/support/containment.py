"""Rows of containment: from alert rows to devices contained and enforced, every job and fact counted.

The worker is held still (SIGSTOP) while a collector delivers one deciding line for each device through ``_bulk``; when all
alerts stand as rows and everything else is at rest, the worker goes on and all CPU until rest again is counted. A run's own
work is looked at from inside (`benchmarks.support.inside`), over a second lot of alerts, with the worker still held.
"""

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.support import cpu, rows
from benchmarks.support.installation import Checkout, Installation
from benchmarks.support.rows import Rows
from benchmarks.support.table import Row

SITE = "quarter"
PLAYBOOK = Path("soar_playbooks") / "playbooks" / "quarantine-compromised-camera.cacao.json"
LINE = "Nov 22 16:19:02 camera authpriv.info sh: XMHDIPC: applet not found"  # a shipped rule: evidence of success
WARM = 10


class Quarter:
    """An installation with a site of devices, a collector there, and the signed playbook in force."""

    def __init__(self, lab: Installation, count: int) -> None:
        self.lab = lab
        self.left = iter(range(count))
        self.alerts = 0
        rows.devices(lab, count, prefix="que", site=SITE).checkpoint()
        lab.open()
        self.rows = Rows(lab)
        self.admin = lab.admin()
        self._enforce()
        token = {"name": "gw", "roles": ["collector"], "days": 1, "site": SITE}
        key = self.admin.post("/api/v1/tokens", json=token).raise_for_status().json()["api_key"]
        self.headers = {"Authorization": f"ApiKey {key}", "Content-Type": "application/x-ndjson"}
        self.deliver(WARM)
        self.contained(WARM)
        lab.settle()

    def _enforce(self) -> None:
        lab = self.lab
        made = lab.lachan("playbooks", "keygen", str(lab.offline / "operator"))
        lab.lachan("playbooks", "trust", made["public"], "--name", "operator")
        file = lab.folder / "signed.json"
        source = str(lab.checkout.top / PLAYBOOK)
        lab.lachan("playbooks", "sign", source, "--key", made["private"], "--out", str(file))
        body = {"file": file.name, "text": file.read_text("utf-8")}
        loaded = self.admin.post("/api/v1/playbooks", json=body).raise_for_status().json()
        self.admin.put(f"/api/v1/playbooks/{loaded['id']}/mode", json={"mode": "enforce"}).raise_for_status()

    def deliver(self, count: int) -> None:
        """Have the collector send the deciding line of so many more devices, and wait until the alerts are rows."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        lines: list[dict[str, Any]] = []
        for _ in range(count):
            name = f"que-{next(self.left):07}"
            lines.append({"create": {"_index": "l", "_id": name}})
            lines.append({"@timestamp": now, "message": LINE, "host": {"name": name}})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        answer = self.admin.post("/_bulk", content=text, headers=self.headers).raise_for_status()
        if answer.json()["errors"]:
            raise RuntimeError(f"lines were refused: {answer.text[:400]}")
        self.alerts += count
        self._wait(lambda: self.rows.one(f"SELECT count(*) FROM alerts WHERE site = '{SITE}'") >= self.alerts, "alerts")

    def contained(self, count: int) -> None:
        """Wait until so many devices are contained in all."""
        query = f"SELECT count(*) FROM containments WHERE site = '{SITE}' AND state = 'active'"
        self._wait(lambda: self.rows.one(query) >= count, f"{count} containments")

    def _wait(self, done: Callable[[], bool], what: str, most: float = 300.0) -> None:
        end = time.monotonic() + most
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.lab.checkout.name}: {what}: not within {most:.0f} s")
            time.sleep(0.2)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the worker still; never while it holds the write lock."""
        worker = self.lab.pids["work"]
        for _ in range(50):
            self.lab.settle()
            os.kill(worker, signal.SIGSTOP)
            if self._writable():
                break
            os.kill(worker, signal.SIGCONT)
        try:
            yield
        finally:
            os.kill(worker, signal.SIGCONT)

    def _writable(self) -> bool:
        if self.rows.postgres:
            busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            return self.rows.one(busy) == 0
        with closing(sqlite3.connect(self.lab.data / "lachan.db", timeout=0.5)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
            return True

    def settled(self, count: int) -> float:
        """Measure ``count`` alerts from their rows to rest: CPU seconds of all processes."""
        total = self.alerts + count
        with self.held():
            self.deliver(count)
            self.lab.settle()
            before = self.lab.total()
        self.contained(total)
        self.lab.settle()
        spent = self.lab.total() - before
        given_up = self.rows.one("SELECT count(*) FROM jobs WHERE state = 'poisoned'")
        if given_up:
            raise RuntimeError(f"{given_up} jobs were given up")
        return spent

    def own(self, count: int) -> dict[str, Any]:
        """Measure what a run costs itself (``own``, in CPU seconds), over ``count`` alerts in a worker of this benchmark's."""
        with self.held():
            self.deliver(count)
            self.lab.settle()
            before = self._database()
            line = [str(self.lab.checkout.python), str(Path(__file__).with_name("inside.py")), "100"]
            env = {key: value for key, value in self.lab.env.items() if not key.endswith("_PORT")}
            done = subprocess.run(line, env=env, cwd=self.lab.checkout.top, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{self.lab.checkout.name}, from inside: {done.stderr[-1500:]}")
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            spent = self._database() - before
        # PostgreSQL's work is not told by kind of job: it is shared out as the worker's own time is.
        found["own"] *= 1 + spent / found["total"]
        self.lab.settle()
        return found

    def _database(self) -> float:
        if self.lab.cluster is None:
            return 0.0
        return cpu.trees({"postgresql": self.lab.cluster.pid})["postgresql"]


def measure(checkouts: list[Checkout], *, postgres: bool, quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Measure ours beside the yardstick, in turns."""
    where = "PostgreSQL" if postgres else "SQLite"
    rounds = 1 if quick else 2
    spent: dict[str, list[float]] = {}
    own: dict[str, dict[str, Any]] = {}
    with ExitStack() as open_ones:
        quarters = {}
        turn = {one.name: (30 if one.name != "lachan" else 60) if quick else (60 if one.name != "lachan" else 200)
                for one in checkouts}  # fmt: skip
        for checkout in checkouts:
            say(f"{where}: a site of devices, its collector, the playbook: {checkout.name}")
            lab = open_ones.enter_context(Installation(checkout, postgres=postgres))
            quarters[checkout.name] = Quarter(lab, turn[checkout.name] * (rounds + 1) + WARM)
        for number in range(rounds):
            for name, quarter in quarters.items():
                say(f"{where}: alert → settled, {name}, round {number + 1} of {rounds}")
                spent.setdefault(name, []).append(quarter.settled(turn[name]))
        for name, quarter in quarters.items():
            say(f"{where}: a run's own work, {name}")
            own[name] = quarter.own(turn[name])
            told = {
                kind: f"{count} × {1000 * cost / count:.2f} ms" for kind, (count, cost) in own[name]["kinds"].items()
            }
            say(f"    {told}")
    rate = {name: turn[name] * rounds / sum(costs) for name, costs in spent.items()}
    alone = {name: 1 / found["own"] for name, found in own.items() if found["own"]}
    others = [one.name for one in checkouts[1:]]
    found = [Row(f"run's own work, {where}", alone.get("lachan"), note=_beside(alone, others))]
    return found + [
        Row(f"alert → settled, {where}", rate["lachan"], beside=name, peer=rate.get(name)) for name in others or [""]
    ]


def _beside(rates: dict[str, float], others: list[str]) -> str:
    return ", ".join(f"{name} {rates[name]:.1f}" for name in others if name in rates)
