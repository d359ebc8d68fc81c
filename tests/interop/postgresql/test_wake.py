"""Wake-ups over several machines: NOTIFY of the one PostgreSQL."""

from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from lachan.work import wake
from lachan.work.wake import PostgresWaker, Waiter, Waker
from tests.lachan.test_wake import hears
from tests.support.wait import until


@pytest.fixture
def machines(tmp_path: Path, database_url: str) -> tuple[PostgresWaker, PostgresWaker]:
    """Two machines with data folders of their own and one database."""
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    return PostgresWaker(folders[0], url), PostgresWaker(folders[1], url)


def test_a_wake_up_is_heard_on_another_machine(machines: tuple[PostgresWaker, PostgresWaker]) -> None:
    here, there = machines
    waiter = there.waiter("work")
    try:
        assert not waiter.wait(0.001)
        assert hears(waiter, here)
        assert hears(waiter, here, "work")
        here.wake("door")
        here.wake("detect")  # its rows lie on that machine alone
        assert not waiter.wait(0.3)
    finally:
        waiter.close()
        here.close()
        there.close()


def test_a_lost_connection_is_made_again(
    machines: tuple[PostgresWaker, PostgresWaker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "RETRY", 0.0)
    here, there = machines
    waiter = there.waiter("work")
    try:
        assert hears(waiter, here)
        with psycopg.connect(here._url, autocommit=True) as killer:
            killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND datname = current_database()"
            )
        until(lambda: hears_now(waiter, here))
    finally:
        waiter.close()
        here.close()
        there.close()


def hears_now(waiter: Waiter, waker: Waker) -> bool:
    waker.wake()
    return waiter.wait(0.5)
