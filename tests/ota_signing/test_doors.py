"""Firmware through the real doors: people upload, approve and publish; the example client updates itself over mTLS."""

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lachan.identity import Role
from ota_signing import releases
from ota_signing.store import Store
from tests.api.support import Credential, Town
from tests.ota_signing.conftest import FIRMWARE, House
from tests.support.wait import until

REPOSITORY = Path(__file__).parents[2]
UPLOAD = "/api/v1/artifacts?vendor=acme&name=fw.bin"


@pytest.fixture
def town(house: House, tmp_path: Path) -> Iterator[Town]:
    """The house with its doors open."""
    with Town(house.rt, tmp_path / "authority").open() as made:
        yield made


def bearer(town: Town, *roles: Role, vendor: str | None = None) -> dict[str, str]:
    return {"Authorization": f"Bearer {town.token(*roles, vendor=vendor)}"}


def publish(town: Town, version: str = "2.0.0", content: bytes = FIRMWARE) -> dict:
    """Two people who signed in, and a platform token: all over HTTP."""
    platform = bearer(town, Role.PLATFORM)
    with town.client("people") as http:
        artifact = http.post(UPLOAD, content=content, headers=platform)
        assert artifact.status_code == 201, artifact.text
        body = {"artifact_id": artifact.json()["id"], "model": "cam1", "version": version}
        release = http.post("/api/v1/releases", json=body, headers=platform).json()
        url, consent = f"/api/v1/releases/{release['id']}", {"digest": release["digest"]}
        refused = http.post(f"{url}/approve", json=consent, headers=platform)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        for name in (f"an-{version}", f"binh-{version}"):
            assert http.post(f"{url}/publish", headers=platform).status_code == 409
            session = town.sign_in(name, Role.APPROVER)
            done = http.post(f"{url}/approve", json=consent, headers=session.headers)
            assert done.status_code == 200, done.text
        published = http.post(f"{url}/publish", headers=platform)
        assert published.status_code == 200, published.text
        assert published.json()["listed"] is True
        return published.json()


def camera(town: Town, house: House, name: str = "cam-1", **kind: str) -> Credential:
    return town.authority.device(house.device(name, **kind).id)


