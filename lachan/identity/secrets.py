"""Random secrets and how they are kept: HMAC-SHA-256 with a pepper that lies outside the database.

A random token needs no slow hash; the pepper keeps a stolen database from being of use. The pepper is a file of the data
folder, mode 0600, made by `make_pepper` at ``lachan init``.
"""

import hmac
import os
import secrets
from functools import cache
from pathlib import Path

from lachan.errors import Unavailable
from lachan.files import write_new


def make_pepper(data: Path) -> None:
    """Make ``<data>/pepper`` (32 random bytes, mode 0600) unless it is there."""
    path = data / "pepper"
    if not path.exists():
        write_new(path, os.urandom(32))


@cache
def _pepper(data: Path) -> bytes:
    path = data / "pepper"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Unavailable(f"{path} is missing; `lachan init` makes it.") from None


def hashed(data: Path, secret: str) -> str:
    """Tell what is stored of a secret: hex HMAC-SHA-256 under the pepper of the data folder.

    Raises:
        Unavailable: the installation has no pepper.
    """
    return hmac.digest(_pepper(data), secret.encode(), "sha256").hex()


def same(left: str, right: str) -> bool:
    """Compare two secrets or hashes in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())


def random_text(octets: int = 32) -> str:
    """Give a URL-safe random text of so many octets of entropy."""
    return secrets.token_urlsafe(octets)
