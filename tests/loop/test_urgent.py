"""Nothing stands between a line and the cut: each load of `benchmarks/urgent.py`, a few devices each, on both databases.

The benchmark takes 200 samples a row and measures; here a few devices turn while the other worker of this run has the machine,
too, so what is asked is that the usual one is refused within the second that is promised, that none is left waiting, and that
nobody else got an error. On the commit before lanes most rows fail by tens of seconds (docs/benchmarks.md).
"""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks import urgent
from benchmarks.support import loads, yardstick
from benchmarks.support.street import POLL, SERVED, Counts, Seen, Street, bulk, get, street
from lachan.runtime import Runtime
from lachan.settings import Settings
from siem_rules import logs
from tests.support import need
from tests.support.wait import until

SAMPLES = 3
SHORT = {  # the same load, of a size that is over when the test is
    "import of 100 000 rows": lambda made: loads.importing(made, 10_000),
    "TUF of 20 000 releases": lambda made: loads.tuf(made, 1000),
    "500 alerts of others waiting": loads.waiting(150),
    "5 000 alerts of others waiting": loads.waiting(300),
    "50 000 lines dated hours apart": lambda made: loads.hours_apart(made, 3000),
}  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def made(request: pytest.FixtureRequest) -> Iterator[Street]:
    """A street, served."""
    if on_postgres := request.param == "postgresql":
        need.program("initdb", package="postgresql")
    counts = Counts(turning=(SAMPLES + 2) * len(urgent.ROWS), others=1500, evil=40, fresh=600)
    with street(yardstick.OURS, counts, postgres=on_postgres) as found:
        yield found


def taken(made: Street, name: str) -> Seen:
    """A few samples of a row, when what the row before left is done."""
    made.lab.settle()
    return urgent.one(made, name, SAMPLES, load=SHORT.get(name))


@pytest.mark.parametrize("name", urgent.ROWS)
def test_a_device_that_turns_is_refused_whatever_else_goes_on(made: Street, name: str) -> None:
    seen = taken(made, name)
    assert len(seen.seconds) == SAMPLES
    assert seen.quantile(0.5) <= 1000, seen.seconds
    assert max(seen.seconds) <= 5, seen.seconds
    assert seen.errors == []
    assert seen.again == []


def test_a_device_that_says_nothing_of_the_kind_stays(made: Street) -> None:
    """The control: without the line that decides nobody is refused."""
    who = next(made.turning)
    assert not made.control(who)
    with closing(made.live(who)) as live:
        assert live.ask(get(POLL))[0] in SERVED


def storm(host: str, at: datetime, *, gap: float, success: bool = True) -> list[dict[str, Any]]:
    """Twelve refused passwords at a device, so many seconds apart, and one that is taken."""
    words = [f"Bad password attempt for 'root' from 198.51.100.23:{4000 + n}" for n in range(12)]
    words += ["Password auth succeeded for 'root' from 198.51.100.23:55305"] if success else []
    return [
        {"@timestamp": (at + timedelta(seconds=gap * n)).isoformat(), "host": {"name": host}, "process": {"name": "dropbear"}, "message": text}
        for n, text in enumerate(words)
    ]  # fmt: skip


def test_a_collector_that_was_offline_has_nobody_cut_who_was_not_attacked(made: Street) -> None:
    """Two hours of lines at once: honest, dated into the past and the future, failures squeezed together; beside a real attack."""
    now, hour = datetime.now(UTC), timedelta(hours=1)
    calm, past, future, squeezed, attacked = (f"que-{next(made.quarter.left):07}" for _ in range(5))
    sent = {
        calm: storm(calm, now - 2 * hour, gap=590), past: storm(past, now - timedelta(days=8), gap=1),
        future: storm(future, now + 3 * hour, gap=1), squeezed: storm(squeezed, now - hour, gap=0.05, success=False),
        attacked: storm(attacked, now - timedelta(minutes=1), gap=1),
    }  # fmt: skip
    lines = [line for some in sent.values() for line in some]
    body = bulk(lines).partition(b"\r\n\r\n")[2]
    answer = made.admin.post("/_bulk", content=body, headers=made.quarter.headers).raise_for_status()
    assert not answer.json()["errors"]
    answers = {
        name: f"SELECT count(*) FROM containments c JOIN devices d ON d.id = c.device_id WHERE d.name = '{name}'"
        for name in sent
    }
    until(
        lambda: made.quarter.rows.one(answers[attacked]) == 1, timeout=60, what="the control: what was attacked is cut"
    )
    made.lab.settle()
    assert {name: made.quarter.rows.one(query) for name, query in answers.items()} == dict.fromkeys(sent, 0) | {
        attacked: 1
    }
    url = made.lab.env.get("LACHAN_DATABASE_URL", "")
    with closing(
        Runtime.open(Settings.load(made.lab.data, database_url=url, people_port=0, device_port=0, status_port=0))
    ) as rt:
        kept = [json.loads(line.line) for line in logs.newest(rt, limit=5000, sender="collector:gw")]
    for name, given in sent.items():
        found = [
            line["@timestamp"] for line in kept if line["host"]["name"] == name and line["message"] != loads.ORDINARY
        ]
        assert sorted(found) == sorted(line["@timestamp"] for line in given), (
            "nothing is lost, and the claimed time is kept"
        )
