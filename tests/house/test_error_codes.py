"""No two kinds of error share a code: whoever reads one in a log or a problem document knows which it was."""

import importlib
import pkgutil
from collections.abc import Iterator

from lachan.errors import LachanError

ROOMS = ("lachan", "api", "pki", "ota_signing", "siem_rules", "soar_playbooks", "posture")
ELSEWHERE = ("lachan.migrations", "lachan.__main__")  # alembic's, and what runs when it is imported


def kinds(base: type[LachanError]) -> Iterator[type[LachanError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def code(kind: type[LachanError]) -> str:
    return str(LachanError.code.fget(kind.__new__(kind)))  # type: ignore[attr-defined]


def shared(found: set[type[LachanError]]) -> dict[str, list[str]]:
    """The codes that several of these kinds have, with their classes."""
    named: dict[str, list[str]] = {}
    for kind in found:
        named.setdefault(code(kind), []).append(f"{kind.__module__}.{kind.__qualname__}")
    return {name: sorted(classes) for name, classes in named.items() if len(classes) > 1}


def test_no_two_errors_share_a_code() -> None:
    for room in ROOMS:
        for module in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
            if not module.name.startswith(ELSEWHERE):
                importlib.import_module(module.name)
    found = {kind for kind in kinds(LachanError) if kind.__module__.split(".")[0] in ROOMS}
    assert len(found) > 100
    assert shared(found) == {}


def test_a_shared_code_is_found() -> None:
    twins = {type("TwinFound", (LachanError,), {}) for _ in range(2)}
    assert len(shared(twins)["twin-found"]) == 2
