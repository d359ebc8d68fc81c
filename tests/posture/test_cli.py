"""``lachan posture`` and ``lachan engagement``, as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lachan.program import cli
from lachan.runtime import Runtime
from posture import engagements
from tests.posture.cameras import BadCamera
from tests.posture.conftest import APPROVER, register
from tests.posture.test_evaluate import GOOD


@pytest.fixture
def typed(rt: Runtime, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs one command on the test's installation; gives exit code and output."""
    (rt.settings.data / "initialised").touch()

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main([*words, "--data", str(rt.settings.data)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_request_run_show_stop(typed: Any, rt: Runtime, bad: BadCamera) -> None:
    device = register(rt)
    methods = "tls,http,default-login,banner"
    asked = json.loads(typed(
        "engagement", "request", device.name, "--reason", "acceptance", "--ports", str(bad.port), "--methods", methods,
        "--loopback", "--rate", "1000", "--burst", "1000", "--json",
    )[1])  # fmt: skip
    code, _, error = typed("posture", "run", device.name, "--engagement", asked["id"])
    assert code == 1
    assert "is requested" in error
    with rt.db.write() as connection:
        engagements.approve(connection, asked["id"], actor=APPROVER)
    assert json.loads(typed("engagement", "list", "--json")[1])[0]["approved_by"] == "person:binh"
    code, said, _ = typed("posture", "run", device.name, "--engagement", asked["id"])
    assert code == 0
    assert said.startswith("0 pass, 6 fail, 0 not applicable, 44 unknown\n")
    assert "default_login_accepted" in said
    shown = json.loads(typed("posture", "show", device.name, "--json")[1])
    assert shown["counts"] == {"pass": 0, "fail": 6, "not_applicable": 0, "unknown": 44}
    assert len(shown["merkle_root"]) == 64
    assert json.loads(typed("engagement", "stop", asked["id"], "--json")[1])["state"] == "stopped"
    assert typed("posture", "run", device.name, "--engagement", asked["id"])[0] == 1


def test_declare_and_catalogue(typed: Any, rt: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "c1.json"
    file.write_text(json.dumps(GOOD))
    assert typed("posture", "declare", str(file))[0] == 0
    file.write_text("{")
    assert typed("posture", "declare", str(file))[0] == 1
    code, said, _ = typed("posture", "catalogue", "--as-of", "2026-06-30")
    assert code == 0
    assert "QCVN135:2024/BTTTT" in said
    assert "QCVN11:2026/BCA" not in said
    assert len(json.loads(typed("posture", "catalogue", "--json")[1])["criteria"]) == 81


def test_mistakes_are_told(typed: Any, rt: Runtime) -> None:
    register(rt)
    assert typed("posture", "show", "cam-1")[0] == 4
    assert typed("posture", "run", "nobody")[0] == 4
    assert typed("engagement", "request", "cam-1", "--reason", "x", "--ports", "http", "--loopback")[0] == 1
    code, _, error = typed("engagement", "request", "cam-1", "--reason", "x")
    assert code == 1
    assert "loopback" in error
