"""Prepare ``.venv`` from the hashed locks, with nothing but Python and pip.

Steps: look at the stamp in ``.venv`` (what it was made from); if it does not answer, take the file lock, make the virtual
environment, let the system's pip install the locked wheels into it (hashes required, nothing built from source), put the
checkout on its path, write the stamp last. So whatever is killed in the middle has no stamp and is made anew.

Two sets: ``requirements.lock`` runs lachan; ``requirements-test.lock`` holds the same and the test tools, and serves both.

Limits: POSIX only (``fcntl``); pip 22.3 or newer (``--python``); the package index is whatever pip is configured to use.
Standard library only, and no syntax newer than Python 3.8: an old Python must reach the sentence that refuses it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lachan.launch.environment import (
    MUTEX,
    OLDEST,
    OURS,
    PYTHON,
    ROOT,
    RUNTIME,
    TEST,
    VENV,
    CannotStart,
    digest,
    interpreter,
    say,
    stamp,
)


def ensure(argv: list[str]) -> None:
    """Return when this process runs where lachan can run; otherwise prepare ``.venv`` and start again inside it.

    Args:
        argv: the command's arguments; ``test`` first asks for the test tools too.

    Raises:
        CannotStart: the Python is too old, the system is not POSIX, or ``.venv`` could not be made.
    """
    if sys.version_info < OLDEST:
        have = ".".join(str(part) for part in sys.version_info[:3])
        raise CannotStart(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, and {sys.executable} is {have}.")
    if not (ROOT / RUNTIME).exists() or Path(sys.prefix).resolve() == VENV.resolve():
        return
    if os.name != "posix":
        raise CannotStart("a checkout runs on Linux and other POSIX systems only; on Windows use WSL.")
    wanted = TEST if argv[:1] == ["test"] else RUNTIME
    if not serves(wanted):
        _prepare_alone(wanted)
    os.execv(str(PYTHON), [str(PYTHON), "-P", "-m", "lachan", *argv])  # noqa: S606 - no shell is wanted


def serves(wanted: str) -> bool:
    """Tell whether ``.venv`` holds what the lock ``wanted`` asks for, made by this Python."""
    have = stamp()
    return have.get("python") == interpreter() and all(have.get(name) == digest(name) for name in {RUNTIME, wanted})


def check_names() -> None:
    """See that our top-level names are found in our own tree and nowhere else.

    Raises:
        CannotStart: another distribution or folder answers to one of :data:`OURS`; it is named.
    """
    from importlib.machinery import PathFinder

    for name in OURS[1:]:
        spec = PathFinder.find_spec(name)
        if spec is None:
            continue
        places = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        intruders = [place for place in places or [Path(str(spec.origin))] if place != ROOT / name]
        if intruders:
            raise CannotStart(
                f"the package `{name}` is taken by {intruders[0]}, so lachan's own cannot be imported: "
                "run lachan in an environment of its own, without that one."
            )


def _prepare_alone(wanted: str) -> None:
    """Prepare under the file lock; whoever comes second waits and then finds the work done."""
    import fcntl

    try:
        mutex = MUTEX.open("a")
    except OSError as error:
        raise CannotStart(f"cannot write in {ROOT} ({error.strerror}): lachan keeps its .venv there.") from None
    with mutex:
        try:
            fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another lachan is preparing .venv here; waiting for it ...")
            fcntl.flock(mutex, fcntl.LOCK_EX)
        if not serves(wanted):
            from lachan.launch import install

            install.prepare(wanted, mutex.fileno())
