"""The console in a real browser (Debian's chromium): signing in by link, reading the fleet, releasing, with and without script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lachan.identity import Role, people
from lachan.identity.people import link_url
from lachan.runtime import Runtime
from tests.api.console_town import Console, furnish
from tests.api.support import SETUP, Town
from tests.browser.driver import Browser, browser
from tests.support import wait

pytestmark = pytest.mark.interop


@pytest.fixture
def console(rt: Runtime, tmp_path: Path) -> Iterator[Console]:
    """A furnished town with its doors open."""
    made = furnish(Town(rt, tmp_path / "authority"))
    with made.town.open():
        yield made


def link(console: Console, name: str, *roles: Role) -> str:
    """A person's own sign-in link, as ``lachan user add`` prints it."""
    rt = console.town.rt
    with rt.db.write() as connection:
        people.add(connection, name=name, roles=roles, actor=SETUP)
        token = people.make_link(connection, rt.settings.data, name=name, actor=SETUP)
    return console.town.url("people") + link_url(rt.settings, token)[len(rt.settings.people_url.rstrip("/")) :]


def sign_in(window: Browser, console: Console, name: str, *roles: Role) -> None:
    """Open the link; the script behind the sign-in page does the rest."""
    window.go(link(console, name, *roles))
    wait.until(lambda: window.address == console.town.url("people") + "/", timeout=15, what="signed in")


def complaints(window: Browser) -> list[str]:
    """What broke the policy or did not load."""
    return [line for line in window.console() if "favicon" not in line]


def test_sign_in_by_link_read_the_fleet_and_release_with_two_persons(console: Console, tmp_path: Path) -> None:
    base = console.town.url("people")
    path = f"/containments/{console.ids['containment']}"
    for place, name in enumerate(("binh", "chi")):
        with browser(tmp_path / name) as window:
            sign_in(window, console, name, Role.APPROVER)
            assert "#" not in window.address
            window.go(base + "/fleet?lang=vi")
            assert "cách ly" in window.text("table tbody tr:first-child") and "cam-0042" in window.text("table tbody")
            window.run("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}))")
            assert "cam-0042" in window.text("tr.at")
            window.run("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))")
            wait.until(lambda window=window: "/devices/" in window.address, timeout=10)  # type: ignore[misc]
            assert "U+202E" in window.text("table.timeline")  # an attacker's direction override, made visible
            window.go(f"{base}{path}?lang=en")
            window.type(f"form[action='{path}/release'] input[name=note]", "password changed")
            window.click(f"form[action='{path}/release'] button")
            wait.until(lambda window=window: "said=released" in window.address, timeout=10)  # type: ignore[misc]
            assert f"{place + 1} of 2" in window.text("#live") or "ended" in window.text("#live")
            assert complaints(window) == []
    with console.town.rt.db.read() as connection:
        from lachan import trust

        assert trust.decision(connection, console.devices["cam-0042"].id).answer is trust.Answer.ALLOW


def test_live_parts_renew_themselves_within_the_policy(console: Console, tmp_path: Path) -> None:
    with browser(tmp_path) as window:
        sign_in(window, console, "an", Role.ANALYST)
        assert window.run("return htmx.config.allowEval") is False
        assert "cam-0044" in window.text("#live")
        rt = console.town.rt
        from soar_playbooks.models import runs

        with rt.db.write() as connection:
            connection.execute(runs.update().values(state="ended", outcome="rejected", waiting_for_kind=None))
        wait.until(lambda: "cam-0044" not in window.text("#live"), timeout=20, what="the queue renewed itself")
        assert complaints(window) == []


def test_without_script_a_person_signs_in_and_approves_firmware(console: Console, tmp_path: Path) -> None:
    base, path = console.town.url("people"), f"/firmware/{console.ids['release']}"
    with browser(tmp_path, script=False) as window:
        window.go(base + "/sign-in?lang=en")
        window.type("#token", link(console, "binh", Role.APPROVER))
        window.click("#sign-in button")
        wait.until(lambda: window.address == base + "/", timeout=10)
        assert "Firmware: TL-200 2.0.2" in window.text("table.rows")
        window.size(390, 844)  # a phone, at night
        window.go(base + path)
        window.click(f"form[action='{path}/approve'] button")
        wait.until(lambda: "said=approved" in window.address, timeout=10)
        assert "1 of 2 persons have approved" in window.text("#live")
        assert "root<script>alert(1)</script>" in window.text("dl.facts")
