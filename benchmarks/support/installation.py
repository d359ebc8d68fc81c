"""One lachan under load: founded, served, spoken to through its command line and its doors as anybody would.

The checkout is a parameter, so the commit under test and the yardstick (`benchmarks.support.yardstick`) are driven by
exactly the same code. Nothing here imports lachan.
"""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from benchmarks.support import cpu
from benchmarks.support.postgres import Cluster

# Limits that protect a city from one sender or one address would measure themselves here.
OPEN = {
    **{f"LACHAN_BUDGET_{name}": "1000000" for name in ("SITE", "MODEL", "DETECTOR", "SENDER")},
    "LACHAN_SIGNER_RATES": '{"issue": 100000, "ocsp": 100000, "crl": 100000, "release": 100000}',
    "LACHAN_DOOR_CONNECTIONS_PER_ADDRESS": "4000",
    **{f"LACHAN_{door}_PORT": "0" for door in ("PEOPLE", "DEVICE", "STATUS")},
}


@dataclass(frozen=True)
class Checkout:
    """A tree of lachan and the interpreter that runs it."""

    name: str
    top: Path
    python: Path


class Installation:
    """A founded lachan in a folder of its own, on SQLite or in a PostgreSQL cluster of its own."""

    def __init__(self, checkout: Checkout, *, postgres: bool = False, settings: dict[str, str] | None = None) -> None:
        self.checkout = checkout
        self.folder = Path(tempfile.mkdtemp(prefix="lb-"))
        self.data = self.folder / "d"
        self.offline = self.folder / "o"
        self.cluster = Cluster() if postgres else None
        self.urls: dict[str, Any] = {}
        self.server: subprocess.Popen[str] | None = None
        self.idle = 0.0  # CPU seconds a second at rest
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("LACHAN_", "PYTHON", "VIRTUAL"))}
        self.env = {**kept, **OPEN, "LACHAN_DATA": str(self.data), **(settings or {})}

    def __enter__(self) -> Self:
        """Found it; `open` serves it."""
        try:
            if self.cluster:
                self.env["LACHAN_DATABASE_URL"] = self.cluster.start("lachan")
            self.link = self.lachan("init", "--offline", str(self.offline))["link"]
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End its processes by their ids and remove its folder."""
        self.close()
        log = self.folder / "log"
        if kind is not None and log.exists():
            print(log.read_text("utf-8", "replace")[-3000:], file=sys.stderr)
        if self.cluster:
            self.cluster.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def lachan(self, *words: str) -> Any:
        """Run a command with ``--json`` and give its document back.

        Raises:
            RuntimeError: it failed; the message is its own.
        """
        return json.loads(self.command(*words).stdout or "{}")

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command with ``--json``; see `lachan`."""
        line = [str(self.checkout.python), "-m", "lachan", *words, "--json"]
        done = subprocess.run(line, env=self.env, cwd=self.checkout.top, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"{self.checkout.name}: lachan {' '.join(words[:2])}: {done.stdout}{done.stderr}"[-1500:]
            )
        return done

    def open(self) -> None:
        """Serve all roles and wait until they are ready and at rest.

        Raises:
            RuntimeError: they were not ready.
        """
        line = [str(self.checkout.python), "-m", "lachan", "serve", "--json"]
        with (self.folder / "log").open("ab") as log:
            self.server = subprocess.Popen(
                line, env=self.env, cwd=self.checkout.top, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
        assert self.server.stdout
        ready = self.server.stdout.readline()
        self.urls = json.loads(ready) if ready.strip() else {}
        if "people" not in self.urls:
            raise RuntimeError(f"{self.checkout.name} did not start: {ready.strip()}")
        for door in ("people", "device", "status"):
            self.env[f"LACHAN_{door.upper()}_URL"] = self.urls[door]
        self.rest()

    def close(self) -> None:
        """End the server with SIGTERM, and by force when that takes longer than half a minute."""
        if self.server is None:
            return
        self.server.send_signal(signal.SIGTERM)
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
        assert self.server.stdout
        self.server.stdout.close()
        self.server = None

    def rest(self) -> None:
        """Wait until it is at rest after a start, and learn what rest costs."""
        cpu.quiet(self.pids, idle=0.15)
        self.idle = cpu.at_rest(self.pids)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by role, the supervisor and PostgreSQL included."""
        found = {"supervisor": self.urls["pid"], **self.urls["roles"]}
        return found | ({"postgresql": self.cluster.pid} if self.cluster else {})

    def cpu(self) -> dict[str, float]:
        """CPU seconds by role so far."""
        return cpu.trees(self.pids)

    def total(self) -> float:
        """CPU seconds of all server processes so far."""
        return cpu.total(self.pids)

    def settle(self, *, most: float = 120.0) -> None:
        """Wait until what was asked of it is done, background work included; so many seconds at most."""
        cpu.quiet(self.pids, idle=self.idle, most=most)

    @property
    def root(self) -> Path:
        """Its root certificate (PEM)."""
        return self.offline / "root.crt"

    def admin(self) -> httpx.Client:
        """Sign the first administrator in at the people door."""
        base = self.urls["people"]
        trust = ssl.create_default_context(cafile=str(self.root))
        person = httpx.Client(base_url=base, verify=trust, timeout=120, headers={"Origin": base})
        answer = person.post("/api/v1/session", json={"token": self.link.partition("#")[2]}).raise_for_status()
        person.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return person