def update(
    town: Town, house: House, credential: Credential, tmp_path: Path, server: str = ""
) -> subprocess.CompletedProcess:
    """Run the example as a device would."""
    command = [sys.executable, str(REPOSITORY / "examples" / "firmware_client.py")]
    for name, value in {
        "server": server or town.url("device"), "ca": town.authority.file, "cert": credential.chain_file,
        "key": credential.key_file, "tuf-root": house.offline / "tuf-root.json", "firmware-root": house.root_ca,
        "state": tmp_path / "state", "install": tmp_path / "slot",
    }.items():  # fmt: skip
        command += [f"--{name}", str(value)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_example_client_updates_itself(town: Town, house: House, tmp_path: Path) -> None:
    credential = camera(town, house)
    idle = update(town, house, credential, tmp_path)
    assert (idle.returncode, idle.stdout) == (0, '{"outcome": "up_to_date"}\n'), idle.stderr
    release = publish(town)
    done = update(town, house, credential, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "2.0.0"
    assert (tmp_path / "slot").read_bytes() == FIRMWARE
    assert json.loads(update(town, house, credential, tmp_path).stdout) == {"outcome": "up_to_date"}
    publish(town, "2.1.0", b"changed later")
    path = Store(house.rt.settings).path(hashlib.sha256(b"changed later").hexdigest())
    path.chmod(0o600)
    path.write_bytes(b"Changed later")  # on the server's disk, after signing
    refused = update(town, house, credential, tmp_path)
    assert refused.returncode == 1
    assert "LengthOrHashMismatch" in refused.stdout
    assert (tmp_path / "slot").read_bytes() == FIRMWARE
    with house.rt.db.read() as connection:
        assert releases.get(connection, release["id"], principal=house.platform).state == "published"


def test_bytes_ranges_and_tags(town: Town, house: House) -> None:
    credential, release = camera(town, house), publish(town)
    with town.client("device", credential) as http:
        poll = http.get("/device/v1/firmware").json()["update"]
        whole = http.get(poll["download"])
        assert (whole.status_code, whole.content) == (200, FIRMWARE)
        assert whole.headers["etag"] == f'"{release["sha256"]}"'
        digest = base64.b64encode(hashlib.sha256(FIRMWARE).digest()).decode()
        assert whole.headers["repr-digest"] == f"sha-256=:{digest}:"
        part = http.get(poll["download"], headers={"Range": "bytes=1000-1999", "If-Range": whole.headers["etag"]})
        assert (part.status_code, part.content) == (206, FIRMWARE[1000:2000])
        moved = http.get(poll["download"], headers={"Range": "bytes=1000-1999", "If-Range": '"other"'})
        assert (moved.status_code, moved.content) == (200, FIRMWARE)
        many = http.get(poll["download"], headers={"Range": "bytes=0-0,5-9"})
        assert many.status_code == 206
        assert many.headers["content-type"].startswith("multipart/byteranges")
        abuse = "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 2000, 2))
        assert http.get(poll["download"], headers={"Range": abuse}).status_code == 422
        assert http.get(poll["download"], headers={"Range": f"bytes={len(FIRMWARE)}-"}).status_code == 416
        assert http.get(poll["download"], headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
        assert http.get(f"/tuf/targets/acme/cam1/2.0.0/{release['sha256']}.firmware.bin").content == FIRMWARE
        for path in ("/tuf/metadata/..%2f..%2fsigner%2fpassphrase", "/tuf/metadata/9.root.json", "/tuf/targets/x",
                     "/tuf/metadata/.lock", "/firmware/none", "/tuf/targets/..%2f..%2fx"):  # fmt: skip
            assert http.get(path).status_code == 404, path


def test_bytes_are_left_to_nginx_for_who_comes_through_it(house: House, tmp_path: Path) -> None:
    """lachan judges who asks and for what; what it names is the file, seen from nginx's folder ``artifacts``."""
    settings = house.rt.settings.model_copy(update={"accel_redirect": "/_artifacts/", "proxies": ("127.0.0.1",)})
    behind = Town(replace(house.rt, settings=settings), tmp_path / "authority")
    with behind.open() as town:
        credential, release = camera(town, house), publish(town)
        shown = {"Client-Cert": f":{base64.b64encode(credential.der).decode()}:"}
        with town.client("device") as http:
            got = http.get(f"/firmware/{release['id']}", headers=shown | {"Range": "bytes=0-9"})
            assert (got.status_code, got.content) == (200, b"")
            place = got.headers["X-Accel-Redirect"]
            assert place.startswith("/_artifacts/")
            assert (settings.data / "artifacts" / place.removeprefix("/_artifacts/")).read_bytes() == FIRMWARE
            assert http.get(f"/firmware/{release['id']}").status_code == 401
            other = town.authority.device(house.device("cam-9", vendor="other").id)
            shown = {"Client-Cert": f":{base64.b64encode(other.der).decode()}:"}
            assert http.get(f"/firmware/{release['id']}", headers=shown).status_code == 404


def test_a_report_is_in_the_next_poll_also_on_another_connection(town: Town, house: House) -> None:
    credential, release = camera(town, house), publish(town)
    with town.client("device", credential) as one, town.client("device", credential) as other:
        for http in (one, other, one, other):
            assert http.get("/device/v1/firmware").json()["update"]["release_id"] == release["id"]
        body = {"release_id": release["id"], "version": "2.0.0", "outcome": "installed"}
        assert one.post("/device/v1/firmware/report", json=body).status_code == 200
        until(lambda: one.get("/device/v1/firmware").json()["update"] is None, timeout=1)
        until(lambda: other.get("/device/v1/firmware").json()["update"] is None, timeout=1)
        wrong = one.post("/device/v1/firmware/report", json=body | {"outcome": "exploded"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid")
        assert wrong.json()["faults"][0]["where"] == "body.outcome"


def test_other_vendors_and_strangers_get_nothing(town: Town, house: House) -> None:
    release = publish(town)
    stranger = camera(town, house, "cam-2", vendor="other")
    paths = [f"/firmware/{release['id']}", f"/firmware/{release['id']}/signature"]
    paths.append(f"/tuf/targets/acme/cam1/2.0.0/{release['sha256']}.firmware.bin")
    with town.client("device", stranger) as http:
        assert http.get("/device/v1/firmware").json()["update"] is None
        assert [http.get(path).status_code for path in paths] == [404] * 3
        body = {"release_id": release["id"], "version": "2.0.0", "outcome": "installed"}
        assert http.post("/device/v1/firmware/report", json=body).status_code == 404
    with town.client("device") as http:
        for path in [*paths, "/device/v1/firmware", "/tuf/metadata/timestamp.json"]:
            assert http.get(path).status_code in (401, 403), path


def test_halting_over_http_is_at_once(town: Town, house: House) -> None:
    credential, release = camera(town, house), publish(town)
    analyst, why = town.sign_in("chi", Role.ANALYST), {"reason": "cameras go dark"}
    with town.client("device", credential) as device, town.client("people") as http:
        assert device.get(f"/firmware/{release['id']}").status_code == 200
        halted = http.post(f"/api/v1/releases/{release['id']}/halt", json=why, headers=analyst.headers)
        assert (halted.status_code, halted.json()["state"]) == (200, "halted")
        assert device.get(f"/firmware/{release['id']}").status_code == 410
        assert device.get("/device/v1/firmware").json()["update"] is None
        back = http.post(f"/api/v1/releases/{release['id']}/resume", json=why, headers=analyst.headers)
        assert back.json()["state"] == "published"
        assert device.get("/device/v1/firmware").json()["update"]["release_id"] == release["id"]


def test_manufacturers_upload_and_see_their_own(town: Town, house: House) -> None:
    mine, other = (bearer(town, Role.MANUFACTURER, vendor=vendor) for vendor in ("acme", "other"))
    with town.client("people") as http:
        made = http.post(UPLOAD, content=FIRMWARE, headers=mine)
        assert made.status_code == 201
        assert http.get(made.headers["location"], headers=mine).json() == made.json()
        assert http.get(made.headers["location"], headers=other).status_code == 404
        assert http.post(UPLOAD, content=FIRMWARE, headers=other).status_code == 404
        body = {"artifact_id": made.json()["id"], "model": "cam1", "version": "1"}
        assert http.post("/api/v1/releases", json=body, headers=mine).status_code == 403
        release = publish(town)
        assert [r["id"] for r in http.get("/api/v1/releases", headers=mine).json()["items"]] == [release["id"]]
        assert http.get("/api/v1/releases", headers=other).json()["items"] == []
        for path in ("", "/signature"):
            assert http.get(f"/api/v1/releases/{release['id']}{path}", headers=mine).status_code == 200
            assert http.get(f"/api/v1/releases/{release['id']}{path}", headers=other).status_code == 404


def test_uploads_are_checked_and_broken_ones_leave_nothing(town: Town, house: House) -> None:
    token, incoming = bearer(town, Role.PLATFORM), house.rt.settings.data / "artifacts" / "incoming"
    with town.client("people") as http:
        wrong = http.post(f"{UPLOAD}&sha256={'0' * 64}", content=b"x", headers=token)
        assert (wrong.status_code, wrong.json()["code"]) == (422, "artifact-broken")
        assert http.post(UPLOAD, content=b"", headers=token).status_code == 422
    with knocking(town, token, length=1 << 40) as tls:
        assert tls.recv(1000).startswith(b"HTTP/1.1 413 ")
    with knocking(town, token, length=3_000_000) as tls:
        tls.sendall(b"x" * 2_000_000)
        until(lambda: list(incoming.iterdir()), timeout=20)
    until(lambda: not list(incoming.iterdir()), timeout=20)
    assert not list((house.rt.settings.data / "artifacts").glob("sha256/*/*"))


@contextlib.contextmanager
def knocking(town: Town, token: dict[str, str], *, length: int) -> Iterator[ssl.SSLSocket]:
    """An upload that was announced and of which nothing is sent yet."""
    address = ("localhost", town.ports["people"])
    with socket.create_connection(address) as raw, town.context().wrap_socket(raw, server_hostname="localhost") as tls:
        head = f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
        tls.sendall(f"{head}Authorization: {token['Authorization']}\r\n\r\n".encode())
        yield tls


def test_a_session_without_csrf_approves_nothing(town: Town, house: House) -> None:
    release, session = house.propose(), town.sign_in("an", Role.APPROVER)
    with town.client("people") as http:
        headers = {"Cookie": session.headers["Cookie"]}
        body = {"digest": release.digest}
        assert http.post(f"/api/v1/releases/{release.id}/approve", json=body, headers=headers).status_code == 403
        wrong = http.post(f"/api/v1/releases/{release.id}/approve", json={"digest": "0" * 64}, headers=session.headers)
        assert (wrong.status_code, wrong.json()["code"]) == (409, "digest-moved")
