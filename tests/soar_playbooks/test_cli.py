"""The command line: a key that stays with the operator, signing, trusting, loading, switching; nobody approves from a shell."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lachan import cliutil
from lachan.errors import Invalid, LachanError
from lachan.runtime import Runtime
from soar_playbooks import cli
from soar_playbooks.errors import PlaybookInvalid, PlaybookUnsigned, SignerRevoked, SignerUntrusted
from soar_playbooks.models import containments, playbooks
from tests.soar_playbooks.support import camera_document, load, new_device, raise_alert, rows, work


@pytest.fixture
def here(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """The installation that the commands find."""
    (rt.settings.data / "initialised").touch()
    monkeypatch.setenv("LACHAN_DATA", str(rt.settings.data))
    if rt.settings.database_url:
        monkeypatch.setenv("LACHAN_DATABASE_URL", rt.settings.database_url)
    return rt


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "camera.cacao.json"
    path.write_text(json.dumps(camera_document(), indent=1))
    return path


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_from_a_key_to_an_enforcing_playbook(
    here: Runtime, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offline = tmp_path / "usb"
    assert cli.playbooks(["keygen", str(offline), "--json"]) == 0
    made = said(capsys)
    assert os.stat(made["private"]).st_mode & 0o777 == 0o600
    assert cli.playbooks(["sign", str(file), "--key", made["private"], "--json"]) == 0
    signed = said(capsys)["signed"]
    with pytest.raises(SignerUntrusted):
        cli.playbooks(["load", signed])
    assert cli.playbooks(["trust", made["public"], "--name", "chi"]) == 0
    assert cli.playbooks(["load", signed]) == 0
    capsys.readouterr()
    assert cli.playbooks(["mode", "Quarantine a compromised camera", "enforce", "--json"]) == 0
    assert said(capsys)["mode"] == "enforce"
    assert cli.playbooks(["list", "--json"]) == 0
    assert [row["mode"] for row in said(capsys)] == ["enforce"]
    assert cli.playbooks(["distrust", made["thumbprint"]]) == 0
    with pytest.raises(SignerRevoked):
        cli.playbooks(["load", signed])


def test_signing_and_keys_need_no_installation(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LACHAN_DATA", raising=False)
    monkeypatch.setenv("LACHAN_KEY_PASSPHRASE", "correct horse")
    cli.playbooks(["keygen", str(tmp_path / "usb")])
    key = tmp_path / "usb" / "operator.key"
    assert b"ENCRYPTED" in key.read_bytes()
    with pytest.raises(Invalid):
        cli.playbooks(["keygen", str(tmp_path / "usb")])
    assert cli.playbooks(["sign", str(file), "--key", str(key), "--out", str(tmp_path / "out.json")]) == 0
    monkeypatch.setenv("LACHAN_KEY_PASSPHRASE", "wrong")
    with pytest.raises(Invalid):
        cli.playbooks(["sign", str(file), "--key", str(key)])
    assert "private" in capsys.readouterr().out


def test_a_broken_file_is_not_even_signed(file: Path, tmp_path: Path) -> None:
    cli.playbooks(["keygen", str(tmp_path / "usb")])
    document = camera_document()
    document["workflow"]["end--00000000-0000-4000-8000-000000000000"] = {"type": "end"}
    file.write_text(json.dumps(document))
    with pytest.raises(PlaybookInvalid) as caught:
        cli.playbooks(["sign", str(file), "--key", str(tmp_path / "usb" / "operator.key")])
    assert caught.value.fields["step"] == "end--00000000-0000-4000-8000-000000000000"
    assert not list(tmp_path.glob("*.signed.json"))


def test_an_unsigned_file_is_refused_with_a_hint(here: Runtime, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cliutil.guarded(lambda: cli.playbooks(["load", str(file)])) == 1
    told = capsys.readouterr().err
    assert "camera.cacao.json" in told
    assert PlaybookUnsigned.hint in told
    assert rows(here, playbooks) == []


def test_contain_runs_release_and_the_kill_switch(here: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    load(here)
    device = new_device(here)
    raise_alert(here, device)
    work(here)
    for command in (cli.runs, cli.contain):
        assert command(["list", "--json"]) == 0
        (row,) = said(capsys)
        assert row["device_name"] == "cam-1"
        assert command(["show", row["id"], "--json"]) == 0
        assert said(capsys)["device_id"] == device.id
    assert cli.release(["--json"]) == 0
    (waiting,) = said(capsys)
    assert (waiting["device"], waiting["agreed"], waiting["needed"]) == ("cam-1", "", 2)
    new_device(here, "cam-2")
    assert cli.contain(["propose", "cam-2", "--reason", "odd", "--json"]) == 0
    assert said(capsys)["guard"] == "proposed"
    assert cli.contain(["plan", "cam-2", "--json"]) == 0
    capsys.readouterr()
    for state, active in (("on", True), ("show", True), ("off", False)):
        assert cli.contain(["kill-switch", state, "--reason", "test", "--json"]) == 0
        assert said(capsys)["active"] is active
    assert len(rows(here, containments)) == 2


def test_unknown_things_are_errors_with_their_own_exit_code(here: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    for run in (
        lambda: cli.runs(["show", "nothing"]),
        lambda: cli.contain(["show", "nothing"]),
        lambda: cli.playbooks(["mode", "nothing", "off"]),
    ):
        with pytest.raises(LachanError):
            run()
        assert cliutil.guarded(run) == cliutil.MISSING
    assert "lachan:" in capsys.readouterr().err
