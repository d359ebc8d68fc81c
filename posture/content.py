"""Read the YAML content of this room, check it against its JSON Schema, and know the line of every mistake."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from posture.errors import ContentInvalid

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FOLDER = Path(__file__).parent / "criteria"


def load(name: str, *, kind: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Read one file.

    Args:
        name: file name in ``folder``.
        kind: name under ``$defs`` of schema.json that describes it.
        folder: where the files lie.

    Raises:
        ContentInvalid: not YAML, not as the schema says, or a key stands twice (``file``, ``line``).
    """
    try:
        tree, data = _read(folder / name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ContentInvalid(f"{name}:{line}: {error.problem}", file=name, line=line) from error
    _unique(name, tree)
    found = sorted(_validator(kind).iter_errors(data), key=lambda e: list(map(str, e.absolute_path)))
    if found:
        line = line_of(tree, list(found[0].absolute_path))
        raise ContentInvalid(f"{name}:{line}: {found[0].message[:300]}", file=name, line=line)
    return dict(data)


def line_of(node: yaml.Node | None, path: list[str | int]) -> int:
    """Give the line (from 1) where a path of keys and indexes stands in a composed YAML document."""
    line = 1
    for step in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        if node is not None:
            line = max(line, node.start_mark.line + 1) if isinstance(step, int) else line
    return line


def lines(name: str, *, collection: str, key: str, folder: Path = FOLDER) -> dict[str, int]:
    """Give the line of each row of a list, by the row's ``key``."""
    tree, data = _read(folder / name)
    return {row[key]: line_of(tree, [collection, number]) for number, row in enumerate(data[collection])}


def _read(path: Path) -> tuple[yaml.Node | None, Any]:
    """Parse once, by libyaml where PyYAML has it: ten times less of a processor that others wait for."""
    loader = _LOADER(path.read_text(encoding="utf-8"))
    try:
        tree = loader.get_single_node()
        return tree, None if tree is None else loader.construct_document(tree)
    finally:
        loader.dispose()


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator({"$defs": schema["$defs"], "$ref": f"#/$defs/{kind}"})


def _unique(name: str, node: yaml.Node | None) -> None:
    """Refuse a key that stands twice: YAML keeps the last one silently."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ContentInvalid(f"{name}:{line}: {key.value!r} stands twice", file=name, line=line)
            seen.add(key.value)
            _unique(name, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _unique(name, item)
