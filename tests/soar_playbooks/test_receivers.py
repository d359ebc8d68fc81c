"""A webhook's receiver that is gone is left alone and told of; one that asks for a pause gets it; a dead one costs a try a pause."""

import json
from datetime import timedelta
from email.utils import format_datetime

import pytest

from lachan import clock
from lachan.runtime import Runtime
from lachan.work import outbox
from lachan.work.jobs import jobs
from soar_playbooks import cli, health, receivers, webhooks
from soar_playbooks.models import webhook_deliveries
from soar_playbooks.receivers import Answered
from tests.soar_playbooks.peer import Peer
from tests.soar_playbooks.support import new_device, raise_alert, rows, work


@pytest.fixture
def open_rt(rt: Runtime, peer: Peer) -> Runtime:
    """The installation whose webhook goes to the peer."""
    more = {"outgoing_allow": (f"127.0.0.1:{peer.port}",), "webhook_url": f"{peer.base}/hook"}
    object.__setattr__(rt, "settings", rt.settings.model_copy(update=more))
    return rt


def alert(rt: Runtime, number: int) -> str:
    return raise_alert(rt, new_device(rt, f"cam-{number}"))


def states(rt: Runtime) -> list[tuple[str, int]]:
    return [(row["state"], row["attempts"]) for row in sorted(rows(rt, webhook_deliveries), key=lambda row: row["id"])]


def test_a_receiver_that_is_gone_is_asked_once_told_of_and_resumed_by_a_person(
    open_rt: Runtime, peer: Peer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.answers["/hook"] = [410]
    sent = [alert(open_rt, number) for number in range(3)]
    for hours in range(3):
        with clock.travel(timedelta(hours=hours)):
            work(open_rt)
    assert len(peer.hooks()) == 1, "410 ends it: nothing more is sent there"
    assert states(open_rt) == [("failed", 1), ("failed", 0), ("failed", 0)]
    (told,) = health.check(open_rt)
    assert "is gone (410)" in told.what
    assert "webhook_url" in told.next
    (open_rt.settings.data / "initialised").touch()
    monkeypatch.setenv("LACHAN_WEBHOOK_URL", f"{peer.base}/hook")
    monkeypatch.setenv("LACHAN_DATABASE_URL", open_rt.settings.database_url)
    words = ["webhook", "--data", str(open_rt.settings.data), "--json"]
    assert cli.playbooks(words) == 0
    assert json.loads(capsys.readouterr().out)["gone_at"]
    assert cli.playbooks([*words, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["sent_again"] == 3
    work(open_rt)
    assert {headers["webhook-id"] for headers, _ in peer.hooks()[1:]} == set(sent), "what it missed is sent"
    assert {state for state, _ in states(open_rt)} == {"delivered"}
    assert list(health.check(open_rt)) == []


def test_another_url_is_another_receiver(open_rt: Runtime, peer: Peer) -> None:
    peer.answers["/hook"] = [410]
    alert(open_rt, 1)
    work(open_rt)
    moved = open_rt.settings.model_copy(update={"webhook_url": f"{peer.base}/elsewhere"})
    object.__setattr__(open_rt, "settings", moved)
    assert list(health.check(open_rt)) == []


@pytest.mark.parametrize(
    ("status", "said", "seconds"),
    [(429, "30", 30), (503, "120", 120), (429, "999999999", 3600), (429, "date", 90), (429, "0", 1), (429, "soon", 2), (429, "-5", 2),
     (429, "١٢", 2)],
)  # fmt: skip
def test_a_pause_that_a_receiver_asks_for_is_kept_for_all_that_goes_there(
    open_rt: Runtime, peer: Peer, status: int, said: str, seconds: float
) -> None:
    peer.answers["/hook"] = [status]
    peer.retry_after = format_datetime(clock.now() + timedelta(seconds=90)) if said == "date" else said
    for number in range(3):
        alert(open_rt, number)
    work(open_rt)
    assert len(peer.hooks()) == 1
    with clock.travel(timedelta(seconds=seconds - 1.5)):
        work(open_rt)
    assert len(peer.hooks()) == (1 if seconds > 2 else len(peer.hooks()))
    with clock.travel(timedelta(seconds=seconds + 3)):
        work(open_rt)
    assert len(peer.hooks()) == 4
    assert {state for state, _ in states(open_rt)} == {"delivered"}


def test_a_pause_of_a_clock_that_was_ahead_is_over(open_rt: Runtime, peer: Peer) -> None:
    peer.answers["/hook"] = [503]
    with clock.travel(timedelta(days=36)):
        alert(open_rt, 1)
        work(open_rt)
    alert(open_rt, 2)
    work(open_rt)
    assert len(peer.hooks()) == 2, "the second one waits for no month"


def test_a_dead_receiver_costs_one_try_a_pause_whatever_waits(open_rt: Runtime, peer: Peer) -> None:
    peer.answers["/hook"] = [500] * 100
    for number in range(20):
        alert(open_rt, number)
    for seconds in (0, 3, 8, 17, 34):  # pauses of 2, 4, 8 and 16 s
        with clock.travel(timedelta(seconds=seconds)):
            work(open_rt)
    assert len(peer.hooks()) == 5
    assert sum(attempts for _, attempts in states(open_rt)) == 5, "who was not tried has lost no try"
    peer.answers["/hook"] = []
    with clock.travel(timedelta(seconds=70)):
        work(open_rt)
    with clock.travel(timedelta(seconds=140)):
        work(open_rt)
    assert {state for state, _ in states(open_rt)} == {"delivered"}


@pytest.mark.parametrize("meanwhile", [Answered(None, "timeout"), Answered(429, "status 429", "30"), Answered(200)])
def test_a_pause_is_not_cut_short_by_a_try_that_was_under_way(rt: Runtime, meanwhile: Answered) -> None:
    asked, now = Answered(429, "status 429", "1800"), clock.now()
    for answered in (asked, meanwhile):
        with rt.db.write() as connection:
            receivers.note(connection, "https://hook", answered)
    with rt.db.read() as connection:
        assert receivers.state(connection, "https://hook")["not_before"] >= now + timedelta(seconds=1800)
    with clock.travel(timedelta(hours=1)), rt.db.write() as connection:
        assert receivers.note(connection, "https://hook", Answered(200)) is None, "a pause that is over is over"


def test_what_waits_behind_a_dead_receiver_ends_though_it_was_never_tried(open_rt: Runtime, peer: Peer) -> None:
    peer.answers["/hook"] = [500] * 100
    for number in range(5):
        alert(open_rt, number)
    work(open_rt)
    with clock.travel(webhooks.OLDEST + timedelta(hours=1)):
        work(open_rt)
        assert states(open_rt) == [("failed", 1), *[("failed", 0)] * 4]
        assert len(peer.hooks()) == 1
        assert list(health.check(open_rt)) == [], "old is not gone"


def test_deliveries_wait_in_the_receivers_own_turn(open_rt: Runtime, peer: Peer) -> None:
    event_id = alert(open_rt, 1)
    with open_rt.db.write() as connection:
        webhooks.queue(open_rt, connection, outbox.get(connection, event_id))
    assert [row["sender"] for row in rows(open_rt, jobs) if row["kind"] == "soar.webhook"] == [
        f"webhook:{peer.base}/hook"
    ]
