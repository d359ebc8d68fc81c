"""The console's pages: every one in both languages, within its policy, inert, narrowed to the reader, usable without script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from api.people.access import COOKIE
from api.people.console import labels, language, markup, timeline
from lachan import clock
from lachan.database import metadata
from lachan.identity import Role
from lachan.identity.secrets import make_pepper
from lachan.runtime import Runtime
from lachan.settings import Settings
from siem_rules.logs import Line
from tests.api.console_town import Console, furnish
from tests.api.support import Town

PAGES = (
    "/", "/fleet", "/fleet?decision=quarantine", "/fleet?decision=unknown", "/fleet?q=nothing-like-it",
    "/devices/{cam_0042}", "/devices/{meter_0100}", "/devices/{cam_0042}?kind=log", "/devices/{cam_0042}/posture",
    "/devices/{cam_0043}/posture", "/alerts", "/alerts?state=closed", "/alerts/{alert}", "/alerts/{unbound}", "/runs",
    "/runs?state=ended", "/runs/{run}", "/containments", "/containments?state=ended", "/containments/{containment}",
    "/containments/{waiting}", "/posture", "/posture?by=ward", "/posture?by=criterion", "/firmware",
    "/firmware?state=halted", "/firmware/{release}", "/authorities", "/ledger",
)  # fmt: skip
FOREIGN = ("Sông Hồng IoT", "gate-0007", "meter-0100", "SH-G1")
VENDOR = "Thăng Long Vision"


class Page(HTMLParser):
    """What a browser would take from a page: elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A furnished town for tests that only read."""
    folder = tmp_path_factory.mktemp("console")
    data = folder / "data"
    data.mkdir(mode=0o700)
    make_pepper(data)
    rt = Runtime.open(Settings.load(data, database_url="", people_port=0, device_port=0, status_port=0))
    metadata.create_all(rt.db.engine)
    with _open(_people(furnish(Town(rt, folder / "authority")))) as made:
        yield made
    rt.close()


@pytest.fixture
def console(town: Town) -> Iterator[Console]:
    """A furnished town for tests that write."""
    with _open(_people(furnish(town))) as made:
        yield made


@contextmanager
def _open(made: Console) -> Iterator[Console]:
    with made.town.open(), ExitStack() as closing:
        made.browsers = closing
        yield made


def _people(made: Console) -> Console:
    for name, roles, vendor in (
        ("an", (Role.ANALYST,), None), ("binh", (Role.APPROVER,), None), ("chi", (Role.APPROVER, Role.ANALYST), None),
        ("kiem", (Role.AUDITOR,), None), ("quan", (Role.ADMIN,), None), ("hang", (Role.MANUFACTURER,), VENDOR),
    ):  # fmt: skip
        made.people[name] = made.town.sign_in(name, *roles, vendor=vendor)
    return made


def web(made: Console, name: str = "", **headers: str) -> httpx.Client:
    """Somebody's browser: it has the cookie and nothing else of the session."""
    client = made.browsers.enter_context(made.town.client("people", headers=headers))
    if name:
        client.headers["cookie"] = f"{COOKIE}={made.people[name].secret}"
    return client


def address(made: Console, template: str) -> str:
    return template.format(**made.ids, **{name.replace("-", "_"): d.id for name, d in made.devices.items()})


def pages(made: Console, name: str, **headers: str) -> Iterator[tuple[str, str]]:
    client = web(made, name, **headers)
    for template in PAGES:
        answer = client.get(address(made, template))
        assert answer.status_code == 200, (template, answer.status_code, answer.text[:300])
        yield template, answer.text


def form(made: Console, who: str, **fields: str) -> dict[str, str]:
    return {"csrf": made.people[who].csrf, **fields}


