"""``lachan pki`` on a real installation, in this process."""

import json
from typing import Any

import pytest
from cryptography import x509

from lachan.cliutil import guarded
from lachan.runtime import Runtime
from pki import cli, service
from tests.pki.support import camera, csr


@pytest.fixture
def lachan(signer_rt: Runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``lachan pki …``; returns exit code and output."""
    settings = signer_rt.settings
    (settings.data / "initialised").touch()
    monkeypatch.setenv("LACHAN_DATA", str(settings.data))
    monkeypatch.setenv("LACHAN_SIGNER_SOCKET", str(settings.signer_path))
    monkeypatch.setenv("LACHAN_DATABASE_URL", settings.database_url)

    def run(*words: str) -> tuple[int, str]:
        code = guarded(lambda: cli.main(list(words)), as_json="--json" in words)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_a_devices_certificates_from_the_command_line(signer_rt: Runtime, lachan: Any) -> None:
    cam = camera(signer_rt)
    code, text = lachan("secret", "issue", "cam-1", "--json")
    secret = json.loads(text)
    assert (code, secret["device"], secret["profile"]) == (0, "cam-1", "camera")
    certificate = cam.enrol(signer_rt, csr(), secret=secret["secret"]).certificate
    serial = f"{certificate.serial_number:x}"
    for words, state in (
        (("suspend", "cam-1", "--reason", "odd traffic"), "held"),
        (("release", "cam-1"), "valid"),
        (("revoke", "cam-1", "--reason", "key_compromise", "--serial", serial), "revoked"),
    ):
        code, text = lachan(*words, "--json")
        assert (code, json.loads(text)) == (0, {"certificates": [serial]})
        code, text = lachan("status", "--device", "cam-1", "--json")
        assert [(row["serial_number"], row["state"]) for row in json.loads(text)] == [(serial, state)]
    code, text = lachan("release", "cam-1", "--serial", serial)
    assert (code, "revoked" in text and "next:" in text) == (1, True)
    assert lachan("suspend", "cam-1") == (0, "nothing to change\n")


def test_authorities_crl_and_lint(signer_rt: Runtime, lachan: Any) -> None:
    code, text = lachan("status")
    assert (code, "lachan root" in text, "CRL: none yet" in text) == (0, True, True)
    code, text = lachan("crl", "--json")
    assert (code, json.loads(text)["number"]) == (0, 1)
    assert json.loads(lachan("status", "--json")[1])["crl"]["number"] == 1
    assert "camera" in lachan("lint")[1]
    root = service.hierarchy(signer_rt.db).root
    assert isinstance(root, x509.Certificate)


def test_a_device_that_is_not_there(lachan: Any) -> None:
    code, text = lachan("secret", "issue", "ghost")
    assert (code, "ghost" in text) == (4, True)
