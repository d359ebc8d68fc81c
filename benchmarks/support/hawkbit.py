"""hawkBit beside our poll: an update server of others, asked for what a device asks for, over plain HTTP.

It is started by a script of the machine's own, ``SCRIPT WORKDIR PORT``, which serves hawkBit in the foreground at that port
with gateway tokens (``gateway-token``) and ends with SIGTERM. Nothing is measured before it has answered for `WARM` seconds:
Java compiles what is asked often.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import httpx

from benchmarks.support import cpu
from benchmarks.support.http_client import Lane, Load, Plan

WARM = 45.0
CONNECTIONS, EACH = 8, 250


class Hawkbit:
    """A running hawkBit.

    Args:
        script: that serves it.
    """

    def __init__(self, script: Path) -> None:
        self._script = script
        self._folder = Path(tempfile.mkdtemp(prefix="hb-"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._done, self._used = 0.0, 0.0

    def __enter__(self) -> Self:
        """Start it, wait until it answers, and warm it up.

        Raises:
            TimeoutError: it did not answer.
        """
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", str(self._script), str(self._folder / "w"), str(self._port)], stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            end = time.monotonic() + 300
            while not self._answers():
                if time.monotonic() > end or self._process.poll() is not None:
                    raise TimeoutError((self._folder / "log").read_text("utf-8", "replace")[-800:])
                time.sleep(1)
            end = time.monotonic() + WARM
            while time.monotonic() < end:
                self._ask()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def measure(self) -> None:
        """Run one turn and add it up."""
        before = cpu.total({"hawkbit": self._process.pid})
        self._done += self._ask()
        self._used += cpu.total({"hawkbit": self._process.pid}) - before

    @property
    def rate(self) -> float | None:
        """Polls per CPU-second."""
        return self._done / self._used if self._used else None

    def _answers(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self._port}/rest/v1/targets"
            return httpx.get(url, auth=("admin", "admin"), timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def _ask(self) -> int:
        lanes = [Lane([_poll(place)], repeat=EACH) for place in range(CONNECTIONS)]
        with Load(Plan(f"http://127.0.0.1:{self._port}", Path(os.devnull), lanes)) as load:
            return len(load.go()[0])


def _poll(place: int) -> bytes:
    lines = (
        f"GET /DEFAULT/controller/v1/bench-{place} HTTP/1.1", "Host: localhost",
        "Authorization: GatewayToken gateway-token", "Accept: application/hal+json", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()