def test_every_page_renders_in_both_languages_and_stays_small(city: Console) -> None:
    for lang in language.LANGUAGES:
        for template, text in pages(city, "chi", **{"Accept-Language": f"{lang}-VN,{lang};q=0.9,fr;q=0.1"}):
            page = Page(text)
            assert page.all("html")[0]["lang"] == lang, template
            assert len(text.encode()) < 100_000, template
            assert len(page.all("h1")) == 1, template


def test_no_page_in_vietnamese_says_a_sentence_of_ours_in_english(city: Console) -> None:
    known = language.catalogue("vi")
    spoken = {text for group in labels.LABELS.values() for text in group.values()} | set(labels.SAID.values())
    assert all(known.gettext(text) != text or text == "firmware" for text in spoken)
    english = (
        "Needs a person",
        "What happened",
        "Certificates",
        "Evidence",
        "approved",
        "Posture of",
        "Who decided",
        "ago<",
    )
    for template, text in pages(city, "binh", **{"Accept-Language": "vi"}):
        seen = Page(text).text
        assert not [phrase for phrase in english if phrase in seen], template


def test_the_language_follows_address_then_cookie_then_browser(city: Console) -> None:
    client = web(city, **{"Accept-Language": "vi;q=0.3,en;q=0.2"})
    assert 'lang="vi"' in client.get("/sign-in").text
    chosen = client.get("/sign-in?lang=en")
    assert 'lang="en"' in chosen.text and "lachan-lang=en" in chosen.headers["set-cookie"]
    assert "Secure" in chosen.headers["set-cookie"]
    assert '<html lang="en">' in client.get("/sign-in").text  # remembered
    assert "set-cookie" not in client.get("/sign-in?lang=xx").headers
    for strange in ("", "*", "de,fr", "vi;q=x,en", "en;q=0,vi;q=0"):
        assert client.get("/sign-in", headers={"Accept-Language": strange}).status_code == 200


def test_a_strict_policy_and_nothing_inline_or_foreign(city: Console) -> None:
    answer = web(city, "an").get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["referrer-policy"] == "same-origin" and answer.headers["cache-control"] == "no-store"
    for template, text in [*pages(city, "chi"), ("/sign-in", web(city).get("/sign-in").text)]:
        page = Page(text)
        assert not page.all("style"), template
        assert all(script.get("src", "").startswith("/static/") for script in page.all("script")), template
        for tag, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (template, tag)
            for name in ("href", "src", "action", "hx-get", "formaction"):
                assert (attributes.get(name) or "/").startswith(("/", "#")), (template, attributes)
    config = next(m for m in Page(answer.text).all("meta") if m.get("name") == "htmx-config")["content"]
    assert '"allowEval": false' in config and '"includeIndicatorStyles": false' in config


def test_what_an_attacker_wrote_is_inert_everywhere(city: Console) -> None:
    shown = 0
    for template, text in pages(city, "chi"):
        page = Page(text)
        assert "<script>alert" not in text and "<b>x</b>" not in text, template
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00-\x08\x0b-\x1f\x7f]", text), template
        assert not [a for a in page.all("a") if "evil" in (a.get("href") or "")], template
        shown += "U+202E" in page.text and "alert(1)" in page.text
    assert shown >= 5  # it is there to be read, not hidden


def test_lines_and_times_at_the_edges_are_shown_not_stumbled_over() -> None:
    now = clock.now()
    odd = ("[" * 2000, '{"@timestamp": 5}', '{"@timestamp": "9999-12-31T23:59:59-14:00", "message": 1}', "null", "{")
    for text in (*odd, '{"@timestamp": "9999-12-31T23:59:59Z", "message": "x"}'):
        entry = timeline._line(Line(now, "device:x", text))
        assert entry.happened is None and entry.data is not None
    told = timeline._line(Line(now, "device:x", json.dumps({"@timestamp": clock.iso(now), "message": "hello"})))
    assert (told.happened, told.data) == (now, {"line": "hello"})
    for moment in (datetime(9999, 12, 31, 23, 59, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)):
        assert markup.exact(moment).endswith("+07") and markup.day(moment)
        assert markup.lag(moment, now) and markup.time_tag(moment, "x")
    assert (
        "U+202E" in markup.inert("\u202e")
        and "&lt;" in markup.inert({"a": "<"})
        and markup.inert("x" * 9, 3) == "<bdi>xxx…</bdi>"
    )
    assert markup.marked("a.b a+b", ["a+b", "."]) == "<bdi>a.b </bdi><mark><bdi>a+b</bdi></mark>"


