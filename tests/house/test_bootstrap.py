"""``python3 -m lachan`` on machines that are not ready: each test starts it for real, in a small checkout of its own.

The checkout holds our launch modules, a command line of three lines, and locks that name wheels made here; pip finds
them in a folder (``PIP_FIND_LINKS``), so nothing leaves the machine.
"""

from __future__ import annotations

import ast
import base64
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lachan.launch import bootstrap, environment, install

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = getattr(sys, "_base_executable", sys.executable)
CLI = """\
import importlib.metadata, json, sys
def main():
    have = sorted(d.name for d in importlib.metadata.distributions())
    print(json.dumps({"argv": sys.argv[1:], "have": have, "prefix": sys.prefix}))
    return 0
"""


def wheel(folder: Path, name: str) -> str:
    """Make a wheel of one module; return its line for a lock."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "VALUE = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: lachan\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}"
        for path, text in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    target = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(target.read_bytes()).hexdigest()}\n"


LAUNCH = ("launch/__init__", "launch/bootstrap", "launch/environment", "launch/install")


class Checkout:
    """A small checkout, and how to start it as a newcomer would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        for name in ("__init__", "__main__", *LAUNCH):
            target = root / "lachan" / f"{name}.py"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text((ROOT / "lachan" / f"{name}.py").read_text())
        (root / "lachan" / "program").mkdir()
        (root / "lachan" / "program" / "__init__.py").touch()
        (root / "lachan" / "program" / "cli.py").write_text(CLI)
        self.wheels = root.parent / "wheels"  # PIP_FIND_LINKS splits at spaces
        self.wheels.mkdir()
        self.runtime = wheel(self.wheels, "lachan_lib_a")
        self.tools = wheel(self.wheels, "lachan_lib_b")
        self.lock(self.runtime)
        (root / environment.TEST).write_text(self.runtime + self.tools)

    def lock(self, text: str) -> None:
        (self.root / environment.RUNTIME).write_text(text)

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull}
        return {**kept, **offline, **extra}

    def begin(
        self,
        *argv: str,
        python: str = SYSTEM_PYTHON,
        module: tuple[str, ...] = ("-m", "lachan"),
        **extra: str,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python, *module, *argv],
            cwd=self.root,
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self, *argv: str, **how: Any) -> tuple[int, dict[str, object], str]:
        process = self.begin(*argv, **how)
        out, err = process.communicate(timeout=90)
        assert "Traceback" not in out + err, err
        return process.returncode, json.loads(out) if out.startswith("{") else {}, err

    def refused(self, *argv: str, **how: Any) -> str:
        """Start, expect a refusal; return its one sentence."""
        status, answer, err = self.start(*argv, **how)
        assert (status, answer) == (environment.UNAVAILABLE, {}), err
        assert not (self.venv / ".ready").exists()
        last = err.strip().splitlines()[-1]
        assert last.startswith("lachan: ")
        assert last.endswith(".")
        return last


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a checkout")


