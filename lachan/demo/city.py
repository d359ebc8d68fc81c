"""A small city for the demo, the benchmark and end-to-end tests: one lachan, its people, its cameras — all real processes.

`City` makes an installation in a folder, serves it on free loopback ports, and talks to it as the outside does: commands
through ``python3 -m lachan``, everything else over HTTPS at the people door. Nothing here reaches into the database.
"""

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lachan.errors import LachanError

HERE = Path(__file__).parent
STOP_WITHIN = 15.0  # seconds
T = TypeVar("T")


class DemoFailed(LachanError):
    """A step of the story did not come out as it must."""

    title, hint = "A step of the demo failed", "Run it again with --keep and look at the installation's log."


def tell(condition: bool, sentence: str) -> None:
    """Go on only if ``condition`` holds.

    Raises:
        DemoFailed: it does not; the sentence says what was expected.
    """
    if not condition:
        raise DemoFailed(sentence)


def log_tail(path: Path) -> str:
    """Give the end of a log, for people who ask why."""
    return path.read_text("utf-8", errors="replace")[-1500:] if path.exists() else "no log"


class Person:
    """Somebody signed in at the people door, with cookie and CSRF token."""

    def __init__(self, base: str, trust: ssl.SSLContext, link: str) -> None:
        self.http = httpx.Client(base_url=base, verify=trust, timeout=30, headers={"Origin": base})
        answer = self.http.post("/api/v1/session", json={"token": link.partition("#")[2]})
        tell(answer.status_code == 201, f"the sign-in was refused: {answer.status_code} {answer.text}")
        self.name: str = answer.json()["name"]
        self.http.headers["X-CSRF-Token"] = answer.json()["csrf"]

    def ask(self, method: str, path: str, *, expect: int | tuple[int, ...] = (200, 201, 202, 204), **body: Any) -> Any:
        """Send a request and give its JSON back.

        Raises:
            DemoFailed: the status is none of ``expect``.
        """
        answer = self.http.request(method, path, **body)
        wanted = (expect,) if isinstance(expect, int) else expect
        tell(answer.status_code in wanted, f"{method} {path} answered {answer.status_code}: {answer.text[:600]}")
        if answer.headers.get("content-type", "").partition(";")[0] not in (
            "application/json",
            "application/problem+json",
        ):
            return answer.text
        return answer.json()

    def get(self, path: str, **options: Any) -> Any:
        """``GET``; see `ask`."""
        return self.ask("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """``POST`` of a JSON body; see `ask`."""
        return self.ask("POST", path, json=body if body is not None else {}, **options)


@dataclass(frozen=True)
class Camera:
    """A camera's own process: it is told things on standard input and answers a JSON line to each."""

    name: str
    process: subprocess.Popen[str]

    def do(self, what: str, **words: Any) -> dict[str, Any]:
        """Tell the camera to do something and wait for its answer.

        Raises:
            DemoFailed: its process ended.
        """
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"do": what, **words}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise DemoFailed(f"camera {self.name} ended with code {self.process.wait()}") from None
        line = self.process.stdout.readline()
        tell(bool(line), f"camera {self.name} ended with code {self.process.poll()} instead of doing {what}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def must(self, what: str, **words: Any) -> dict[str, Any]:
        """`do`, and go on only if the camera says that it worked."""
        answer = self.do(what, **words)
        tell(answer.get("ok") is True, f"camera {self.name} could not {what}: {answer.get('error') or answer}")
        return answer


class City:
    """One installation and everybody around it."""

    def __init__(self, folder: Path, *, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "city"
        self.offline = folder / "city-offline"
        self.env = {**os.environ, "LACHAN_DATA": str(self.data), **(settings or {})}
        for port in ("PEOPLE", "DEVICE", "STATUS"):
            self.env.setdefault(f"LACHAN_{port}_PORT", "0")
        self.urls: dict[str, Any] = {}
        self.server: subprocess.Popen[str] | None = None
        self.cameras: list[Camera] = []
        self.others: list[subprocess.Popen[bytes]] = []  # what else runs beside lachan and ends with the city
        self.first_link = ""

    def lachan(self, *words: str, expect: int | None = 0) -> Any:
        """Run a command with ``--json`` and give its document back.

        Raises:
            DemoFailed: it ended with another code than ``expect`` (None accepts any).
        """
        done = subprocess.run(
            [sys.executable, "-m", "lachan", *words, "--json"],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        if expect is not None and done.returncode != expect:
            raise DemoFailed(f"lachan {words[0]} {words[1] if len(words) > 1 else ''} ended with {done.returncode}: "
                             f"{(done.stdout + done.stderr).strip()[-800:]}")  # fmt: skip
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def found(self) -> None:
        """Make the installation."""
        self.first_link = self.lachan("init", "--offline", str(self.offline))["link"]

    def open(self) -> None:
        """Start all roles and wait until they are ready.

        Raises:
            DemoFailed: they were not.
        """
        log = (self.folder / "lachan.log").open("ab")
        self.server = subprocess.Popen(
            [sys.executable, "-m", "lachan", "serve", "--json"],
            env=self.env, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
        )  # fmt: skip
        log.close()
        assert self.server.stdout
        line = self.server.stdout.readline()
        tell(bool(line), f"lachan did not start; see {self.folder / 'lachan.log'}")
        self.urls = json.loads(line)
        tell("people" in self.urls, f"lachan did not start: {line.strip()}; {log_tail(self.folder / 'lachan.log')}")
        for door in ("people", "device", "status"):
            self.env[f"LACHAN_{door.upper()}_URL"] = self.urls[door]

    @property
    def trust(self) -> ssl.SSLContext:
        """What people and cameras trust: the city's root certificate."""
        return ssl.create_default_context(cafile=str(self.root))

    @property
    def root(self) -> Path:
        """The city's root certificate (PEM), as `init` wrote it beside the offline keys."""
        return self.offline / "root.crt"

    def person(self, admin: Person, name: str, *roles: str, vendor: str | None = None) -> Person:
        """Have the administrator add a person, and sign them in with their own link."""
        admin.post("/api/v1/users", {"name": name, "roles": roles, "vendor": vendor})
        return Person(self.urls["people"], self.trust, admin.post(f"/api/v1/users/{name}/link")["url"])

    def admin(self) -> Person:
        """Sign the first administrator in."""
        return Person(self.urls["people"], self.trust, self.first_link)

    def camera(self, name: str, **options: str) -> Camera:
        """Start a camera's process."""
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        words = [sys.executable, "-m", "lachan.demo.camera", "--name", name, "--folder", str(folder)]
        words += ["--door", self.urls["device"], "--root", str(self.root)]
        words += ["--tuf-root", str(self.offline / "tuf-root.json")]  # put into it at manufacture
        words += [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
        env = {key: value for key, value in self.env.items() if not key.startswith("LACHAN_")}  # a stranger's machine
        log = (folder / "log").open("ab")
        process = subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        made = Camera(name, process)
        self.cameras.append(made)
        return made

    def wait(self, question: Callable[[], T], what: str, *, within: float = 20.0, every: float = 0.02) -> T:
        """Ask until the answer is truthy.

        Raises:
            DemoFailed: it was not within ``within`` seconds.
        """
        pause = threading.Event()
        for _ in range(int(within / every)):
            answer = question()
            if answer:
                return answer
            pause.wait(every)
        raise DemoFailed(f"{what}: not within {within:.0f} s")

    def close(self) -> None:
        """End the cameras, lachan, and what else runs beside it, by their process ids."""
        for camera in self.cameras:
            if camera.process.poll() is None:
                camera.process.terminate()
            camera.process.wait()
            for pipe in (camera.process.stdin, camera.process.stdout):
                if pipe:
                    pipe.close()
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            try:
                self.server.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
            if self.server.stdout:
                self.server.stdout.close()
        for process in self.others:
            process.terminate()
            process.wait()
