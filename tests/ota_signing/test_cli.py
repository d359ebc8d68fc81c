"""``lachan ota`` from upload to the release's state; approving is left to people's sessions."""

import json

import pytest

from ota_signing import cli, service
from tests.ota_signing.conftest import FIRMWARE, House


def run(house: House, capsys: pytest.CaptureFixture, *words: str) -> tuple[int, dict]:
    code = cli.main(["--data", str(house.rt.settings.data), "--json", *words])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def installed(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    (house.rt.settings.data / "initialised").touch()
    monkeypatch.setenv("LACHAN_SIGNER_SOCKET", str(house.rt.settings.signer_path))
    return house


def test_the_life_of_a_release(installed: House, capsys: pytest.CaptureFixture, tmp_path) -> None:
    file = tmp_path / "fw.bin"
    file.write_bytes(FIRMWARE)
    code, artifact = run(installed, capsys, "upload", str(file), "--vendor", "acme")
    assert (code, artifact["length"]) == (0, len(FIRMWARE))
    code, release = run(installed, capsys, "propose", artifact["id"], "--model", "cam1", "--version", "2.0.0")
    assert (code, release["state"]) == (0, "proposed")
    code, problem = run(installed, capsys, "approve", release["id"])
    assert code == 1
    assert "session" in problem["error"]["detail"]
    code, problem = run(installed, capsys, "publish", release["id"])
    assert (code, problem["error"]["code"]) == (1, "wrong-state")
    for name in ("an", "binh"):
        service.approve(installed.rt, installed.person(name), release["id"], digest=release["digest"])
    code, release = run(installed, capsys, "publish", release["id"])
    assert (code, release["state"], release["listed"]) == (0, "published", True)
    assert release["approvals"] == ["person:an", "person:binh"]
    code, release = run(installed, capsys, "halt", release["id"], "--reason", "bad")
    assert (code, release["state"]) == (0, "halted")
    code, release = run(installed, capsys, "resume", release["id"], "--reason", "good")
    assert (code, release["state"]) == (0, "published")
    code, rows = run(installed, capsys, "list", "--state", "published")
    assert (code, rows[0]["approvals"]) == (0, "2/2")
    assert cli.main(["--data", str(installed.rt.settings.data), "list"]) == 0
    assert "2.0.0" in capsys.readouterr().out
    assert run(installed, capsys, "renew", "--offline", str(installed.offline)) == (0, {"root": 2, "targets": 2})


def test_what_goes_wrong_is_told(installed: House, capsys: pytest.CaptureFixture, tmp_path) -> None:
    assert run(installed, capsys, "show", "none")[0] == 4
    assert run(installed, capsys, "upload", str(tmp_path / "none"), "--vendor", "acme")[0] == 1
    assert run(installed, capsys, "renew", "--offline", str(tmp_path))[0] == 1
