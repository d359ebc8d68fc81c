"""What must not be in the tree: other people's names, this or that machine's, secrets. And what the wheel must hold."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distributions

import pytest

from lachan.launch import environment
from tests.house import tree

# Put together here, so that this file does not hold what it looks for.
REGISTRIES = [
    ".".join(parts)
    for parts in [("pypi", "org"), ("files", "pythonhosted", "org"), ("registry", "npmjs", "org"), ("proxy", "golang", "org"),
                  ("deb", "debian", "org"), ("security", "debian", "org"), ("repo1", "maven", "org"), ("crates", "io"), ("ghcr", "io"),
                  ("docker", "io"), ("quay", "io"), ("registry", "yarnpkg", "com")]
]  # fmt: skip
MACHINE = re.compile(
    "|".join(["/" + "root/", "/" + "work/main", "/" + "work/shared", "/tmp/" + "lead", r"/home/(?!new\b)[a-z]+/"])
)
PRIVATE = re.compile("-----BEGIN " + r"(?:[A-Z0-9]+ )*PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{40}")
TOKENS = re.compile(
    "|".join(
        [r"\bAKIA" + r"[0-9A-Z]{16}\b", r"\bgh[pousr]_" + r"[A-Za-z0-9]{36}\b", r"\bxox[abp]-" + r"[0-9A-Za-z-]{20}"]
    )
)
SOURCES = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host")


def found(pattern: re.Pattern[str]) -> list[str]:
    """Every place in the tree where a pattern stands."""
    return [
        f"{tree.name(path)}:{source.count(chr(10), 0, match.start()) + 1}: {match.group()[:60]}"
        for path in tree.files()
        if (source := tree.text(path)) is not None
        for match in pattern.finditer(source)
    ]


def test_no_registry_host_is_written_down() -> None:
    assert found(re.compile("|".join(rf"\b{re.escape(host)}\b" for host in REGISTRIES))) == []


def test_no_path_of_a_machine_is_written_down() -> None:
    assert found(MACHINE) == []


def test_no_secret_is_written_down() -> None:
    assert found(PRIVATE) == []
    assert found(TOKENS) == []


def test_the_patterns_find_what_they_are_for() -> None:
    assert MACHINE.search("see /" + "work/main/x")
    assert PRIVATE.search("-----BEGIN " + "EC PRIVATE KEY-----\n" + "A" * 64)
    assert SOURCES.search("--index" + "-url https://x")


@pytest.mark.parametrize("lock", [environment.RUNTIME, environment.TEST])
def test_the_locks_name_no_index_and_hash_everything(lock: str) -> None:
    lines = (tree.ROOT / lock).read_text().splitlines()
    pins = [index for index, line in enumerate(lines) if re.match(r"[a-z0-9]", line)]
    assert len(pins) > 50
    for index in pins:
        assert "==" in lines[index], lines[index]
        assert "--hash=sha256:" in lines[index + 1], lines[index]
    assert not [line for line in lines if SOURCES.search(line) and not line.startswith("#")]


def test_no_installed_distribution_owns_one_of_our_names() -> None:
    seen = 0
    for distribution in distributions():
        if distribution.metadata["Name"] == "lachan":
            continue
        seen += 1
        tops = {path.parts[0].removesuffix(".py") for path in distribution.files or ()}
        assert not tops & {*environment.OURS, "tests"}, distribution.metadata["Name"]
    assert seen > 50


def test_every_package_says_it_is_typed() -> None:
    for package in environment.OURS:
        assert (tree.ROOT / package / "__init__.py").exists(), package
        assert (tree.ROOT / package / "py.typed").exists(), package


def test_the_ground_package_is_empty() -> None:
    """``import lachan`` must cost nothing: the bootstrap passes through it."""
    assert (tree.ROOT / "lachan" / "__init__.py").read_text().strip() == ""


def test_the_command_line_starts_light() -> None:
    """A warm start is quick because nothing heavy is imported before a command asks for it."""
    code = (
        "import sys, lachan.program.cli\n"
        "assert lachan.program.cli.main(['--help']) == 0\n"
        "heavy = {'sqlalchemy', 'pydantic', 'fastapi', 'cryptography', 'sigma', 'pkilint', 'rich', 'httpx', 'yaml'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
