"""The tests of this folder are those of the rooms, run once more on a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from tests.support import postgresql


@pytest.fixture(scope="session")
def pg_cluster() -> Iterator[str]:
    """One cluster for this test process."""
    with postgresql.cluster() as folder:
        yield folder


@pytest.fixture
def database_url(pg_cluster: str) -> Iterator[str]:
    """A fresh database of that cluster."""
    with postgresql.database(pg_cluster) as url:
        yield url
