"""Fixtures of the doors' tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lachan.runtime import Runtime
from tests.api.support import Town


@pytest.fixture
def town(rt: Runtime, tmp_path: Path) -> Town:
    """An installation with a small authority; its doors are closed."""
    return Town(rt, tmp_path / "authority")


@pytest.fixture
def doors(town: Town) -> Iterator[Town]:
    """The same with its doors open."""
    with town.open():
        yield town