def test_matched_fields_are_marked_in_the_evidence(city: Console) -> None:
    text = web(city, "an").get(address(city, "/alerts/{alert}")).text
    assert "<mark><bdi>198.51.100.23</bdi></mark>" in text and "<mark><bdi>root</bdi></mark>" in text
    assert "<mark><bdi>root</bdi></mark><bdi>&lt;script&gt;" in text


def test_a_manufacturer_meets_its_own_devices_only(city: Console) -> None:
    client = web(city, "hang")
    for template in (
        "/",
        "/fleet",
        "/devices/{cam_0042}",
        "/devices/{cam_0042}/posture",
        "/posture?by=vendor",
        "/authorities",
        "/firmware",
    ):
        answer = client.get(address(city, template))
        assert answer.status_code == 200, template
        assert not [name for name in FOREIGN if name in answer.text], template
    for template in ("/devices/{gate_0007}", "/devices/{meter_0100}/posture"):
        assert client.get(address(city, template)).status_code == 404
    for template in ("/alerts", "/alerts/{alert}", "/runs/{run}", "/containments/{containment}", "/ledger"):
        assert client.get(address(city, template)).status_code == 403
    assert client.get("/search?q=gate-0007").headers["location"].startswith("/fleet?q=")
    assert client.get("/search?q=cam-0042").headers["location"] == address(city, "/devices/{cam_0042}")


def test_unknown_is_shown_as_unknown(city: Console) -> None:
    fleet = web(city, "an").get("/fleet").text
    row = fleet[fleet.index("meter-0100") - 300 : fleet.index("meter-0100") + 900]
    assert row.count("?</span> unknown") >= 1 and "? not known" in row and "? never" in row and "? not assessed" in row
    nothing = web(city, "an").get(address(city, "/devices/{cam_0043}/posture")).text
    assert "never assessed" in nothing and "lachan posture assess cam-0043" in nothing


def test_an_empty_city_says_what_would_fill_it(town: Town) -> None:
    empty = Console(town)
    empty.people["an"] = town.sign_in("an", Role.ANALYST)
    wanted = {
        "/": "device import", "/fleet": "device import", "/alerts": "rules list", "/runs": "playbooks load",
        "/posture": "engagement request", "/firmware": "lachan ota", "/ledger": "lachan serve",
    }  # fmt: skip
    with _open(empty) as made:
        for path, command in wanted.items():
            assert command in web(made, "an").get(path).text, path


def test_strangers_are_led_to_the_sign_in_and_errors_are_pages(city: Console) -> None:
    client = web(city)
    for template in PAGES:
        answer = client.get(address(city, template))
        assert (answer.status_code, answer.headers.get("location")) == (303, "/sign-in"), template
    assert client.post(address(city, "/containments/{containment}/release")).status_code in (401, 403)
    gone = web(city, "an", **{"Accept-Language": "vi"}).get("/devices/0")
    assert gone.status_code == 404 and "text/html" in gone.headers["content-type"] and "nhà sản xuất khác" in gone.text
    for bad in ("/alerts?after=x~y", "/devices/x?before=z", "/fleet?after=9~%00", "/static/nothing", "/posture?by=x"):
        assert web(city, "an").get(bad).status_code in (200, 404, 422), bad


