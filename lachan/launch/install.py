"""The slow half of the bootstrap: makes ``.venv`` and lets pip fill it, showing how far it is.

Called by :mod:`lachan.launch.bootstrap` with the file lock held. pip inherits that lock's descriptor: when the parent is killed, an
orphaned pip keeps the lock until it ends, and the next start waits instead of writing beside it.

Limits: as :mod:`lachan.launch.environment`; standard library only.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from lachan.launch.environment import (
    LOG,
    PYTHON,
    ROOT,
    RUNTIME,
    STAMP,
    TEST,
    VENV,
    CannotStart,
    digest,
    interpreter,
    say,
    stamp,
)

TICK = 3.0
"""Seconds between two progress lines where the terminal cannot redraw one."""

OFFLINE = re.compile(
    r"NewConnectionError|Failed to establish a new connection|Temporary failure in name resolution|ConnectTimeoutError"
    r"|Network is unreachable|Connection refused|ReadTimeoutError|ProxyError|RemoteDisconnected|NameResolutionError"
)
"""What pip prints when the index cannot be reached."""


def prepare(wanted: str, mutex: int) -> None:
    """Make ``.venv`` hold exactly what the lock asks for.

    A ``.venv`` with a stamp of this Python is brought up to date in place (only what differs is fetched); any other is thrown
    away. One that had the test tools keeps them.

    Args:
        wanted: the lock's file name.
        mutex: descriptor of the held file lock, passed on to pip.

    Raises:
        CannotStart: pip or venv is missing, there is no network, a hash does not match, or the disk refuses.
    """
    python = _python_with_pip()
    have = stamp()
    again = have.get("python") == interpreter()
    lock = TEST if again and TEST in have else wanted
    tools = " and the test tools" if lock == TEST else ""
    why = _why(have if again else {}, lock)
    say(f"preparing .venv with the locked libraries{tools} ({why}); this takes about a minute.")
    try:
        STAMP.unlink(missing_ok=True)
        if not again:
            _create(python)
        _pip_install(python, lock, mutex)
        _remove_strangers(python, lock)
        _compile()
        _finish(lock)
    except OSError as error:
        raise CannotStart(f"cannot make {VENV}: {error}.") from None


def _why(have: dict[str, str], lock: str) -> str:
    """Tell why there is something to do, in a few words."""
    if have:
        return f"{lock} has changed" if lock in have else "the tests need them"
    return (
        "the last one was cut short, or belongs to another Python" if VENV.exists() else "this is the first start here"
    )


def _python_with_pip() -> str:
    """Give this Python, or the one under it when an active environment carries no pip (uv makes such).

    Raises:
        CannotStart: neither has pip.
    """
    below = getattr(sys, "_base_executable", None) or sys.executable
    if find_spec("pip") is not None:
        return sys.executable
    if below != sys.executable:
        tried = subprocess.run([below, "-c", "import pip"], capture_output=True, check=False)
        if tried.returncode == 0:
            return str(below)
    raise CannotStart("pip is missing for this Python; install it (Debian: `apt install python3-pip`) and try again.")


def _create(python: str) -> None:
    """Make an empty virtual environment; ``--without-pip`` because Debian ships no ensurepip."""
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run(
        [python, "-m", "venv", "--without-pip", "--symlinks", str(VENV)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0 or not PYTHON.exists():
        last = (made.stderr or made.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise CannotStart(f"`python3 -m venv` failed ({last[0]}); on Debian, `apt install python3-venv` may help.")


def _pip(python: str) -> list[str]:
    """Give the system's pip, aimed at our environment, with no questions and no version nagging."""
    return [python, "-m", "pip", "--python", str(PYTHON), "--disable-pip-version-check", "--no-input"]


def _pip_install(python: str, lock: str, mutex: int) -> None:
    """Run pip over the lock; its output goes to ``.venv.log``, a counter to the terminal.

    ``--no-deps``: the lock is complete, so pip need not resolve. ``--no-compile``: :func:`_compile` does it on all processors.
    """
    command = [*_pip(python), "install", "--require-hashes", "--only-binary", ":all:", "--no-deps", "--no-compile"]
    command += ["--progress-bar", "off", "--retries", "2", "-r", str(ROOT / lock)]
    total = len(locked(ROOT / lock))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    with (
        LOG.open("w") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(mutex,),
        ) as pip,
    ):
        try:
            _watch(pip, log, total)
        except BaseException:
            pip.kill()
            raise
        status = pip.wait()
    if status != 0:
        raise CannotStart(explain(LOG.read_text(errors="replace")))


def _watch(pip: subprocess.Popen[bytes], log: TextIO, total: int) -> None:
    """Copy pip's output into the log and show the counters until it ends; never silent for longer than ``TICK``."""
    progress = InstallProgress(total)
    assert pip.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(pip.stdout, selectors.EVENT_READ)
        rest = b""
        while True:
            if selector.select(timeout=0.5):
                chunk = os.read(pip.stdout.fileno(), 65536)
                if not chunk:
                    break
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    text = line.decode(errors="replace")
                    log.write(text + "\n")
                    progress.line(text)
            progress.show()
    log.write(rest.decode(errors="replace"))
    log.flush()
    progress.end()


