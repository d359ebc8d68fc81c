"""The wheel holds the seven packages with their content, and nothing of the tests; unpacked, it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import uv

from lachan.program import cli
from tests.house import tree


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy without network (uv carries the backend)."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in tree.files():
        place = source / path.relative_to(tree.ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    command = [
        uv.find_uv_bin(),
        "build",
        "--wheel",
        "--offline",
        "--no-cache",
        "--no-config",
        "-o",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(target.glob("lachan-*.whl"))


def test_it_holds_every_package_and_all_content(built: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    wanted = {tree.name(path) for package in tree.PACKAGES for path in tree.files(tree.ROOT / package)}
    assert wanted - held == set()
    strangers = {name for name in held - wanted if ".dist-info/" not in name}
    assert strangers == set()
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_unpacked_it_goes_straight_to_the_command_line(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lachan", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == cli.usage().strip()
    assert not (tmp_path / ".venv").exists()
