"""Must show 9: four processes, fifty alerts, twenty rounds: exactly N contained, the rest waiting for a human, none lost."""

from collections import Counter
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from lachan.devices import Criticality, NewDevice, register
from lachan.events import AlertRaised
from lachan.ids import new_id
from lachan.runtime import Runtime
from lachan.work import outbox
from soar_playbooks.models import containment_budgets, containments, runs
from tests.soar_playbooks.support import ADMIN, DETECTOR, load
from tests.soar_playbooks.zygote import Zygote

N, ALERTS, PROCESSES = 7, 50, 4


@pytest.fixture
def racers(rt: Runtime, database_url: str) -> Iterator[Zygote]:
    zygote = Zygote(rt.settings.data, database_url, budget_site=N, budget_model=1000, budget_detector=1000)
    yield zygote
    zygote.close()


def round_of_alerts(rt: Runtime, site: str) -> None:
    """Fifty devices of one site, and one alert for each, due all at once."""
    with rt.db.write() as connection:
        for number in range(ALERTS):
            name = f"{site}-{number}"
            new = NewDevice(name=name, vendor="Acme", model="C1", serial_number=name, site=site)
            device = register(connection, new, actor=ADMIN, criticality=Criticality.NORMAL)
            alert = AlertRaised(
                alert_id=new_id(), rule_id=site, rule_title="t", severity="high", device_id=device.id, site=site,
                subject_bound=True, outcome="success", sources=1, senders=(f"device:{device.id}",),
            )  # fmt: skip
            outbox.append(connection, alert, actor=DETECTOR)


def counted(rt: Runtime, site: str) -> Counter[str]:
    query = sa.select(containments.c.state, containments.c.guard).where(containments.c.site == site)
    with rt.db.read() as connection:
        return Counter(f"{row.state} {row.guard}".strip() for row in connection.execute(query))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_exactly_n_are_contained_and_none_is_lost(rt: Runtime, racers: Zygote, rounds: int) -> None:
    load(rt)
    for number in range(rounds):
        site = f"site-{number}"
        round_of_alerts(rt, site)
        assert racers.live(lives=PROCESSES) == [0] * PROCESSES
        assert racers.live(offset=60) == [0]  # whatever a lease still held
        assert counted(rt, site) == {"active": N, "waiting budget": ALERTS - N}
    with rt.db.read() as connection:
        states = Counter(connection.execute(sa.select(runs.c.state)).scalars())
        budgets = connection.execute(sa.select(containment_budgets.c.scope, containment_budgets.c.active))
        active = {row.scope: row.active for row in budgets}
    assert states == {"ended": N * rounds, "waiting": (ALERTS - N) * rounds}
    assert {scope: number for scope, number in active.items() if scope.startswith("site:")} == {
        f"site:site-{number}": N for number in range(rounds)
    }
