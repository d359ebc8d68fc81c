"""The rooms' wiring: what is missing, misspelt or there twice stops the start."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lachan import wiring
from lachan.errors import Invalid
from lachan.settings import RoomSettings, Settings
from lachan.wiring import Begin, Every, Lane, Room, Signing, WiringFault, Work


class Twin(RoomSettings):
    pki_secret_days: int = 1


def urgent(name: str) -> Work:
    return Work(name, lane=Lane.URGENT, deadline=1.0)


def every(name: str) -> Every:
    return Every(1.0, name, lane=Lane.ORDINARY, deadline=1.0)


def test_every_name_of_every_room_is_there() -> None:
    wiring.check(wiring.load())


def test_a_misspelt_room_stops_the_start() -> None:
    script = "from lachan import wiring; wiring.ROOMS = (*wiring.ROOMS[:-1], 'soar_playbook'); wiring.load()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the room soar_playbook has no wiring" in done.stderr


@pytest.mark.parametrize(
    "room",
    [
        Room(jobs={"x": urgent("pki.crl:publish_dew")}),
        Room(recurring={"x": every("pki.crll:refresh")}),
        Room(signing={"x": Signing("pki.signing:issue", rate=1, recorded="pki.signing:is_recordet")}),
        Room(handlers={"AlertRaised": (urgent("soar_playbooks.webhooks:on_fakt"),)}),
        Room(handlers={"AlertRised": (urgent("soar_playbooks.runs.undo:run_job"),)}),
        Room(begins={"AlertRaised": (Begin("x"),)}),
        Room(begins={"AlertRised": (Begin("x"),)}, jobs={"x": urgent("soar_playbooks.runs.undo:run_job")}),
        Room(verbs=("pki.verbs:SUSPENT",)),
        Room(init=("pki.setup:innit",)),
        Room(settings="pki.settings:PkiSetting"),
    ],
)
def test_a_misspelt_name_is_named(room: Room) -> None:
    with pytest.raises(WiringFault):
        wiring.check(wiring.collect({"planted": room}))


@pytest.mark.parametrize(
    "room",
    [
        Room(jobs={"pki.crl": urgent("pki.crl:publish_due")}),
        Room(recurring={"pki.refresh": every("pki.crl:refresh")}),
        Room(signing={"issue": Signing("pki.signing:issue", rate=1)}),
        Room(handlers={"DeviceChanged": (urgent("soar_playbooks.containment.criticality:on_device_changed"),)}),
        Room(verbs=("pki.verbs:SUSPEND",)),
        Room(tables="pki.models"),
        Room(settings="pki.settings:PkiSettings"),
    ],
)
def test_a_name_that_two_rooms_bring_is_named(room: Room) -> None:
    rooms = {name: wiring._room(name) for name in wiring.ROOMS}
    with pytest.raises(WiringFault):
        wiring.collect({**rooms, "planted": room})


@pytest.mark.parametrize(
    "room",
    [
        Room(jobs={"x": "pki.crl:publish_due"}),  # type: ignore[dict-item]
        Room(recurring={"x": (1.0, "pki.crl:refresh")}),  # type: ignore[dict-item]
        Room(handlers={"AlertRaised": ("soar_playbooks.runs.triggers:on_alert_raised",)}),  # type: ignore[dict-item]
    ],
)
def test_work_without_a_lane_stops_the_start(room: Room) -> None:
    with pytest.raises(WiringFault, match="lane"):
        wiring.collect({"planted": room})


def test_a_fault_of_the_wiring_keeps_lachan_from_serving(tmp_path: Path) -> None:
    script = (
        "import sys; from dataclasses import replace; import pki.wiring as w;"
        "w.WIRING = replace(w.WIRING, jobs={'pki.crl': replace(w.WIRING.jobs['pki.crl'], function='pki.crl:publish_dew')});"
        "from lachan.program import migrate; sys.argv = ['migrate', sys.argv[1]]; migrate.main()"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pki.crl:publish_dew" in done.stderr


def test_a_setting_of_no_room_is_refused(data: Path) -> None:
    with pytest.raises(Invalid, match="pki_secret_dais"):
        Settings.load(data, pki_secret_dais=3)
    (data / "lachan.toml").write_text("budget_sight = 3\n")
    with pytest.raises(Invalid, match="budget_sight"):
        Settings.load(data)


def test_two_parts_with_one_setting_stop_the_start(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lachan import settings as module

    twice = replace(wiring.load(), settings=(*wiring.load().settings, f"{__name__}:Twin"))
    monkeypatch.setattr(wiring, "load", lambda: twice)
    module._whole.cache_clear()
    try:
        with pytest.raises(WiringFault, match="pki_secret_days"):
            Settings.load(data)
    finally:
        monkeypatch.undo()
        module._whole.cache_clear()
