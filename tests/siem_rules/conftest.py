"""Fixtures of the detection tests."""

from collections.abc import Iterator

import pytest

from lachan.runtime import Runtime
from siem_rules import ingest


@pytest.fixture
def open_rt(rt: Runtime) -> Iterator[Runtime]:
    """A runtime whose way in for log lines is closed afterwards."""
    yield rt
    ingest.close(rt)
