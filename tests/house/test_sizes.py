"""Small modules, small functions: the habit of the house, with a reason wherever it is broken."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.house import tree

MODULE = 400
FUNCTION = 40


def functions(source: str) -> Iterator[tuple[str, int, str]]:
    """Name, lines and docstring of every function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1, ast.get_docstring(node) or ""


def too_long(where: str, source: str) -> list[str]:
    """What is too long in one module, and does not say why."""
    found = [
        f"{where}: {name} has {lines} lines (40 at most, or `Length:` and the reason in its docstring)"
        for name, lines, doc in functions(source)
        if lines > FUNCTION and "Length:" not in doc
    ]
    lines = source.count("\n")
    if lines > MODULE and "Length:" not in (ast.get_docstring(ast.parse(source)) or ""):
        found.append(f"{where} has {lines} lines (400 at most): look for the second idea hiding in it")
    return found


def test_modules_and_functions_are_small() -> None:
    paths: list[Path] = [path for path in tree.modules() if "migrations/versions" not in tree.name(path)]
    assert len(paths) > 10
    faults = [fault for path in paths for fault in too_long(tree.name(path), path.read_text())]
    assert faults == [], "\n".join(faults)


def test_what_is_too_long_is_found() -> None:
    body = "    x = 1\n" * 40
    assert "f has 41 lines" in too_long("m.py", f"def f():\n{body}")[0]
    assert too_long("m.py", f'def f():\n    """Long.\n\n    Length: a table.\n    """\n{body}') == []
    assert "m.py has 401 lines" in too_long("m.py", "x = 1\n" * 401)[0]
    assert too_long("m.py", "x = 1\n" * 400) == []