class InstallProgress:
    """What pip has done so far, as one short line.

    On a terminal the line is redrawn; elsewhere a new one is printed at most every ``TICK`` seconds.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.fetched = 0
        self.installing = False
        self.warned = False
        self.start = self.last = time.monotonic()
        self.redraw = sys.stderr.isatty()

    def line(self, text: str) -> None:
        """Take one line of pip's output into account."""
        if text.lstrip().startswith(("Downloading ", "Using cached ", "Processing ", "Requirement already satisfied")):
            self.fetched += not text.lstrip().startswith("Downloading http")
        self.installing |= text.startswith("Installing collected packages")
        if OFFLINE.search(text) and not self.warned:
            self.warned = True
            say("the package index does not answer; trying again ...")

    def show(self, *, now: bool = False) -> None:
        """Show the counters if it is time to."""
        moment = time.monotonic()
        if not now and moment - self.last < (0.5 if self.redraw else TICK):
            return
        self.last = moment
        text = f"fetched {min(self.fetched, self.total)} of {self.total} libraries"
        if self.installing:
            text = f"installed {_installed()} of {self.total} libraries"
        text = f"  {text}, {moment - self.start:.0f} s"
        print(f"\r{text:<70}" if self.redraw else text, end="" if self.redraw else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the last state standing."""
        self.show(now=True)
        if self.redraw:
            print(file=sys.stderr)


def explain(output: str) -> str:
    """Turn pip's output after a failure into one sentence."""
    if "DO NOT MATCH THE HASHES" in output:
        return f"a downloaded library does not match its hash in the lock, so nothing of it was installed; see {LOG}."
    if OFFLINE.search(output):
        return "no network: the package index cannot be reached, so .venv cannot be made; connect, then run the same command."
    if "No space left" in output:
        return f"the disk is full, so .venv cannot be made in {ROOT}; free about 700 MB, then run the same command."
    if "no such option: --python" in output:
        return "this pip is too old (22.3 or newer is needed); upgrade it, then run the same command."
    errors = [line for line in output.splitlines() if line.startswith("ERROR")] or output.strip().splitlines()[-1:]
    return f"pip could not install the locked libraries ({errors[-1] if errors else 'it said nothing'}); see {LOG}."


def locked(lock: Path) -> dict[str, str]:
    """Read a lock: normalised distribution name to version, only those whose marker fits this Python (as far as we can tell)."""
    found = {}
    for line in lock.read_text().splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)\s*(?:;\s*([^\\]*))?", line)
        if match and not _foreign(match.group(3) or ""):
            found[normal(match.group(1))] = match.group(2)
    return found


def normal(name: str) -> str:
    """Give a distribution's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _foreign(marker: str) -> bool:
    """Tell whether a marker plainly speaks of another system; only the counter depends on it."""
    return bool(
        re.search(
            r"(?:sys_platform|os_name|platform_system) == '(?:win32|nt|Windows|darwin|Darwin|emscripten)'", marker
        )
    )


def _site() -> Path:
    """Give the environment's site-packages."""
    return next((VENV / "lib").glob("python3*/site-packages"))


def _installed() -> int:
    """Tell how many distributions the environment holds by now."""
    return sum(1 for _ in _site().glob("*.dist-info"))


def _remove_strangers(python: str, lock: str) -> None:
    """Uninstall what an earlier lock had brought and this one does not name."""
    named = {
        normal(line.split("==")[0].split("[")[0]) for line in (ROOT / lock).read_text().splitlines() if "==" in line
    }
    have = {normal(info.name.split("-")[0]) for info in _site().glob("*.dist-info")}
    strangers = sorted(have - named)
    if strangers:
        subprocess.run([*_pip(python), "uninstall", "--yes", "-q", *strangers], capture_output=True, check=False)


def _compile() -> None:
    """Compile what was installed: lachan is several processes, and each would compile the same modules at its first import.

    A file that does not compile (templates, other Pythons' syntax) is nobody's loss, so the status is not looked at.
    """
    print("  compiling, so that every later start is quick", file=sys.stderr, flush=True)
    command = [str(PYTHON), "-m", "compileall", "-qq", "-j", "0", str(_site())]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _finish(lock: str) -> None:
    """Put the checkout on the environment's path and write the stamp, last and at once."""
    (_site() / "lachan-checkout.pth").write_text(f"{ROOT}\n")
    made = {"python": interpreter()}
    made.update({name: digest(name) for name in {RUNTIME, lock}})
    fresh = STAMP.with_suffix(".new")
    fresh.write_text(json.dumps(made))
    fresh.replace(STAMP)
    say(".venv is ready.")