def test_live_parts_answer_204_until_something_happened(city: Console) -> None:
    client = web(city, "an")
    first = client.get("/runs", headers={"HX-Request": "true"})
    assert first.text.startswith('<div id="live" hx-get="/runs?seen=') and "<html" not in first.text
    again = re.search(r'hx-get="([^"]+)"', first.text)
    assert again
    assert client.get(again[1], headers={"HX-Request": "true"}).status_code in (200, 204)
    quiet = client.get("/firmware?state=halted", headers={"HX-Request": "true"}).text
    seen = re.search(r'hx-get="([^"]+)"', quiet)
    assert seen and client.get(seen[1].replace("&amp;", "&"), headers={"HX-Request": "true"}).status_code == 204
    ended = web(city).get("/runs", headers={"HX-Request": "true"})
    assert (ended.status_code, ended.headers["hx-redirect"], ended.text) == (401, "/sign-in", "")
    assert (
        client.get(address(city, "/containments/{containment}"), headers={"HX-Request": "true"}).text.count("<form")
        == 0
    )


def test_a_link_signs_in_by_form_and_out_again(console: Console) -> None:
    from lachan.identity import people
    from tests.api.support import SETUP

    with console.town.rt.db.write() as connection:
        link = people.make_link(connection, console.town.rt.settings.data, name="an", actor=SETUP)
    client = web(console)
    assert client.post("/sign-in", data={"token": link}, headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post("/sign-in", data={"token": "short"}).status_code == 422
    made = client.post("/sign-in", data={"token": f" https://localhost:1/sign-in#{link} "})
    assert (made.status_code, made.headers["location"]) == (303, "/")
    for word in (f"{COOKIE}=", "HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert word in made.headers["set-cookie"]
    assert client.post("/sign-in", data={"token": link}).status_code == 410
    page = client.get("/")
    csrf = next(f["value"] for f in Page(page.text).all("input") if f.get("name") == "csrf")
    assert client.post("/sign-out").status_code == 403
    assert client.post("/sign-out", data={"csrf": csrf}).headers["location"] == "/sign-in"
    assert client.get("/").headers["location"] == "/sign-in"


WRITES = {
    "/devices/{cam_0044}/contain": {"level": "quarantine", "reason": "seen on site"},
    "/alerts/{alert}/acknowledge": {},
    "/alerts/{alert}/assign": {"assignee": "an"},
    "/alerts/{alert}/comment": {"text": "looked at it <b>"},
    "/alerts/{alert}/close": {"verdict": "true_positive"},
    "/runs/{run}/approve": {"note": "yes"},
    "/runs/{run}/reject": {},
    "/containments/{waiting}/approve": {},
    "/containments/{waiting}/reject": {},
    "/containments/{containment}/release": {"note": "password changed"},
    "/firmware/{release}/halt": {"reason": "no"},
}


def test_every_write_needs_its_token_and_its_permission(console: Console) -> None:
    for template, fields in WRITES.items():
        path = address(console, template)
        for given in ({}, {"csrf": "wrong"}, {"csrf": console.people["an"].csrf}):
            answer = web(console, "chi").post(path, data={**fields, **given})
            assert answer.status_code == 403 and "text/html" in answer.headers["content-type"], template
        crossed = web(console, "chi").post(
            path, data=form(console, "chi", **fields), headers={"Origin": "https://x.example"}
        )
        assert crossed.status_code == 403, template
        assert web(console, "kiem").post(path, data=form(console, "kiem", **fields)).status_code == 403, template


def test_triage_by_forms(console: Console) -> None:
    client = web(console, "chi")
    for act, said in (
        ("acknowledge", "acknowledged"),
        ("assign", "assigned"),
        ("comment", "commented"),
        ("close", "closed"),
    ):
        fields = WRITES[f"/alerts/{{alert}}/{act}"]
        answer = client.post(address(console, f"/alerts/{{alert}}/{act}"), data=form(console, "chi", **fields))
        assert answer.headers["location"] == address(console, f"/alerts/{{alert}}?said={said}"), answer.text
        assert labels.SAID[said] in client.get(answer.headers["location"]).text
    page = client.get(address(console, "/alerts/{alert}")).text
    assert "looked at it &lt;b&gt;" in page and "true: it happened" in page
    assert client.post(address(console, "/alerts/{alert}/acknowledge"), data=form(console, "chi")).status_code == 409


def test_two_persons_release_by_forms(console: Console) -> None:
    path = address(console, "/containments/{containment}")
    assert "Approve the release of cam-0042; a second person must too" in web(console, "binh").get(path).text
    assert web(console, "binh").post(f"{path}/release", data=form(console, "binh")).status_code == 303
    assert "one of two persons has approved" in web(console, "chi").get("/").text
    assert "another person must decide" in web(console, "binh").get(path).text
    assert web(console, "binh").post(f"{path}/release", data=form(console, "binh")).status_code == 403
    assert web(console, "an").post(f"{path}/release", data=form(console, "an")).status_code == 403
    assert "Release cam-0042 now: I am the second person" in web(console, "chi").get(path).text
    assert web(console, "chi").post(f"{path}/release", data=form(console, "chi", note="done")).status_code == 303
    device = web(console, "an").get(address(console, "/devices/{cam_0042}")).text
    assert "nothing speaks against it" in device and "approved the release (<b><bdi>2</bdi></b> of" in device


def test_a_run_and_a_proposal_are_decided_by_forms(console: Console) -> None:
    run = address(console, "/runs/{run}")
    assert "Cut off cam-0044: I approve" in web(console, "binh").get(run).text
    assert web(console, "binh").post(f"{run}/approve", data=form(console, "binh", note="yes")).status_code == 303
    assert "1 of 2 persons have approved" in web(console, "chi").get(run).text
    assert web(console, "chi").post(f"{run}/reject", data=form(console, "chi")).status_code == 303
    proposed = web(console, "an").post(
        address(console, "/devices/{cam_0044}/contain"),
        data=form(console, "an", level="quarantine", reason="r", hours="2"),
    )
    assert proposed.status_code == 303, proposed.text
    path = proposed.headers["location"].partition("?")[0]
    assert web(console, "binh").post(f"{path}/approve", data=form(console, "binh")).status_code == 303
    assert "every door refuses it" in web(console, "an").get(address(console, "/devices/{cam_0044}")).text


def test_the_kill_switch_is_the_administrators(console: Console) -> None:
    fields = {"active": "true", "reason": "drill"}
    assert web(console, "chi").post("/containments/kill-switch", data=form(console, "chi", **fields)).status_code == 403
    assert (
        web(console, "quan").post("/containments/kill-switch", data=form(console, "quan", **fields)).status_code == 303
    )
    assert "Automatic containment is stopped everywhere by person:quan" in web(console, "an").get("/").text


def test_firmware_is_approved_for_the_digest_that_was_shown(console: Console) -> None:
    path = address(console, "/firmware/{release}")
    for who in ("binh", "chi"):
        page = Page(web(console, who).get(path).text)
        fields = {f["name"]: f["value"] for f in page.all("input") if f.get("name") in ("digest", "csrf")}
        moved = web(console, who).post(f"{path}/approve", data={**fields, "digest": "0" * 64})
        assert moved.status_code == 409
        assert web(console, who).post(f"{path}/approve", data=fields).status_code == 303
    assert "approved" in web(console, "an").get(path).text and "2 of 2 persons" in web(console, "an").get(path).text


def test_static_files_are_ours_alone(city: Console) -> None:
    client = web(city)
    for name, kind in (
        ("console.css", "text/css"),
        ("console.js", "text/javascript"),
        ("htmx.min.js", "text/javascript"),
    ):
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
    for outside in ("htmx.LICENSE", "..%2Fpages.py", "%2Fetc%2Fpasswd"):
        assert client.get(f"/static/{outside}").status_code == 404
    folder = Path(language.__file__).parent / "static"
    assert (
        "url(" not in (folder / "console.css").read_text()
        and "Zero-Clause BSD" in (folder / "htmx.LICENSE").read_text()
    )
