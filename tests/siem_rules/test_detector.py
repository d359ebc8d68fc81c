"""From the bytes that a sender delivers to alerts and facts."""

from collections import Counter
from collections.abc import Iterator

import pytest

from lachan import outbox
from lachan.runtime import Runtime
from siem_rules import ingest, ruleset
from siem_rules.detector import Detector
from siem_rules.models import alerts
from tests.siem_rules.support import BENIGN, EXPECTED, RECORDING, collector, delayed, device, documents, send, shifted


@pytest.fixture
def open_rt(rt: Runtime) -> Iterator[Runtime]:
    """A runtime whose way in is closed afterwards."""
    yield rt
    ingest.close(rt)


def raised(rt: Runtime) -> Counter[str]:
    """How often each rule has raised an alert, by the facts."""
    with rt.db.read() as connection:
        facts = outbox.read(connection, names=("AlertRaised",), limit=1000)
    names = {rule.id: rule.name for rule in (*ruleset.ours().rules.values(), *ruleset.ours().correlations.values())}
    return Counter(names[fact.event.rule_id] for fact in facts)


def detect(rt: Runtime) -> Detector:
    """Run a detector over all there is."""
    detector = Detector(rt, ruleset.ours())
    while detector.round():
        pass
    detector.commit()
    return detector


def test_recorded_attack_raises_each_expected_alert_once(open_rt: Runtime) -> None:
    answer = send(open_rt, collector("gw"), shifted(RECORDING))
    assert not answer.errors
    detect(open_rt)
    assert raised(open_rt) == Counter(EXPECTED)
