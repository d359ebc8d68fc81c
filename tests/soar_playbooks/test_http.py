"""HTTP steps and the signed webhook, against a peer that counts: what is sent, what is refused, what is asked of a human."""

from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from lachan import clock, trust
from lachan.runtime import Runtime
from soar_playbooks import webhooks
from soar_playbooks.errors import FourEyes, NotWaiting
from soar_playbooks.models import run_journal, webhook_deliveries
from soar_playbooks.playbooks import Mode
from soar_playbooks.runs import decisions
from tests.soar_playbooks.peer import Peer
from tests.soar_playbooks.support import (
    AN,
    BINH,
    camera_document,
    decision,
    http_action,
    load,
    new_device,
    one_run,
    raise_alert,
    rows,
    told,
    with_target,
    work,
)

ASK = "action--11111111-1111-4111-8111-111111111111"


@pytest.fixture
def open_rt(rt: Runtime, peer: Peer) -> Runtime:
    """The installation whose operator allows the peer, for steps and for the webhook."""
    more = {"outgoing_allow": (f"127.0.0.1:{peer.port}",), "webhook_url": f"{peer.base}/hook"}
    object.__setattr__(rt, "settings", rt.settings.model_copy(update=more))
    return rt


def asking(base: str, path: str = "/counter", *, idempotent: bool = False) -> dict[str, Any]:
    """The camera playbook that asks the peer first, then contains."""
    document = with_target(camera_document(), base)
    condition = next(step for step in document["workflow"].values() if step["type"] == "if-condition")
    contain, condition["on_true"] = condition["on_true"], ASK
    body = {"device": "__device__:value", "hits": "__sources__:value"}
    action = http_action(path, idempotent=idempotent, nxt=contain, content=body)
    del action["on_completion"]
    page = next(n for n, s in document["workflow"].items() if s["type"] == "action" and n != contain)
    document["workflow"][ASK] = {**action, "on_success": contain, "on_failure": page}
    return document


def run_once(rt: Runtime, document: dict[str, Any]) -> Any:
    load(rt, document)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    return device


def intent(rt: Runtime) -> dict[str, Any]:
    (row,) = [row for row in rows(rt, run_journal) if (row["step_id"], row["phase"]) == (ASK, "intent")]
    return row["body"]


def test_a_step_sends_whole_values_once_with_its_key(open_rt: Runtime, peer: Peer) -> None:
    device = run_once(open_rt, asking(peer.base))
    (request,) = [request for request in peer.requests if request[0] == "/counter"]
    assert request[2] == {"device": device.id, "hits": 1}
    assert request[1]["idempotency-key"] == f"{one_run(open_rt)['id']}.{ASK}"
    assert decision(open_rt, device) is trust.Answer.QUARANTINE
    assert one_run(open_rt)["outcome"] == "succeeded"


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 409])
def test_a_refusal_or_redirect_is_a_failure_and_never_followed(open_rt: Runtime, peer: Peer, status: int) -> None:
    peer.answers["/counter"] = [status]
    device = run_once(open_rt, asking(peer.base))
    assert [path for path, _, _ in peer.requests if path != "/hook"] == ["/counter"]
    assert decision(open_rt, device) is trust.Answer.ALLOW
    assert one_run(open_rt)["outcome"] == "failed"
    assert len(told(open_rt, "HumanPaged")) == 1


@pytest.mark.parametrize("status", [500, 503, 0])
@pytest.mark.parametrize("happened", [True, False])
def test_an_unclear_answer_of_a_peer_that_counts_is_asked_of_a_human(
    open_rt: Runtime, peer: Peer, status: int, happened: bool
) -> None:
    peer.answers["/counter"] = [status]
    device = run_once(open_rt, asking(peer.base))
    run = one_run(open_rt)
    assert (run["state"], run["guard"]) == ("waiting", "outcome-unknown")
    assert told(open_rt, "RunOutcomeUnknown")[0].step == ASK
    assert len(told(open_rt, "ApprovalNeeded")) == 1
    with pytest.raises(NotWaiting), open_rt.db.write() as connection:
        decisions.approve(open_rt, connection, AN, run_id=run["id"])
    with open_rt.db.write() as connection:
        decisions.resolve(open_rt, connection, AN, run_id=run["id"], happened=happened, note="looked")
    with pytest.raises((NotWaiting, FourEyes)), open_rt.db.write() as connection:
        decisions.resolve(open_rt, connection, BINH, run_id=run["id"], happened=not happened)
    work(open_rt)
    assert one_run(open_rt)["outcome"] == ("succeeded" if happened else "failed")
    assert decision(open_rt, device) is (trust.Answer.QUARANTINE if happened else trust.Answer.ALLOW)
    assert len([1 for path, _, _ in peer.requests if path == "/counter"]) == 1


def test_an_idempotent_peer_is_asked_again_under_the_same_key(open_rt: Runtime, peer: Peer) -> None:
    peer.answers["/idempotent"] = [503, 0]
    device = run_once(open_rt, asking(peer.base, "/idempotent", idempotent=True))
    for minutes in (1, 2, 3):
        with clock.travel(timedelta(minutes=minutes)):
            work(open_rt)
    assert peer.effects(device.id) == (1, 0)
    assert len([1 for path, _, _ in peer.requests if path == "/idempotent"]) == 3
    assert intent(open_rt)["attempt"] == 3
    assert one_run(open_rt)["outcome"] == "succeeded"


