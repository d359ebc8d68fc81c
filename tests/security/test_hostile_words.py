"""Whatever a stranger or a member of the city writes, the people door takes it or names the field: never a 5xx, on both databases.

The honest neighbour beside it is answered all the while.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lachan.identity import Role
from tests.api.support import Town

DEVICE = {"name": "cam-9", "vendor": "acme", "model": "M", "serial_number": "S9", "site": "s"}
#: What is written into a text field, as JSON has it.
TEXTS = {
    "NUL": "\\u0000", "half a pair": "\\ud800", "C1": "\\u0085", "bidi": "\\u202e", "escape": "\\u001b[2J", "isolate": "\\u2067",
}  # fmt: skip
WHOLE = {
    "twice": '{"name": "a", "name": "b", "vendor": "acme", "model": "M", "serial_number": "x", "site": "s"}',
    "deep": "[" * 100_000, "digits": "1" * 5000, "nothing": "", "NaN": '{"name": NaN}', "no object": "[1]", "cut": '{"name":',
}  # fmt: skip
MOMENTS = (
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0000-00-00T00:00:00Z", "10000-01-01T00:00:00Z", "2026-13-01T00:00:00Z",
    "2026-01-01", "-1", "99999999999999999999", "NaN", "1e400", "2026-01-01T00:00:00", "now",
)  # fmt: skip
NUMBERS = ("1_0", " 7", "１", "1e2", "0x10", "9223372036854775808", "-1", "1.5", "")
QUERIES = ("%00", "%1b", "%C2%85", "%E2%80%AE", "%ED%A0%80", "%FF")
PATHS = (
    "/api/v1/devices?q={}", "/api/v1/devices?site={}", "/api/v1/alerts?device_id={}", "/api/v1/runs?device_id={}", "/api/v1/events?device_id={}",
    "/api/v1/events?name={}", "/api/v1/ledger/export?since={}", "/api/v1/ledger/export?vendor={}", "/fleet?q={}", "/search?q={}",
    "/api/v1/devices?cursor={}", "/api/v1/logs?device_id={}", "/api/v1/devices?{}=1",
)  # fmt: skip


@pytest.fixture
def admin(doors: Town) -> Iterator[httpx.Client]:
    session = doors.sign_in("an", Role.ADMIN)
    headers = {**session.headers, "Origin": doors.url("people")}
    with doors.client("people", headers=headers) as client:
        yield client


def refused(answer: httpx.Response, what: object) -> dict[str, Any]:
    """A 4xx that is a problem and names the place."""
    assert 400 <= answer.status_code < 500, (what, answer.status_code, answer.text[:300])
    found: dict[str, Any] = answer.json()
    assert found["title"] and found["detail"], what
    return found


def served(admin: httpx.Client) -> None:
    assert admin.get("/api/v1/devices").status_code == 200


def test_a_body_that_is_not_taken_names_the_field(admin: httpx.Client) -> None:
    send = {"Content-Type": "application/json"}
    for what, text in TEXTS.items():
        for field in ("name", "vendor", "ward", "address"):
            body = json.dumps({**DEVICE, field: "x"}).replace('"x"', f'"a{text}b"')
            found = refused(admin.post("/api/v1/devices", content=body, headers=send), (what, field))
            assert field in json.dumps(found), (what, field, found)
        for path, more in (
            ("/api/v1/containments", {"level": "quarantine", "device_id": "x"}),
            ("/api/v1/tokens", {"name": "x", "days": 1, "roles": ["admin"]}),
        ):
            body = json.dumps({**more, "reason": "y"}).replace('"y"', f'"a{text}b"')
            assert "reason" in json.dumps(refused(admin.post(path, content=body, headers=send), (what, path)))
    for what, body in WHOLE.items():
        for path in (
            "/api/v1/devices",
            "/api/v1/containments",
            "/api/v1/session",
            "/api/v1/engagements",
            "/api/v1/releases",
        ):
            refused(admin.post(path, content=body, headers=send), (what, path))
            refused(
                admin.post(path, content=body, headers={**send, "Idempotency-Key": f"{what}{path}"}),
                (what, path, "key"),
            )
    for kind in (
        send,
        {"Content-Type": "Application/JSON; charset=utf-8"},
        {"Content-Type": "application/merge-patch+json"},
        {},
    ):
        found = refused(admin.post("/api/v1/devices", content=WHOLE["twice"].encode(), headers=kind), ("twice", kind))
        assert found.get("field") == "body.name", kind
    served(admin)


def test_an_absurd_moment_or_number_names_the_field(admin: httpx.Client) -> None:
    for moment in MOMENTS:
        found = refused(admin.get("/api/v1/ledger/export", params={"start": moment}), moment)
        assert "start" in json.dumps(found), moment
        body = {
            "reason": "r", "device_ids": ["x"], "ports": [80], "methods": ["http"], "not_before": moment,
            "not_after": "2026-12-01T00:00:00Z",
        }  # fmt: skip
        assert "not_before" in json.dumps(refused(admin.post("/api/v1/engagements", json=body), moment))
    for number in NUMBERS:
        for path, field in (("/api/v1/devices", "limit"), ("/api/v1/events", "after"), ("/api/v1/events", "limit")):
            assert field in json.dumps(refused(admin.get(path, params={field: number}), (path, number)))
        for path, more, field in (
            ("/api/v1/tokens", {"name": "t", "roles": ["auditor"]}, "days"),
            ("/api/v1/containments", {"device_id": "x", "level": "quarantine", "reason": "r"}, "hours"),
        ):
            found = refused(admin.post(path, json={**more, field: number}), (path, number))
            assert field in json.dumps(found), (path, number, found)
    served(admin)


def test_a_query_with_control_characters_names_the_field(admin: httpx.Client) -> None:
    for word in QUERIES:
        for path in PATHS:
            answer = admin.get(path.format(f"a{word}b"))
            assert answer.status_code in (404, 422), (path, word, answer.status_code, answer.text[:200])
    served(admin)


def test_what_people_really_write_is_taken(admin: httpx.Client) -> None:
    made = admin.post("/api/v1/devices", json={**DEVICE, "ward": "Phường Hàng Bạc", "place": "Ngõ 5 — Phố Huế 👩‍👩‍👧"})
    assert made.status_code == 201, made.text
    assert [one["name"] for one in admin.get("/api/v1/devices?q=h%C3%A0ng%20b%E1%BA%A1c").json()["items"]] == ["cam-9"]
    answer = admin.get("/api/v1/ledger/export?start=2026-01-01T00:00:00%2B07:00")
    assert answer.status_code in (200, 404), "404: nothing is sealed yet"
