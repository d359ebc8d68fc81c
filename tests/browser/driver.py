"""A browser for tests: Debian's chromium, driven through chromedriver as W3C WebDriver over plain HTTP.

Only what the tests need: go to an address, find, click, type, read, take a picture. No Python dependency beyond httpx.
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support import need, wait

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions", "--mute-audio",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost",
]  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, http: httpx.Client, session: str) -> None:
        self._http, self._path = http, f"/session/{session}"

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """One WebDriver command."""
        answer = self._http.request(method, f"{self._path}{path}", json=body if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, f"{path}: {json.dumps(value)[:500]}"
        return value

    def go(self, address: str) -> None:
        """Open an address and wait for it."""
        self.ask("POST", "/url", url=address)

    @property
    def address(self) -> str:
        """Where the window is now."""
        return str(self.ask("GET", "/url"))

    def all(self, selector: str) -> list[str]:
        """The elements that a CSS selector names."""
        found = self.ask("POST", "/elements", using="css selector", value=selector)
        return [element[ELEMENT] for element in found]

    def one(self, selector: str) -> str:
        """The only such element, once it is there."""
        return str(wait.until(lambda: self.all(selector)[:1] or None, timeout=10)[0])

    def text(self, selector: str = "body") -> str:
        """What a reader sees of an element, also of one that is renewed while we look."""
        while True:
            answer = self._http.get(f"{self._path}/element/{self.one(selector)}/text").json()["value"]
            if not isinstance(answer, dict):
                return str(answer)
            assert answer["error"] == "stale element reference", answer["message"]

    def click(self, selector: str) -> None:
        """Click an element."""
        self.ask("POST", f"/element/{self.one(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Type into an element."""
        self.ask("POST", f"/element/{self.one(selector)}/value", text=text)

    def run(self, script: str) -> Any:
        """Run a script as the person at the console would from the developer tools."""
        return self.ask("POST", "/execute/sync", script=script, args=[])

    def cookie(self, name: str, value: str) -> None:
        """Set a cookie of the present site."""
        self.ask(
            "POST", "/cookie", cookie={"name": name, "value": value, "secure": True, "httpOnly": True, "path": "/"}
        )

    def size(self, width: int, height: int) -> None:
        """Make the window so large."""
        self.ask("POST", "/window/rect", width=width, height=height)

    def picture(self, path: Path) -> None:
        """Keep what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))

    def console(self) -> list[str]:
        """What the browser complained about: refused scripts and styles, failed requests."""
        answer = self._http.post(f"{self._path}/se/log", json={"type": "browser"})
        return [entry["message"] for entry in answer.json()["value"]]


@contextmanager
def browser(folder: Path, *, script: bool = True, dark: bool = False) -> Iterator[Browser]:
    """A fresh browser with a profile of its own; without JavaScript when ``script`` is False."""
    chromium = need.program("chromium", package="chromium")
    driver = need.program("chromedriver", package="chromium-driver")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    preferences = {} if script else {"profile.managed_default_content_settings.javascript": 2}
    arguments = [*ARGUMENTS, f"--user-data-dir={folder / 'profile'}", *(["--force-dark-mode"] if dark else [])]
    options = {"binary": chromium, "args": arguments, "prefs": preferences}
    wanted = {"acceptInsecureCerts": True, "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            wait.until(lambda: _ready(http), timeout=20)
            made = http.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
            assert "sessionId" in made, made
            try:
                yield Browser(http, made["sessionId"])
            finally:
                http.delete(f"/session/{made['sessionId']}")
    finally:
        process.terminate()
        process.wait(20)


def _ready(http: httpx.Client) -> bool:
    try:
        return bool(http.get("/status").json()["value"]["ready"])
    except httpx.TransportError:
        return False
