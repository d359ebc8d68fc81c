"""Log lines through the real doors, with Elasticsearch's own client, and alerts as people read and work them."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from elasticsearch import ApiError, Elasticsearch, helpers

from api import bulk
from api.pages import encode
from lachan import clock
from lachan.identity import Role, tokens
from lachan.runtime import Runtime
from lachan.work import outbox
from siem_rules import cli, ingest
from tests.api.support import Town
from tests.siem_rules.support import EXPECTED, RECORDING, detect, documents, pairs, raised, shifted


@pytest.fixture
def town(open_rt: Runtime, tmp_path: Path) -> Iterator[Town]:
    """An installation with its doors open."""
    made = Town(open_rt, tmp_path / "authority")
    with made.open():
        yield made


def api_key(town: Town, site: str = "site-1") -> str:
    """What a collector sends behind `ApiKey`."""
    return tokens.api_key(town.token(Role.COLLECTOR, site=site))


def post(town: Town, body: bytes, **headers: str) -> httpx.Response:
    """Deliver as a collector the way curl does, with whatever headers."""
    with town.client("people") as client:
        return client.post("/_bulk", content=body, headers={"Authorization": f"ApiKey {api_key(town)}"} | headers)


def test_device_delivers_through_its_own_identity(town: Town) -> None:
    camera = town.add_device("cam-1")
    credential = town.authority.device(camera)
    with town.client("device", credential) as client:
        answer = client.post("/_bulk", content=shifted(RECORDING))
    assert answer.status_code == 200
    assert answer.headers["x-elastic-product"] == "Elasticsearch"
    assert answer.json()["errors"] is False
    assert len(answer.json()["items"]) == len(pairs(RECORDING.read_bytes()))
    detect(town.rt)
    with town.rt.db.read() as connection:
        facts = [stored.event for stored in outbox.read(connection, names=("AlertRaised",))]
    assert len(facts) == len(EXPECTED)
    assert {(fact.device_id, fact.senders) for fact in facts} == {(camera.id, (f"device:{camera.id}",))}


def test_nobody_delivers_without_identity(town: Town) -> None:
    body = documents({"message": "x"})
    with town.client("device") as client:
        assert client.post("/_bulk", content=body).status_code == 401
    reader = town.token(Role.AUDITOR)
    with town.client("people") as client:
        assert client.post("/_bulk", content=body).status_code == 401
        assert (
            client.post("/_bulk", content=body, headers={"Authorization": "ApiKey bm9ib2R5Om5vdGhpbmc="}).status_code
            == 401
        )
        assert client.post("/_bulk", content=body, headers={"Authorization": f"Bearer {reader}"}).status_code == 403
    assert ingest.backlog(town.rt) == 0


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_elasticsearch_client_delivers_twice_and_counts_once(town: Town, compress: bool) -> None:
    body = shifted(RECORDING)
    client = Elasticsearch(
        town.url("people"),
        api_key=api_key(town),
        ca_certs=str(town.authority.file),
        http_compress=compress,
        request_timeout=30,
    )
    try:
        actions = [
            json.loads(action)["create"] | {"_op_type": "create", "_source": json.loads(line)}
            for action, line in pairs(body)
        ]
        assert helpers.bulk(client, actions) == (len(actions), [])
        assert helpers.bulk(client, actions) == (len(actions), []), "a repetition is answered as the first was"
        one = client.bulk(index="logs-x", operations=[{"create": {}}, {"message": "hello"}])
        assert one["items"][0]["create"]["_index"] == "logs-x"
        with pytest.raises(ApiError) as refused:
            client.bulk(operations="nonsense\n{}\n")
        assert refused.value.status_code == 400
        assert refused.value.body["error"]["type"] == "illegal_argument_exception"
    finally:
        client.close()
    detect(town.rt)
    assert raised(town.rt) == Counter(EXPECTED)


def test_batch_key_of_the_header_counts_once(town: Town) -> None:
    line = {
        "@timestamp": clock.iso(clock.now()),
        "message": "Nov 22 16:18:57 camera authpriv.warn dropbear[53]: Bad password attempt for 'root' from 198.51.100.23:1",
    }
    body = documents(*[line] * 6)
    key = {
        "Authorization": f"ApiKey {api_key(town)}",
        "Idempotency-Key": "batch-1",
        "Content-Type": "application/x-ndjson",
    }
    with town.client("people") as client:
        first, again = (client.post("/_bulk", content=body, headers=key) for _ in range(2))
    assert {item["create"]["status"] for item in first.json()["items"]} == {201}
    assert {item["create"]["status"] for item in again.json()["items"]} == {201}
    assert detect(town.rt).counters["events"] == 6


def test_gzip_that_is_no_gzip_or_a_bomb_is_refused(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = {"Content-Encoding": "gzip"}
    assert post(town, b"nonsense", **encoded).status_code == 400
    assert post(town, gzip.compress(documents({"message": "x"}))[:-9], **encoded).status_code == 400
    assert post(town, b"x", **{"Content-Encoding": "br"}).status_code == 415
    monkeypatch.setattr(bulk, "BODY", 1 << 20)
    bomb = zlib.compress(b"\n" * (16 << 20), wbits=31)
    answer = post(town, bomb, **encoded)
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "content_too_long_exception"
    assert ingest.backlog(town.rt) == 0


def test_full_backlog_says_when_to_come_again(town: Town) -> None:
    ingest.instance(town.rt)._high_water = 10
    assert post(town, documents({"message": "x" * 100})).status_code == 200
    ingest.instance(town.rt)._checked = 0.0
    answer = post(town, documents({"message": "y"}))
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"]["type"] == "es_rejected_execution_exception"


def test_people_read_and_work_alerts(town: Town) -> None:
    camera = town.add_device("cam-1", vendor="acme")
    credential = town.authority.device(camera)
    with town.client("device", credential) as client:
        client.post("/_bulk", content=shifted(RECORDING))
    detect(town.rt)
    analyst, maker = town.sign_in("an", Role.ANALYST), town.sign_in("maker", Role.MANUFACTURER, vendor="acme")
    with town.client("people", headers=analyst.headers) as client:
        first = client.get("/api/v1/alerts", params={"limit": 3}).json()
        rest = client.get("/api/v1/alerts", params={"limit": 3, "cursor": first["next"]}).json()
        assert (len(first["items"]), len(rest["items"]), rest["next"]) == (3, 2, None)
        ids = [item["id"] for item in first["items"] + rest["items"]]
        assert len(set(ids)) == 5
        one = client.get(f"/api/v1/alerts/{ids[0]}").json()
        assert one["evidence"]
        assert one["why"]["rule"]["title"] == one["rule_title"]
        assert client.post(f"/api/v1/alerts/{ids[0]}/acknowledge").json()["state"] == "acknowledged"
        assert client.post(f"/api/v1/alerts/{ids[0]}/assign", json={"assignee": "an"}).json()["assignee"] == "an"
        commented = client.post(f"/api/v1/alerts/{ids[0]}/comments", json={"text": "xem ngay"})
        assert commented.status_code == 201
        assert [(c["author"], c["text"]) for c in commented.json()["comments"]] == [("person:an", "xem ngay")]
        assert client.post(f"/api/v1/alerts/{ids[0]}/close", json={"verdict": "nonsense"}).status_code == 422
        assert (
            client.post(f"/api/v1/alerts/{ids[0]}/close", json={"verdict": "true_positive"}).json()["state"] == "closed"
        )
        assert client.post(f"/api/v1/alerts/{ids[0]}/acknowledge").status_code == 409
        assert client.post(f"/api/v1/alerts/{ids[0]}/comments", json={"text": "later"}).status_code == 201
        assert client.get("/api/v1/alerts/none").status_code == 404
        assert len(client.get("/api/v1/alerts", params={"state": "closed"}).json()["items"]) == 1
        for wrong in (
            {"state": "x"},
            {"severity": "loud"},
            {"device_id": "\x00"},
            {"cursor": encode(("no time", ids[0]))},
        ):
            assert client.get("/api/v1/alerts", params=wrong).status_code == 422, wrong
        assert client.post(f"/api/v1/alerts/{ids[0]}/comments", json={"text": "a\x00b"}).status_code == 422
        assert {rule["name"] for rule in client.get("/api/v1/rules").json()["items"]} >= set(EXPECTED)
        assert client.get("/api/v1/rules/loader_fetch").json()["outcome"] == "success"
        assert client.get("/api/v1/rules/none").status_code == 404
        lines = client.get("/api/v1/logs", params={"device_id": camera.id, "limit": 2}).json()["items"]
        assert [line["sender"] for line in lines] == [f"device:{camera.id}"] * 2
    with town.client("people", headers=maker.headers) as client:
        assert client.get("/api/v1/alerts").status_code == 403
        assert client.get(f"/api/v1/alerts/{ids[0]}").status_code == 403
    with town.rt.db.read() as connection:
        names = [stored.name for stored in outbox.read(connection, limit=500) if stored.name.startswith("Alert")]
    assert Counter(names) == {
        "AlertRaised": 5, "AlertAcknowledged": 1, "AlertAssigned": 1, "AlertCommented": 2, "AlertClosed": 1,
    }  # fmt: skip


def test_command_line_sends_lists_shows_and_tails(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text(town.token(Role.COLLECTOR, site="site-1") + "\n", "utf-8")
    data = ["--data", str(town.rt.settings.data)]
    (town.rt.settings.data / "initialised").touch()
    sent = [
        "send",
        str(RECORDING),
        "--url",
        town.url("people"),
        "--token-file",
        str(token),
        "--ca",
        str(town.authority.file),
        "--shift-to",
        "now",
    ]
    assert cli.logs([*sent, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"delivered": len(pairs(RECORDING.read_bytes())), "refused": []}
    detect(town.rt)
    assert cli.alerts(["list", "--json", *data]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == len(EXPECTED)
    assert cli.alerts(["show", found[0]["id"], *data]) == 0
    assert "evidence:" in capsys.readouterr().out
    assert cli.alerts(["ack", found[0]["id"], "--json", *data]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "acknowledged"
    assert cli.logs(["tail", "--limit", "3", *data]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    token.write_text("wrong", "utf-8")
    with pytest.raises(cli.NotDelivered):
        cli.logs(sent)