def test_an_idempotent_peer_that_stays_away_is_given_up(open_rt: Runtime, peer: Peer) -> None:
    peer.answers["/idempotent"] = [503] * 9
    run_once(open_rt, asking(peer.base, "/idempotent", idempotent=True))
    for minutes in range(1, 9):
        with clock.travel(timedelta(minutes=minutes)):
            work(open_rt)
    assert len([1 for path, _, _ in peer.requests if path == "/idempotent"]) == 4
    assert one_run(open_rt)["outcome"] == "failed"


@pytest.mark.parametrize("base", ["http://127.0.0.2:{port}", "http://127.0.0.1:9", "http://[::1]:{port}"])
def test_what_the_operator_did_not_allow_is_not_reached(open_rt: Runtime, peer: Peer, base: str) -> None:
    device = run_once(open_rt, asking(base.format(port=peer.port)))
    assert [path for path, _, _ in peer.requests if path != "/hook"] == []
    assert one_run(open_rt)["outcome"] == "failed"
    assert decision(open_rt, device) is trust.Answer.ALLOW


def test_a_name_that_resolves_to_loopback_is_not_reached_even_when_the_name_is_allowed(
    open_rt: Runtime, peer: Peer
) -> None:
    named = open_rt.settings.model_copy(update={"outgoing_allow": (f"localhost:{peer.port}",), "webhook_url": ""})
    object.__setattr__(open_rt, "settings", named)
    run_once(open_rt, asking(f"http://localhost:{peer.port}"))
    assert peer.requests == []
    assert one_run(open_rt)["outcome"] == "failed"


def test_propose_mode_sends_nothing_before_approval(open_rt: Runtime, peer: Peer) -> None:
    load(open_rt, asking(peer.base), mode=Mode.PROPOSE)
    raise_alert(open_rt, new_device(open_rt))
    work(open_rt)
    assert [path for path, _, _ in peer.requests if path != "/hook"] == []
    assert one_run(open_rt)["plan"][0]["http"] == f"POST {peer.base}/counter"


# the webhook


def verified(rt: Runtime, headers: dict[str, str], body: str) -> Any:
    return Webhook(webhooks.secret(rt.settings.data)).verify(body, headers)


def test_alert_and_needed_approval_are_posted_signed(open_rt: Runtime, peer: Peer) -> None:
    load(open_rt, mode=Mode.PROPOSE)
    device = new_device(open_rt)
    event_id = raise_alert(open_rt, device)
    work(open_rt)
    found = {verified(open_rt, headers, body)["type"]: (headers, body) for headers, body in peer.hooks()}
    assert set(found) == {"alert.raised", "approval.needed"}
    headers, body = found["alert.raised"]
    assert headers["webhook-id"] == event_id
    assert verified(open_rt, headers, body)["data"]["device_id"] == device.id
    with pytest.raises(WebhookVerificationError):
        verified(open_rt, headers, body.replace("high", "low"))
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 44).verify(body, headers)


def test_a_webhook_is_tried_again_under_the_same_id_and_given_up_in_the_end(open_rt: Runtime, peer: Peer) -> None:
    peer.answers["/hook"] = [500, 302, 0]
    event_id = raise_alert(open_rt, new_device(open_rt))
    for hours in range(5):
        with clock.travel(timedelta(hours=hours)):
            work(open_rt)
    assert [headers["webhook-id"] for headers, _ in peer.hooks()] == [event_id] * 4
    (row,) = rows(open_rt, webhook_deliveries)
    assert (row["state"], row["attempts"], row["last_status"]) == ("delivered", 4, 200)
    peer.answers["/hook"] = [500] * 99
    raise_alert(open_rt, new_device(open_rt, "cam-2"))
    for hours in range(6, 300, 9):
        with clock.travel(timedelta(hours=hours)):
            work(open_rt)
    assert [row["state"] for row in webhook_rows(open_rt)] == ["failed", "delivered"]
    assert webhook_rows(open_rt)[0]["attempts"] == webhooks.TRIES


def webhook_rows(rt: Runtime) -> list[dict[str, Any]]:
    with rt.db.read() as connection:
        return webhooks.listing(connection)


def test_a_webhook_to_a_host_that_is_not_allowed_is_not_sent(open_rt: Runtime, peer: Peer) -> None:
    changed = open_rt.settings.model_copy(update={"outgoing_allow": ()})
    object.__setattr__(open_rt, "settings", changed)
    raise_alert(open_rt, new_device(open_rt))
    work(open_rt)
    assert peer.hooks() == []
    (row,) = rows(open_rt, webhook_deliveries)
    assert (row["state"], row["last_status"]) == ("pending", None)
    assert "socket-refused" in row["last_error"]


def test_without_a_url_nothing_is_queued(rt: Runtime) -> None:
    raise_alert(rt, new_device(rt))
    work(rt)
    assert rows(rt, webhook_deliveries) == []


def test_the_secret_is_made_once_and_for_its_owner_only(rt: Runtime) -> None:
    first = webhooks.secret(rt.settings.data)
    assert webhooks.secret(rt.settings.data) == first
    assert (rt.settings.data / "soar" / "webhook.secret").stat().st_mode & 0o777 == 0o600
