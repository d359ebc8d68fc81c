"""Third-party programs that a test meets: found, or skipped with the package to install, or failed under CI."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

PLACES = ("/usr/sbin", "/sbin", "/usr/local/go/bin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))))


def program(name: str, *, package: str) -> str:
    """The path of a program; without it the test is skipped (failed when ``CI=true``) naming its Debian package."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *reversed(PLACES)])
    found = shutil.which(name, path=path)
    if found:
        return found
    missing(f"needs {name}: apt install {package}")


def root(why: str) -> None:
    """Skip (fail under CI) unless the test runs as root, which ``why`` explains."""
    if os.geteuid() != 0:
        missing(f"needs root: {why}")


def missing(reason: str) -> NoReturn:
    """Skip with the reason; under ``CI=true`` fail instead, for there nothing may be skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have it: {reason}", pytrace=False)
    pytest.skip(reason)
