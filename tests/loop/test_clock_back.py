"""A clock that was 36 days ahead and is put right delays nothing by more than a period, and locks nobody out (cases/field 23)."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from benchmarks.support import yardstick
from benchmarks.support.installation import Installation
from lachan.runtime import Runtime
from lachan.settings import Settings
from tests.support import need
from tests.support.wait import until

AHEAD = timedelta(days=36)
SOON = timedelta(minutes=2)  # what is due within it was not put off by weeks; a period may be longer
pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.fixture(params=["sqlite", "postgresql"])
def lab(request: pytest.FixtureRequest) -> Iterator[Installation]:
    """An installation that is not served yet."""
    if on_postgres := request.param == "postgresql":
        need.program("initdb", package="postgresql")
    with Installation(yardstick.OURS, postgres=on_postgres) as made:
        yield made


def recurring(lab: Installation) -> dict[str, timedelta]:
    """How far ahead each recurring job is due beyond its period."""
    url = lab.env.get("LACHAN_DATABASE_URL", "")
    rt = Runtime.open(Settings.load(lab.data, database_url=url, people_port=0, device_port=0, status_port=0))
    try:
        with rt.db.read() as connection:
            rows = connection.execute(sa.text("SELECT kind, due_at FROM jobs WHERE kind LIKE 'every:%'")).all()
    finally:
        rt.close()
    periods = {f"every:{name}": timedelta(seconds=each.seconds) for name, each in rt.wiring.recurring.items()}
    now = datetime.now(UTC)
    return {row.kind: _moment(row.due_at) - now - periods[row.kind] for row in rows}


def _moment(value: Any) -> datetime:
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def test_recurring_work_goes_on_and_the_doors_are_open(lab: Installation) -> None:
    lab.env["LACHAN_CLOCK_OFFSET"] = str(AHEAD.total_seconds())
    lab.open()
    lab.lachan("token", "add", "early", "--role", "platform")
    lab.close()
    assert max(recurring(lab).values()) > AHEAD / 2, "the control: work was put off by the wrong clock"

    del lab.env["LACHAN_CLOCK_OFFSET"]
    lab.open()
    before = lab.lachan("ledger", "status")
    lab.lachan("token", "add", "late", "--role", "platform")
    until(
        lambda: lab.lachan("ledger", "status")["sealed"] > before["leaves"], timeout=60, what="facts are sealed again"
    )
    assert {kind: late for kind, late in recurring(lab).items() if late > SOON} == {}
    base, trust = lab.urls["people"], ssl.create_default_context(cafile=str(lab.root))
    until(
        lambda: set(httpx.get(f"{base}/readyz", verify=trust).json()["checks"].values()) == {"ok"},
        timeout=90,
        what="the people door is open, and all moves",
    )
    assert {row["what"]: row["state"] for row in lab.lachan("doctor") if row["state"] != "ok"} == {}
