"""Names and docstrings of the product: one name for one type, the imperative, and no docstring that only repeats its name."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from lachan.launch import environment
from tests.house import tree

SHARED = {
    "DeviceContained": "a fact and the refusal that follows from it: the name is the stable code of the problem",
    "DeviceRetired": "a fact and the refusal that follows from it: the name is the stable code of the problem",
    "SignatureRefused": "the refusal and the fact that tells of it",
}
"""Names that two public classes share, with the reason."""

THIRD = re.compile(
    r"(?:Answer|Appl(?=ies)|Approve|Ask|Build|Carr(?=ies)|Check|Close|Compare|Find|Give|Ha(?=s)|Hide|Hold|Keep|Look|Make|"
    r"Move|Open|Prepare|Propose|Put|Raise|Read|Refuse|Return|Say|Seal|Send|Serve|Sign|Start|Stop|Take|Tell|Tr(?=ies)|Turn|"
    r"Validate|Wait|Wrap|Write)(?:s|ies)\b"
)
"""First words of docstrings that tell what something does instead of saying what to do."""

FILLERS = {"a", "an", "the"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Give every module of the product, parsed."""
    for package in environment.OURS:
        for path in sorted((tree.ROOT / package).rglob("*.py")):
            if "versions" not in path.parts:
                yield _name(path), ast.parse(path.read_text("utf-8"))


def repeats(name: str, docstring: str) -> bool:
    """Tell whether a docstring says no more than the words of the name that it stands under."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
    said = [word for word in re.findall(r"[a-z0-9]+", docstring.lower()) if word not in FILLERS]
    return said == [part.lower() for part in parts if part.lower() not in FILLERS]


def test_no_two_public_classes_share_a_name() -> None:
    where = defaultdict(list)
    for module, parsed in modules():
        for node in parsed.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(f"{module}:{node.lineno}")
    shared = {name: places for name, places in where.items() if len(places) > 1}
    assert {name: places for name, places in shared.items() if name not in SHARED} == {}
    assert SHARED.keys() - shared.keys() == set(), "not shared any more: take it off the list"


def test_docstrings_say_what_to_do_and_more_than_their_name() -> None:
    faults = []
    for module, parsed in modules():
        for node in ast.walk(parsed):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                said = ast.get_docstring(node) or ""
                name = getattr(node, "name", "")
                if THIRD.match(said) or (name and said and repeats(name, said)):
                    faults.append(f"{module}:{getattr(node, 'lineno', 1)}: {name}: {said.splitlines()[0]}")
    assert faults == []


def test_the_two_rules_find_what_they_are_for() -> None:
    assert repeats("DeviceRegistered", "Device registered.")
    assert repeats("close_alert", "Close the alert.")
    assert not repeats("DeviceRegistered", "The registry took a device in.")
    assert THIRD.match("Gives the key.")
    assert THIRD.match("Tries it.")
    assert not THIRD.match("Give the key.")
    assert not THIRD.match("Signatures of a kind.")


def _name(path: Path) -> str:
    return str(path.relative_to(tree.ROOT))
