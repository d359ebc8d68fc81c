"""Nothing stands between a line and the cut: each load of `benchmarks/urgent.py`, a few devices each, on both databases.

The benchmark takes 200 samples a row and measures; here a few devices turn while the other worker of this run has the machine,
too, so what is asked is that the usual one is refused within the second that is promised, that none is left waiting, and that
nobody else got an error. On the commit before lanes most rows fail by tens of seconds (docs/benchmarks.md).
"""

from collections.abc import Iterator
from contextlib import closing

import pytest

from benchmarks import urgent
from benchmarks.support import loads, yardstick
from benchmarks.support.street import POLL, SERVED, Counts, Seen, Street, get, street
from tests.support import need

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


def test_a_device_that_says_nothing_of_the_kind_stays(made: Street) -> None:
    """The control: without the line that decides nobody is refused."""
    who = next(made.turning)
    assert not made.control(who)
    with closing(made.live(who)) as live:
        assert live.ask(get(POLL))[0] in SERVED
