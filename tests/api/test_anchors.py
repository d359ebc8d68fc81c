"""Manufacturers' authorities at the device door: added, listed, excepted and removed by command, told, shown by doctor."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from api.device import anchors
from api.device.paths import StrictRule
from lachan.errors import Conflict, Forbidden, Invalid, NotFound
from lachan.identity import Role
from lachan.program import cli
from lachan.runtime import Runtime
from lachan.work import outbox
from tests.api.support import Authority, Town
from tests.api.test_device_access import ask
from tests.conftest import person
from tests.support.wait import until

ADMIN = person("an", Role.ADMIN)


def told(rt: Runtime, *names: str) -> list[dict[str, object]]:
    with rt.db.read() as connection:
        return [vars(stored.event) for stored in outbox.read(connection, limit=100, names=names)]


def test_a_manufacturers_authority_is_believed_excepted_and_removed(doors: Town, tmp_path: Path) -> None:
    camera, bolt = doors.add_device("cam-1", vendor="bolt"), Authority(tmp_path / "bolt", "bolt")
    good, bare = bolt.device(camera), bolt.device(camera, usage=None)
    neighbour = doors.authority.device(doors.add_device("cam-2"))
    with doors.rt.db.write() as c:
        made = anchors.add(c, ADMIN, certificate=bolt.certificate, vendor="bolt")
    until(lambda: ask(doors, good).status_code == 200, timeout=5)
    assert ask(doors, bare).json()["reason"] == "not-strict"
    with doors.rt.db.write() as c:
        with pytest.raises(Conflict):
            anchors.add(
                c, ADMIN, certificate=bolt.certificate, vendor="bolt", exceptions=frozenset({StrictRule.NO_KEY_USAGE})
            )
        anchors.remove(c, ADMIN, fingerprint=made)
        anchors.add(
            c, ADMIN, certificate=bolt.certificate, vendor="bolt", exceptions=frozenset({StrictRule.NO_KEY_USAGE})
        )
    until(lambda: ask(doors, bare).status_code == 200, timeout=5)
    assert dict(anchors.described(doors.rt))["authority of bolt"].endswith("excepted from strict rules: no-key-usage")
    with doors.rt.db.write() as c:
        anchors.remove(c, ADMIN, fingerprint=made)
        with pytest.raises(NotFound):
            anchors.remove(c, ADMIN, fingerprint=made)
    until(lambda: ask(doors, good).json().get("reason") == "unknown-issuer", timeout=5)
    assert ask(doors, neighbour).status_code == 200
    assert [body["exceptions"] for body in told(doors.rt, "AnchorAdded")] == [(), ("no-key-usage",)]
    assert [body["anchor_of"] for body in told(doors.rt, "AnchorRemoved")] == ["bolt", "bolt"]


def test_what_is_no_authority_is_not_believed(rt: Runtime, tmp_path: Path) -> None:
    root = Authority(tmp_path / "root", "root")
    leaf = root.issue("x", sans=[]).certificate
    lax = root.issue("lax", sans=[], purposes=[], ca=True, usage=None).certificate
    with rt.db.write() as c:
        with pytest.raises(Invalid, match="no authority"):
            anchors.add(c, ADMIN, certificate=leaf, vendor="bolt")
        with pytest.raises(Invalid, match="authority-without-key-usage"):
            anchors.add(c, ADMIN, certificate=lax, vendor="bolt")
        with pytest.raises(Forbidden):
            anchors.add(c, person("b", Role.APPROVER), certificate=root.certificate, vendor="bolt")
        excepted = frozenset({StrictRule.AUTHORITY_WITHOUT_KEY_USAGE})
        anchors.add(c, ADMIN, certificate=lax, vendor="bolt", exceptions=excepted)
    assert told(rt, "AnchorAdded")[0]["exceptions"] == ("authority-without-key-usage",)


def test_the_commands_and_doctor_show_them(rt: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Authority(tmp_path / "root", "root")
    data = ["--data", str(rt.settings.data), "--json"]
    (rt.settings.data / "initialised").touch()
    der = tmp_path / "root.der"
    der.write_bytes(root.certificate.public_bytes(Encoding.DER))
    rt.db.close()

    def lachan(*words: str) -> tuple[int, str]:
        code = cli.main([*words, *data])
        return code, "".join(capsys.readouterr())

    assert lachan("door", "anchor", "list") == (0, "[]\n")
    code, out = lachan("door", "anchor", "add", str(der), "--vendor", "Bolt", "--except", "no-key-usage")
    fingerprint = json.loads(out)["fingerprint"]
    assert code == 0
    assert lachan("door", "anchor", "add", str(root.file), "--vendor", "Bolt")[0] == 1
    assert lachan("door", "anchor", "add", str(tmp_path / "none"), "--vendor", "Bolt")[0] == 1
    (row,) = json.loads(lachan("door", "anchor", "list")[1])
    assert (row["fingerprint"], row["vendor"], row["exceptions"]) == (fingerprint, "Bolt", "no-key-usage")
    rows = {each["what"]: each for each in json.loads(lachan("doctor")[1])}
    assert rows["authority of Bolt"]["state"] == "ok" and "no-key-usage" in rows["authority of Bolt"]["next"]
    assert lachan("door", "anchor", "remove", fingerprint.upper())[0] == 0
    assert lachan("door", "anchor", "remove", fingerprint)[0] == 4
