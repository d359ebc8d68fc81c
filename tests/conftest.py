"""Fixtures that every room's tests share: a database with the schema, a runtime, principals."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lachan.database import Database, metadata
from lachan.identity import Principal, PrincipalKind, Role
from lachan.identity.secrets import make_pepper
from lachan.runtime import Runtime
from lachan.settings import Settings
from tests.support.signer import ledger_rt, short_folder, signer_rt  # noqa: F401


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder, mode 0700, with a pepper."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    make_pepper(folder)
    return folder


@pytest.fixture
def database_url() -> str:
    """Empty means SQLite in the data folder; tests/interop/postgresql overrides it."""
    return ""


@pytest.fixture
def settings(data: Path, database_url: str) -> Settings:
    """Settings of an installation in the data folder, any free ports."""
    return Settings.load(data, database_url=database_url, people_port=0, device_port=0, status_port=0)


@pytest.fixture
def rt(settings: Settings) -> Iterator[Runtime]:
    """A runtime whose schema is made from the tables; no other process, no signer."""
    runtime = Runtime.open(settings)
    metadata.create_all(runtime.db.engine)
    yield runtime
    runtime.close()


@pytest.fixture
def db(rt: Runtime) -> Database:
    """The runtime's database."""
    return rt.db


def person(name: str, *roles: Role, vendor: str | None = None, session: str | None = "s") -> Principal:
    """A person in a session, for tests that need no real sign-in."""
    return Principal(
        kind=PrincipalKind.PERSON, id=f"id-{name}", name=name, roles=frozenset(roles), vendor=vendor, session=session
    )


@pytest.fixture
def admin() -> Principal:
    """An administrator in a session."""
    return person("admin", Role.ADMIN)
