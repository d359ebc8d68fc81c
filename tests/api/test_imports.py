"""Imports at the people door: 202 and a place to look, how far it is, what was refused; repetitions and hostile bodies."""

import csv
import io
import json
from typing import Any

import httpx
import pytest

from lachan.identity import Role
from lachan.work.worker import Worker
from tests.api.support import Town
from tests.api.test_people import bearer, web  # noqa: F401
from tests.lachan.test_importing import HEADER, HOSTILE_ROWS, table

CSV = {"Content-Type": "text/csv"}
PATH = "/api/v1/devices/import"


def test_a_file_is_validated_answered_and_applied_afterwards(doors: Town, web: httpx.Client) -> None:  # noqa: F811
    token = bearer(doors.token(Role.MANUFACTURER, vendor="acme"))
    rows = "cam-1,acme,m1,s1,site-1\nCAM 2,acme,m1,s2,site-1\n=1,bolt,,s3,site-1\ncam-1,acme,m1,s4,site-1\n"
    answer = web.post(PATH, content=f"{HEADER}\n{rows}", headers=token | CSV)
    assert answer.status_code == 202
    begun = answer.json()
    assert (begun["state"], begun["rows"], begun["done"], begun["accepted"]) == ("applying", 4, 3, 0)
    assert [row["row"] for row in begun["first_rejected"]] == [3, 4, 5]

    place = answer.headers["location"]
    before = web.get(place, headers=token)
    assert before.json() == begun
    assert Worker(doors.rt).run_due() >= 1
    after = web.get(place, headers=token | {"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    done = after.json()
    assert (done["state"], done["done"], done["accepted"], done["rejected"]) == ("done", 4, 1, 3)
    assert len(done["merkle_root"]) == 64
    unchanged = web.get(place, headers=token | {"If-None-Match": after.headers["etag"]})
    assert unchanged.status_code == 304

    refused = web.get(done["rejected_csv"], headers=token)
    assert refused.headers["content-type"] == "text/csv; charset=utf-8"
    back = list(csv.DictReader(io.StringIO(refused.text)))
    assert [row["row"] for row in back] == ["3", "4", "5"]
    assert back[1]["name"] == "'=1" and "model: Field required" in back[1]["reason"]
    assert [found["name"] for found in web.get("/api/v1/devices", headers=token).json()["items"]] == ["cam-1"]


def test_the_same_file_or_key_is_the_same_import(doors: Town, web: httpx.Client) -> None:  # noqa: F811
    token, key = bearer(doors.token(Role.PLATFORM)), {"Idempotency-Key": "k"}

    def place(text: str, headers: dict[str, str]) -> str:
        answer = web.post(PATH, content=text, headers=token | CSV | headers)
        assert answer.status_code == 202
        return answer.headers["location"]

    first = place(table(3), key)
    assert place(table(3), {}) == first  # while it is open
    Worker(doors.rt).run_due()
    assert place(table(3), key) == first
    assert place(table(3), {}) != first
    other = web.post(PATH, content=table(4), headers=token | CSV | key)
    assert (other.status_code, other.json()["code"]) == (422, "key-reused")
    for bad in ("", "x" * 256):
        answer = web.post(PATH, content=table(4), headers=token | CSV | {"Idempotency-Key": bad})
        assert answer.status_code == 422, bad
    listed = web.get("/api/v1/imports?limit=1", headers=token).json()
    assert [one["rejected"] for one in listed["items"]] == [3]  # what is registered already
    following = web.get(f"/api/v1/imports?limit=1&cursor={listed['next']}", headers=token).json()
    assert following["items"][0]["id"] == first.rpartition("/")[2] and following["next"] is None


@pytest.mark.parametrize("body", [b"\xff\xfe", b"", b"vendor,model\na,b\n", b"name," + b"a" * (2 << 20)])
def test_what_is_no_table_is_refused_at_once(doors: Town, web: httpx.Client, body: bytes) -> None:  # noqa: F811
    answer = web.post(PATH, content=body, headers=bearer(doors.token(Role.PLATFORM)) | CSV)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad-file")
    assert web.get("/api/v1/imports", headers=bearer(doors.token(Role.PLATFORM))).json()["items"] == []


def test_hostile_rows_are_refused_and_never_an_error_of_ours(doors: Town, web: httpx.Client) -> None:  # noqa: F811
    token = bearer(doors.token(Role.PLATFORM))
    good = {"vendor": "A", "model": "m", "site": "s"}
    for number, row in enumerate(HOSTILE_ROWS):
        mine: dict[str, Any] = {"name": f"cam-{number}", "serial_number": f"{number}", **good}
        in_json = row[0] in "{["
        text = f"{json.dumps(mine)}\n{row}\n" if in_json else f"{','.join(mine)}\n{','.join(mine.values())}\n{row}\n"
        kind = {"Content-Type": "application/x-ndjson" if in_json else "text/csv"}
        answer = web.post(PATH, content=text.encode(), headers=token | kind)
        assert (answer.status_code, answer.json()["rows"], answer.json()["rejected"]) == (202, 2, 1), row[:40]
        assert web.get(answer.json()["rejected_csv"], headers=token).status_code == 200
    Worker(doors.rt).run_due()
    assert {one["accepted"] for one in web.get("/api/v1/imports", headers=token).json()["items"]} == {1}


def test_imports_of_others_are_not_found(doors: Town, web: httpx.Client) -> None:  # noqa: F811
    acme, bolt = (bearer(doors.token(Role.MANUFACTURER, vendor=vendor)) for vendor in ("acme", "bolt"))
    place = web.post(PATH, content=table(1), headers=acme | CSV).headers["location"]
    assert web.get(place, headers=acme).status_code == 200
    for path in (place, place + "/rejected", "/api/v1/imports/none"):
        assert web.get(path, headers=bolt).status_code == 404
    assert web.get("/api/v1/imports", headers=bolt).json()["items"] == []
