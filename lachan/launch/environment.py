"""Where ``.venv`` stands, what it is made from, and how to say that lachan cannot start: what both halves of the launch share.

Limits: standard library only, and no syntax newer than Python 3.8.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".ready"
MUTEX = ROOT / ".venv.lock"
LOG = ROOT / ".venv.log"
RUNTIME = "requirements.lock"
TEST = "requirements-test.lock"

OLDEST = (3, 11)
UNAVAILABLE = 69
"""Exit status when the environment cannot be made (``EX_UNAVAILABLE`` of sysexits.h)."""

OURS = ("lachan", "api", "pki", "posture", "ota_signing", "siem_rules", "soar_playbooks")
"""The import packages of this project; nobody else may own one of these names."""


class CannotStart(Exception):
    """lachan cannot start here; the text is one sentence that says why and what to do."""


def say(text: str) -> None:
    """Tell the person at the terminal what is going on; standard output stays the command's own."""
    print(f"lachan: {text}", file=sys.stderr, flush=True)


def stamp() -> dict[str, str]:
    """Tell what ``.venv`` was made from: ``python`` and, by the lock's name, the SHA-256 of each lock it holds.

    Returns:
        An empty dict when there is no stamp, it cannot be read, or the interpreter it speaks of is gone.
    """
    try:
        found = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and PYTHON.exists() else {}


def interpreter() -> str:
    """Name the interpreter a ``.venv`` belongs to; a patch release does not make it another one."""
    return f"{sys.implementation.cache_tag} {sys.base_prefix} {os.uname().machine}"


def digest(name: str) -> str:
    """SHA-256 of a lock, in hex."""
    import hashlib

    return hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
