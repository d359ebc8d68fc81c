"""The files of this checkout that are the project's own, without asking git (a bare Debian has none)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lachan", "api", "pki", "ota_signing", "siem_rules", "soar_playbooks", "posture")
NOT_OURS = {".git", ".venv", "__pycache__", "dist", "build", "node_modules", "data", "lachan-data"}
"""What tools or a running lachan leave at the top (``.git`` is a file in a git worktree); ``data`` deeper down is content."""
LEFT = (".pyc", ".venv.lock", ".venv.log")


def files(top: Path = ROOT) -> Iterator[Path]:
    """Every file that could be tracked, depth first, in a fixed order."""
    for folder, folders, names in os.walk(top):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not left_behind(here, name))
        yield from (here / name for name in sorted(names) if not left_behind(here, name) and not name.endswith(LEFT))


def left_behind(here: Path, name: str) -> bool:
    """Whether a folder or file is something a tool made."""
    if name == "__pycache__" or name.endswith(("_cache", ".egg-info")) or name == ".hypothesis":
        return True
    return here == ROOT and name in NOT_OURS


def modules() -> list[Path]:
    """The Python modules of the product, tests left out."""
    return [path for package in PACKAGES for path in files(ROOT / package) if path.suffix == ".py"]


def text(path: Path) -> str | None:
    """The file as text; None for what is not."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def name(path: Path) -> str:
    """The path as a reader writes it."""
    return path.relative_to(ROOT).as_posix()