@pytest.fixture
def spawned() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to end with the test, whatever happens in it."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str], words: str) -> None:
    """Read standard error until a line with these words comes."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"never said: {words}")


def test_the_first_start_prepares_and_the_second_does_not(checkout: Checkout) -> None:
    status, answer, err = checkout.start("devices", "--json")
    assert status == 0, err
    assert answer["argv"] == ["devices", "--json"]
    assert answer["have"] == ["lachan_lib_a"]
    assert answer["prefix"] == str(checkout.venv)
    assert "preparing .venv" in err
    assert "this is the first start here" in err
    assert "1 of 1 libraries" in err
    assert list(checkout.venv.rglob("lachan_lib_a.*.pyc"))
    assert checkout.start() == (0, {**answer, "argv": []}, "")


def test_test_adds_its_tools_in_place_and_then_serves_both(checkout: Checkout) -> None:
    checkout.start()
    (checkout.venv / "still-here").touch()
    status, answer, err = checkout.start("test")
    assert status == 0, err
    assert answer["have"] == ["lachan_lib_a", "lachan_lib_b"]
    assert (checkout.venv / "still-here").exists()
    for command in ("demo", "test"):
        assert checkout.start(command)[2] == ""


def test_a_changed_lock_is_followed_and_what_it_dropped_goes(checkout: Checkout) -> None:
    checkout.start()
    checkout.lock(wheel(checkout.wheels, "lachan_lib_c"))
    status, answer, err = checkout.start()
    assert status == 0, err
    assert answer["have"] == ["lachan_lib_c"]


@pytest.mark.parametrize("harm", ["no stamp", "torn stamp", "broken interpreter", "only a folder"])
def test_a_half_made_environment_is_made_anew(checkout: Checkout, harm: str) -> None:
    if harm == "only a folder":
        checkout.venv.mkdir()
    else:
        checkout.start()
    (checkout.venv / "rubbish").touch()
    if harm == "no stamp":
        (checkout.venv / ".ready").unlink()
    elif harm == "torn stamp":
        (checkout.venv / ".ready").write_text('{"python": ')
    elif harm == "broken interpreter":
        for link in (checkout.venv / "bin").glob("python*"):
            link.unlink()
        (checkout.venv / "bin" / "python").symlink_to("/nonexistent/python3")
    status, answer, err = checkout.start()
    assert status == 0, err
    assert answer["have"] == ["lachan_lib_a"]
    assert not (checkout.venv / "rubbish").exists()


def test_the_second_of_two_waits_and_says_so(checkout: Checkout, spawned: list[subprocess.Popen[str]]) -> None:
    with (checkout.root / ".venv.lock").open("a") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        second = checkout.begin()
        spawned.append(second)
        heard(second, "another lachan is preparing .venv here; waiting")
        assert not checkout.venv.exists()
    out, _ = second.communicate(timeout=90)
    assert json.loads(out)["have"] == ["lachan_lib_a"]


def test_two_first_starts_at_once_prepare_once(checkout: Checkout, spawned: list[subprocess.Popen[str]]) -> None:
    spawned += [checkout.begin(), checkout.begin()]
    said = [process.communicate(timeout=90) for process in spawned]
    assert [json.loads(out)["have"] for out, _ in said] == [["lachan_lib_a"]] * 2
    assert sum("preparing .venv with" in err for _, err in said) == 1


def test_killed_while_pip_works_its_orphan_is_waited_for_and_all_is_made_anew(
    checkout: Checkout, tmp_path: Path, spawned: list[subprocess.Popen[str]]
) -> None:
    fake = tmp_path / "fake"
    (fake / "pip").mkdir(parents=True)
    (fake / "pip" / "__init__.py").touch()
    (fake / "pip" / "__main__.py").write_text(
        "import os, pathlib, time\n"
        f"here = pathlib.Path({str(fake)!r})\n"
        "(here / 'pid').write_text(str(os.getpid()))\n"
        "end = time.monotonic() + 60\n"
        "while not (here / 'go').exists() and time.monotonic() < end: time.sleep(0.02)\n"
    )
    first = checkout.begin(PYTHONPATH=str(fake))
    spawned.append(first)
    until(lambda: (fake / "pid").exists())
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=10)
    second = checkout.begin()
    spawned.append(second)
    heard(second, "waiting")
    (fake / "go").touch()
    out, _ = second.communicate(timeout=90)
    assert json.loads(out)["have"] == ["lachan_lib_a"]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_without_network_one_sentence_says_so(checkout: Checkout) -> None:
    with socket.socket() as closed:  # bound, never listening: every connection is refused
        closed.bind(("127.0.0.1", 0))
        index = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
        last = checkout.refused(PIP_NO_INDEX="", PIP_FIND_LINKS="", PIP_INDEX_URL=index)
    assert "no network" in last
    assert checkout.start()[0] == 0  # and the same command works once it is back


def test_without_pip_the_package_is_named(checkout: Checkout) -> None:
    assert "apt install python3-pip" in checkout.refused(module=("-S", "-m", "lachan"))


def test_an_active_environment_without_pip_is_no_obstacle(checkout: Checkout, tmp_path: Path) -> None:
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", str(tmp_path / "other")], check=True)
    status, answer, err = checkout.start(python=str(tmp_path / "other" / "bin" / "python"))
    assert (status, answer["prefix"]) == (0, str(checkout.venv)), err


@pytest.mark.parametrize("file", ["lachan", "lachan/__main__.py"])
def test_started_as_a_file_it_does_the_same(checkout: Checkout, file: str) -> None:
    status, answer, err = checkout.start("demo", module=(str(checkout.root / file),))
    assert (status, answer["argv"]) == (0, ["demo"]), err


def test_a_wheel_with_another_hash_is_refused(checkout: Checkout) -> None:
    checkout.lock("lachan_lib_a==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    assert "does not match its hash" in checkout.refused()


def test_what_pip_says_otherwise_is_quoted(checkout: Checkout) -> None:
    checkout.lock("nobody_made_this==9 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    assert "nobody_made_this" in checkout.refused()


def test_an_old_python_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OLDEST", (3, 99))
    with pytest.raises(environment.CannotStart, match=r"Python 3\.99 or newer is needed"):
        bootstrap.ensure([])


@pytest.mark.parametrize("module", ["__main__", "launch/bootstrap", "launch/environment"])
def test_an_old_python_can_read_the_sentence(module: str) -> None:
    ast.parse((ROOT / "lachan" / f"{module}.py").read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("module", ["__main__", *LAUNCH])
def test_nothing_but_the_standard_library_is_imported(module: str) -> None:
    tree = ast.parse((ROOT / "lachan" / f"{module}.py").read_text())
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"lachan.{alias.name}" for alias in node.names] if node.module == "lachan" else [str(node.module)]
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names or name in {
                "lachan.launch",
                "lachan.launch.environment",
                "lachan.program.cli",  # behind the hand-over
            }


def test_a_wheel_goes_straight_to_the_command_line(checkout: Checkout) -> None:
    (checkout.root / environment.RUNTIME).unlink()
    status, answer, err = checkout.start("serve")
    assert (status, answer["argv"], err) == (0, ["serve"], "")
    assert not checkout.venv.exists()


def test_whoever_takes_one_of_our_names_is_named(checkout: Checkout) -> None:
    checkout.start()
    (checkout.root / "pki").mkdir()
    (checkout.root / "pki" / "__init__.py").touch()
    assert checkout.start()[0] == 0
    site = next((checkout.venv / "lib").glob("python3*/site-packages"))
    (site / "pki").mkdir()
    (site / "pki" / "__init__.py").touch()
    status, _, err = checkout.start()
    assert status == environment.UNAVAILABLE
    assert f"`pki` is taken by {site / 'pki'}" in err


def test_progress_is_never_silent_for_long(capsys: pytest.CaptureFixture[str]) -> None:
    progress = install.InstallProgress(2)
    progress.line("Collecting a==1")
    progress.line("  Downloading a-1.whl (3 kB)")
    progress.show()
    assert capsys.readouterr().err == ""  # not yet
    progress.last -= install.TICK + 1
    progress.show()
    assert "fetched 1 of 2 libraries" in capsys.readouterr().err


def test_the_locks_agree() -> None:
    runtime, test = install.locked(ROOT / environment.RUNTIME), install.locked(ROOT / environment.TEST)
    assert runtime.items() <= test.items()
    assert len(runtime) > 50
