"""What several of these tests stand on: open doors, a browser without a session, a peer that counts."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lachan.runtime import Runtime
from tests.api.support import Town
from tests.soar_playbooks.peer import Peer, serving


@pytest.fixture
def town(rt: Runtime, tmp_path: Path) -> Iterator[Town]:
    """The installation with its doors open."""
    found = Town(rt, tmp_path / "authority")
    with found.open():
        yield found


@pytest.fixture
def web(town: Town) -> Iterator[httpx.Client]:
    """A client of the people door."""
    with town.client("people") as client:
        yield client


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A server that HTTP steps and webhooks ask."""
    with serving() as found:
        yield found
