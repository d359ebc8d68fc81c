"""The import contracts of pyproject.toml hold, and each would notice: a violation is planted in a copy for every one."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import tree

LINT = Path(sys.executable).with_name("lint-imports")

PLANTED = [
    pytest.param("pki/planted.py", "import api\n", "pki -> api", id="a domain imports api"),
    pytest.param("pki/planted.py", "import posture\n", "pki -> posture", id="a domain imports its sibling"),
    pytest.param(
        "siem_rules/planted.py",
        "import soar_playbooks\n",
        "siem_rules -> soar_playbooks",
        id="detection knows response",
    ),
    pytest.param(
        "lachan/planted.py", "import ota_signing\n", "lachan -> ota_signing", id="the ground imports a domain"
    ),
    pytest.param(
        "lachan/planted.py",
        "def f():\n    import api\n",
        "lachan -> api",
        id="the ground imports api, hidden in a function",
    ),
    pytest.param(
        "soar_playbooks/planted.py", "from fastapi import APIRouter\n", "fastapi", id="a web framework in a domain"
    ),
    pytest.param(
        "lachan/planted.py", "from starlette.requests import Request\n", "starlette", id="a web framework in the ground"
    ),
    pytest.param("posture/planted.py", "import uvicorn\n", "uvicorn", id="a web server in a domain"),
    pytest.param("posture/planted.py", "from scapy.all import IP\n", "scapy", id="scapy in the scanner's own process"),
    pytest.param("api/planted.py", "import scapy\n", "scapy", id="scapy in api"),
    pytest.param("siem_rules/planted.py", "import lachan.demo\n", "lachan.demo", id="a domain imports the demo"),
    pytest.param(
        "lachan/planted.py", "from lachan.demo import replay\n", "lachan.demo", id="the ground imports the demo"
    ),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages' sources to plant in."""
    target = tmp_path_factory.mktemp("imports")
    shutil.copy(tree.ROOT / "pyproject.toml", target)
    for path in tree.modules():
        place = target / path.relative_to(tree.ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return target


def lint(folder: Path) -> tuple[int, str]:
    """Run import-linter there; its status and words."""
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as c; c()",
            "--no-cache",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_contracts_hold(copy: Path) -> None:
    status, words = lint(copy)
    assert status == 0, words
    assert "Contracts: 5 kept, 0 broken." in words


@pytest.mark.parametrize(("where", "source", "named"), PLANTED)
def test_a_planted_violation_is_named(copy: Path, where: str, source: str, named: str) -> None:
    planted = copy / where
    planted.write_text(source)
    try:
        status, words = lint(copy)
    finally:
        planted.unlink()
    assert status == 1, words
    assert "4 kept, 1 broken." in words
    broken = words[words.index("Broken contracts") :]
    assert named.split(" -> ")[-1] in broken
    assert where.removesuffix(".py").replace("/", ".") in broken


def test_a_circle_of_two_files_is_named(copy: Path) -> None:
    one, other = copy / "pki" / "planted.py", copy / "pki" / "planted_too.py"
    one.write_text("import pki.planted_too\n")
    other.write_text("from pki import planted\n")
    try:
        status, words = lint(copy)
    finally:
        one.unlink()
        other.unlink()
    assert status == 1, words
    assert "4 kept, 1 broken." in words
    assert "No cycles are allowed in pki." in words
    assert ".planted" in words


def test_a_circle_of_two_rooms_is_named(copy: Path) -> None:
    planted = copy / "lachan" / "work" / "planted.py"
    planted.write_text("import lachan.signer.client\n")  # which imports lachan.work.wake
    try:
        status, words = lint(copy)
    finally:
        planted.unlink()
    assert status == 1, words
    assert "No cycles are allowed in lachan." in words


def test_the_raw_probe_is_a_program_and_nobodys_import() -> None:
    """It may import scapy (GPL-2.0-only) because it runs as a process of its own; whoever imported it would not."""
    for path in tree.modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                named = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
            elif isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            else:
                continue
            assert "posture.probe_raw" not in named, tree.name(path)
