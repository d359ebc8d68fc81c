"""Signing in, sessions, tokens, CSRF, the registry, pages, ETags and repeated writes, over real TLS."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pytest
import sqlalchemy as sa

from api.models import idempotency_keys
from api.people.access import COOKIE
from lachan import clock, trust
from lachan.identity import Role, people, tokens
from lachan.ledger.models import leaves
from lachan.work import outbox
from lachan.work.outbox import events
from tests.api.support import SETUP, Town

DEVICE = {"name": "cam-9", "vendor": "acme", "model": "m1", "serial_number": "sn-9", "site": "site-1"}


@pytest.fixture
def web(doors: Town):
    with doors.client("people") as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def stored(town: Town, name: str) -> list:
    with town.rt.db.read() as connection:
        return [found for found in outbox.read(connection, limit=1000) if found.name == name]


def test_a_link_signs_in_once_and_the_session_ends_when_told(doors: Town, web: httpx.Client) -> None:
    with doors.rt.db.write() as connection:
        people.add(connection, name="an", roles=[Role.ANALYST], actor=SETUP)
        link = people.make_link(connection, doors.rt.settings.data, name="an", actor=SETUP)
    assert web.get("/api/v1/session").status_code == 401
    answer = web.post("/api/v1/session", json={"token": link})
    assert answer.status_code == 201 and answer.json()["roles"] == ["analyst"]
    cookie = answer.headers["set-cookie"]
    for word in (f"{COOKIE}=", "HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert word in cookie
    assert "no-store" in answer.headers["cache-control"]
    again = web.post("/api/v1/session", json={"token": link})
    assert (again.status_code, again.json()["code"]) == (410, "bad-link")
    assert web.get("/api/v1/session").json()["name"] == "an"
    secret = web.cookies[COOKIE]
    assert web.delete("/api/v1/session").json()["code"] == "bad-csrf"
    ended = web.delete("/api/v1/session", headers={"X-CSRF-Token": answer.json()["csrf"]})
    assert ended.status_code == 204
    assert web.get("/api/v1/session", headers={"Cookie": f"{COOKIE}={secret}"}).status_code == 401  # on the server too


def test_an_old_link_and_an_idle_session_do_not_work(doors: Town, web: httpx.Client) -> None:
    session = doors.sign_in("an", Role.ANALYST)
    with doors.rt.db.write() as connection:
        link = people.make_link(connection, doors.rt.settings.data, name="an", actor=SETUP)
    with clock.travel(timedelta(minutes=16)):
        assert web.post("/api/v1/session", json={"token": link}).status_code == 410
        assert web.get("/api/v1/devices", headers=session.headers).status_code == 200
    with clock.travel(timedelta(hours=3)):
        assert web.get("/api/v1/devices", headers=session.headers).status_code == 401


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 201),
        ({"X-CSRF-Token": None}, 403),
        ({"X-CSRF-Token": "wrong"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
    ],
)
def test_a_write_by_cookie_must_come_from_our_page(doors: Town, web: httpx.Client, change: dict, status: int) -> None:
    headers = doors.sign_in("boss", Role.ADMIN).headers | change
    headers = {name: value for name, value in headers.items() if value is not None}
    assert web.post("/api/v1/devices", json=DEVICE, headers=headers).status_code == status
    own = web.base_url.copy_with(path="").__str__().rstrip("/")
    assert web.get("/api/v1/devices", headers=headers | {"Origin": own}).status_code == 200


def test_tokens_work_until_revoked_or_expired(doors: Town, web: httpx.Client) -> None:
    token = doors.token(Role.PLATFORM)
    assert web.get("/api/v1/devices", headers=bearer(token)).status_code == 200
    key = {"Authorization": f"ApiKey {tokens.api_key(token)}"}
    assert web.get("/api/v1/devices", headers=key).status_code == 200
    assert web.post("/api/v1/devices", json=DEVICE, headers=bearer(token)).status_code == 201  # no CSRF for machines
    for wrong in (token[:-1] + "x", token + "0", "lachan_x_y_z", "x" * 5000):
        answer = web.get("/api/v1/devices", headers=bearer(wrong))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for header in ("Basic YTpi", "ApiKey !!!", "Bearer", "x"):
        assert web.get("/api/v1/devices", headers={"Authorization": header}).status_code == 401
    with clock.travel(timedelta(days=2)):
        assert web.get("/api/v1/devices", headers=bearer(token)).status_code == 401
    boss = doors.sign_in("boss", Role.ADMIN)
    assert web.delete(f"/api/v1/tokens/{tokens.parse(token)[0]}", headers=boss.headers).status_code == 204
    assert web.get("/api/v1/devices", headers=bearer(token)).status_code == 401  # with the very next request


def test_an_issued_token_is_shown_once(doors: Town, web: httpx.Client) -> None:
    boss = doors.sign_in("boss", Role.ADMIN)
    wish = {"name": "ward 12", "roles": ["collector"], "site": "site-1", "days": 30}
    headers = boss.headers | {"Idempotency-Key": "k1"}
    made = web.post("/api/v1/tokens", json=wish, headers=headers)
    assert made.status_code == 201 and made.headers["cache-control"] == "no-store"
    again = web.post("/api/v1/tokens", json=wish, headers=headers)
    assert (again.status_code, again.json()["code"]) == (409, "shown-once")
    listed = web.get("/api/v1/tokens", headers=boss.headers).json()["items"]
    assert [found["name"] for found in listed] == ["ward 12"]
    with doors.rt.db.read() as connection:
        kept = connection.execute(sa.select(idempotency_keys)).mappings().all()
    assert made.json()["token"] not in repr(kept)


def test_the_registry(doors: Town, web: httpx.Client) -> None:
    boss = doors.sign_in("boss", Role.ADMIN)
    made = web.post("/api/v1/devices", json=DEVICE, headers=boss.headers)
    assert made.status_code == 201 and made.json()["criticality"] == "unknown"
    place = made.headers["location"]
    assert web.post("/api/v1/devices", json=DEVICE, headers=boss.headers).json()["code"] == "already-registered"
    bad = web.post("/api/v1/devices", json=DEVICE | {"name": "Not A Name"}, headers=boss.headers)
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid")
    assert bad.json()["faults"][0]["where"] == "body.name"
    read = web.get(place, headers=boss.headers)
    assert web.get(place, headers=boss.headers | {"If-None-Match": read.headers["etag"]}).status_code == 304
    change = {"criticality": "life_safety"}
    stale = web.patch(place, json=change, headers=boss.headers | {"If-Match": '"old"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "device-changed-meanwhile")
    done = web.patch(place, json=change, headers=boss.headers | {"If-Match": read.headers["etag"]})
    assert done.json()["criticality"] == "life_safety" and done.headers["etag"] != read.headers["etag"]
    ended = web.post(place + "/retire", json={"reason": "replaced"}, headers=boss.headers)
    assert ended.json()["state"] == "retired"
    timeline = web.get(place + "/timeline", headers=boss.headers).json()["items"]
    assert [found["name"] for found in timeline] == ["DeviceRetired", "DeviceChanged", "DeviceRegistered"]
    assert timeline[1]["actor"] == "person:boss"
    assert web.get("/api/v1/devices/none", headers=boss.headers).status_code == 404


def test_pages_show_every_device_once_although_more_come(doors: Town, web: httpx.Client) -> None:
    token = bearer(doors.token(Role.PLATFORM))
    for number in range(7):
        doors.add_device(f"cam-{number}")
    seen, cursor = [], ""
    while cursor is not None:
        page = web.get("/api/v1/devices", params={"limit": 3, "cursor": cursor}, headers=token).json()
        seen += [found["name"] for found in page["items"]]
        cursor = page["next"]
        if len(seen) == 3:
            doors.add_device("aaa")  # before what was shown: neither repeats nor hides anything
    assert seen == [f"cam-{number}" for number in range(7)]
    for wrong in ("x", "eyJ9", "WzFd", "WyJhIiwiYiJd", "WzEuNV0", "W251bGxd", "%00", "a" * 513):
        assert web.get("/api/v1/devices", params={"cursor": wrong}, headers=token).status_code == 422, wrong
    found = web.get("/api/v1/devices", params={"q": "cam-3"}, headers=token).json()["items"]
    assert [device["name"] for device in found] == ["cam-3"]


def test_a_repeated_write_is_done_once(doors: Town, web: httpx.Client) -> None:
    token = bearer(doors.token(Role.PLATFORM))
    other = bearer(doors.token(Role.PLATFORM))
    key = {"Idempotency-Key": "01890000-0000-7000-8000-000000000001"}
    first = web.post("/api/v1/devices", json=DEVICE, headers=token | key)
    again = web.post("/api/v1/devices", json=DEVICE, headers=token | key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json() and again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true" and "idempotency-replayed" not in first.headers
    assert len(stored(doors, "DeviceRegistered")) == 1
    changed = web.post("/api/v1/devices", json=DEVICE | {"name": "cam-8"}, headers=token | key)
    assert (changed.status_code, changed.json()["code"]) == (422, "key-reused")
    assert web.post("/api/v1/devices", json=DEVICE, headers=other | key).status_code == 409  # another's key: done anew
    for wrong in ("", "x" * 256):
        refused = web.post("/api/v1/devices", json=DEVICE, headers=token | {"Idempotency-Key": wrong})
        assert refused.json()["code"] == "key-malformed"
    failing = {"Idempotency-Key": "second"}
    assert web.post("/api/v1/devices", json={}, headers=token | failing).status_code == 422
    better = DEVICE | {"name": "cam-7", "serial_number": "sn-7"}
    assert (
        web.post("/api/v1/devices", json=better, headers=token | failing).status_code == 201
    )  # a failure keeps no key
    with clock.travel(timedelta(days=1, minutes=1)):
        fresh = doors.token(Role.PLATFORM)
        more = DEVICE | {"name": "cam-6", "serial_number": "sn-6"}
        assert (
            web.post("/api/v1/devices", json=more, headers=bearer(fresh) | {"Idempotency-Key": "third"}).status_code
            == 201
        )
    with doors.rt.db.read() as connection:
        assert len(connection.execute(sa.select(idempotency_keys)).all()) == 1  # the old ones were forgotten


def test_racing_writes_with_one_key_are_done_once(doors: Town) -> None:
    headers = bearer(doors.token(Role.PLATFORM)) | {"Idempotency-Key": "race"}
    start = threading.Barrier(8)

    def write(number: int) -> int:
        with doors.client("people") as client:
            client.get("/livez")
            start.wait()
            return client.post("/api/v1/devices", json=DEVICE, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(write, range(8)))
    assert set(statuses) <= {201, 409} and 201 in statuses
    assert len(stored(doors, "DeviceRegistered")) == 1


def test_a_write_whose_outcome_nobody_knows_is_not_repeated(doors: Town, web: httpx.Client) -> None:
    """As after a kill between the write and the keeping of its answer."""
    token = doors.token(Role.PLATFORM)
    headers = bearer(token) | {"Idempotency-Key": "lost"}
    assert web.post("/api/v1/devices", json=DEVICE, headers=headers).status_code == 201
    with doors.rt.db.write() as connection:
        connection.execute(idempotency_keys.update().values(status=None, headers=None, body=None))
    assert web.post("/api/v1/devices", json=DEVICE, headers=headers).json()["code"] == "still-running"


def test_what_auditors_read_is_recorded_once(doors: Town, web: httpx.Client) -> None:
    auditor, analyst = doors.sign_in("audrey", Role.AUDITOR), doors.sign_in("an", Role.ANALYST)
    for _ in range(5):
        assert web.get("/api/v1/devices", headers=auditor.headers).status_code == 200
        web.get("/api/v1/events", headers=auditor.headers)
        web.get("/api/v1/devices", headers=analyst.headers)
    found = [(event.event.user, event.event.resource) for event in stored(doors, "AuditorRead")]
    assert found == [("audrey", "/api/v1/devices"), ("audrey", "/api/v1/events")]
    assert web.post("/api/v1/devices", json=DEVICE, headers=auditor.headers).status_code == 403


def test_the_feed_is_in_the_ledgers_order_and_skips_nothing(doors: Town, web: httpx.Client) -> None:
    """A fact with a lower number that is sealed later comes later, not never."""
    token = bearer(doors.token(Role.PLATFORM))
    for number in range(3):
        doors.add_device(f"cam-{number}")
    with doors.rt.db.write() as connection:
        rows = connection.execute(sa.select(events.c.seq, events.c.leaf_hash).order_by(events.c.seq)).all()
        order = [*rows[:1], *rows[2:], rows[1]]
        for place, row in enumerate(order):
            connection.execute(leaves.insert().values(leaf_index=place, event_seq=row.seq, leaf_hash=row.leaf_hash))
    seen, after = [], 0
    for _ in range(10):
        feed = web.get("/api/v1/events", params={"after": after, "limit": 2}, headers=token).json()
        seen += [event["seq"] for event in feed["events"]]
        after = feed["next"]
    assert seen == [row.seq for row in order]
    assert after == len(order)


def test_the_trust_decision_comes_with_its_reasons(doors: Town, web: httpx.Client) -> None:
    from lachan.trust import Answer
    from tests.api.test_device_access import contain

    token, camera = bearer(doors.token(Role.PLATFORM)), doors.add_device("cam-1")
    place = f"/api/v1/trust/{camera.id}"
    assert web.get(place, headers=token).json()["answer"] == "allow"
    contain(doors, camera.id, Answer.QUARANTINE)
    found = web.get(place, headers=token).json()
    assert (found["answer"], found["reasons"][0]["ref"]) == ("quarantine", "c1")


def test_every_answer_carries_its_headers_and_failures_are_problems(
    doors: Town, web: httpx.Client, monkeypatch
) -> None:
    boss = doors.sign_in("boss", Role.ADMIN)
    answer = web.get("/api/v1/devices", headers=boss.headers)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    for name in ("strict-transport-security", "x-content-type-options", "referrer-policy", "x-request-id", "etag"):
        assert name in answer.headers
    assert "server" not in answer.headers
    assert web.get("/livez", headers={"X-Request-Id": "trace-0001"}).headers["x-request-id"] == "trace-0001"
    assert web.get("/livez", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/livez", 405), ("GET", "/api/v1/devices", 401)):
        refused = web.request(method, path)
        assert refused.headers["content-type"] == "application/problem+json", path
        assert (refused.status_code, refused.json()["status"], refused.json()["instance"]) == (status, status, path)
        assert refused.json()["request_id"] == refused.headers["x-request-id"]
    huge = web.post("/api/v1/devices", content=b"x" * (1024 * 1024 + 1), headers=boss.headers)
    assert (huge.status_code, huge.json()["code"]) == (413, "too-large")

    def chunks():
        for _ in range(20):
            yield b"[" * 100_000

    kind = {"Content-Type": "application/json"}
    assert web.post("/api/v1/devices", content=chunks(), headers=boss.headers | kind).status_code == 413
    assert web.post("/api/v1/devices", content=b"[" * 100_000, headers=boss.headers | kind).status_code in (400, 422)
    monkeypatch.setattr("lachan.devices.find", lambda *_, **__: 1 / 0)
    broken = web.get("/api/v1/devices", headers=boss.headers)
    assert broken.status_code == 500
    assert set(broken.json()) == {"type", "title", "status", "detail", "code", "hint", "instance", "request_id"}
    assert "zero" not in broken.text


def test_health_and_metrics(doors: Town, web: httpx.Client, monkeypatch) -> None:
    assert web.get("/livez").json() == {"status": "ok"}
    ready = web.get("/readyz")
    assert ready.status_code == 200
    assert {"database", "disk", "clock", "sealing", "signer", "crl", "tuf", "detector", "reconciler"} <= set(
        ready.json()["checks"]
    )
    assert web.get("/metrics").status_code == 401
    text = web.get("/metrics", headers=bearer(doors.token(Role.PLATFORM))).text
    assert 'lachan_requests_total{door="people",route="/readyz",status="200"}' in text
    with doors.rt.db.read() as connection:
        facts, held = outbox.newest(connection), trust.contained(connection)
    assert f"lachan_events {float(facts)}" in text
    assert facts > 0
    assert f"lachan_contained_devices {float(held)}" in text
    assert "lachan_jobs_poisoned 0.0" in text
    assert 'lachan_health{check="database"} 1.0' in text

    def gone(*_, **__):
        raise sa.exc.OperationalError("", {}, Exception("away"))

    monkeypatch.setattr(type(doors.rt.db), "read", gone)
    away = web.get("/readyz")
    assert (away.status_code, away.json()["checks"]["database"]) == (503, "wrong")
    assert "does not answer" in away.json()["detail"]
    assert web.get("/livez").status_code == 200


def test_the_status_door_knows_nobody(doors: Town) -> None:
    with doors.client("status") as client:
        answer = client.get("/api/v1/devices")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
