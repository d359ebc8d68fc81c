"""Documents do not drift from what they describe."""

from __future__ import annotations

import ast
import os
import re
import subprocess

import pytest

from lachan.launch import environment, install
from lachan.program import cli
from tests.house import licences, tree

READMES = ["README.md", "README.vi.md"]
ADRS = sorted((tree.ROOT / "docs" / "adr").glob("[0-9]*.md"))


def read(name: str) -> str:
    path = tree.ROOT / name
    assert path.exists(), f"{name} is missing"
    return path.read_text()


def test_the_readme_shows_what_help_prints() -> None:
    text = read("README.md")
    shown = re.search(r"<!-- help -->\s*```\w*\n(.*?)\n```\s*<!-- /help -->", text, re.DOTALL)
    assert shown, "README.md has no ```-block between <!-- help --> and <!-- /help -->"
    assert shown.group(1).strip() == cli.usage().strip()


@pytest.mark.parametrize("name", [*READMES, "CONTRIBUTING.md"])
def test_commands_in_the_documents_exist(name: str) -> None:
    nouns = re.findall(r"python3 -m lachan ([a-z]+)", read(name))
    assert nouns
    assert set(nouns) <= set(cli.COMMANDS)


@pytest.mark.parametrize("noun", sorted(cli.COMMANDS))
def test_every_command_stands_on_a_module(noun: str) -> None:
    """The table names its functions as strings; nothing else would notice a stale one before a user does."""
    module, _, function = cli.COMMANDS[noun][0].partition(":")
    path = tree.ROOT / f"{module.replace('.', '/')}.py"
    assert path.exists(), f"lachan {noun}: {module} is missing"
    names = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        for alias in getattr(node, "names", [])
        if isinstance(node, ast.ImportFrom)
    }
    names |= {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert function in names, f"lachan {noun}: {module} has no {function}"


def test_every_decision_is_numbered_once_and_listed() -> None:
    numbers = [path.name[:4] for path in ADRS]
    assert len(numbers) == len(set(numbers)), numbers
    index = read("docs/adr/README.md")
    for path in ADRS:
        assert f"({path.name})" in index, path.name


@pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
def test_every_decision_has_its_parts(path: object) -> None:
    text = read(f"docs/adr/{getattr(path, 'name', '')}")
    assert re.match(r"# \d{4}\. \S", text)
    for part in ("Status: ", "## Why", "## Decision", "## Consequences"):
        assert part in text, part
    assert len(text.splitlines()) <= 70, "one page"


def test_every_licence_is_recorded() -> None:
    text = read("docs/licences.md")
    for lock in (environment.RUNTIME, environment.TEST):
        missing = [name for name in install.locked(tree.ROOT / lock) if f"| {name} | " not in text]
        assert missing == [], f"run .venv/bin/python -m {licences.__name__}"


def links() -> list[tuple[str, str]]:
    documents = [path for path in tree.files() if path.suffix == ".md"]
    return [
        (tree.name(path), target)
        for path in documents
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
        if not re.match(r"[a-z]+:", target)
    ]


def test_links_between_documents_lead_somewhere() -> None:
    assert [(where, to) for where, to in links() if not (tree.ROOT / where).parent.joinpath(to).exists()] == []


def test_the_papers_are_here() -> None:
    for name in (
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
        "docs/limitations.md",
        "docs/benchmarks.md",
    ):
        assert len(read(name)) > 200, name


def test_the_gate_runs_the_commands_that_the_readme_names() -> None:
    gate = tree.ROOT / ".ci" / "run"
    assert os.access(gate, os.X_OK)
    assert subprocess.run(["bash", "-n", str(gate)], check=False).returncode == 0
    assert "python3 -m lachan test" in read("README.md")
    assert re.search(r"^stage .* python3 -m lachan test$", gate.read_text(), re.MULTILINE)
    for tool in ("ruff check", "ruff format --check", "mypy --strict", "lint-imports", "test_gettext.py"):
        assert tool in gate.read_text(), tool
