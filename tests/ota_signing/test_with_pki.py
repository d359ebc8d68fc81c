"""The same with the keys and certificates that ``lachan init`` makes for all rooms."""

import subprocess

from lachan.runtime import Runtime
from ota_signing import publishing, releases
from tests.ota_signing.conftest import FIRMWARE, House


def test_openssl_accepts_the_chain_of_the_real_authority(signer_rt: Runtime, tmp_path) -> None:
    house = House(signer_rt, tmp_path / "root.pem", tmp_path / "offline")
    home = signer_rt.settings.signer_home
    root = str(home / "pki" / "root.crt")
    subprocess.run(["openssl", "x509", "-inform", "DER", "-in", root, "-out", str(house.root_ca)], check=True)
    release = house.published()
    with signer_rt.db.read() as connection:
        (tmp_path / "fw.p7s").write_bytes(releases.signature(connection, release.id, principal=house.platform))
    (tmp_path / "fw").write_bytes(FIRMWARE)
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", str(tmp_path / "fw.p7s")]
    command += ["-content", str(tmp_path / "fw"), "-CAfile", str(house.root_ca), "-out", "/dev/null"]
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    (tmp_path / "fw").write_bytes(FIRMWARE[:-1] + b"!")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    assert {path.name for path in house.offline.glob("tuf-*")} == {
        "tuf-root.json", *(f"tuf-{role}-{n}.pem" for role in ("root", "targets") for n in (1, 2, 3))
    }  # fmt: skip
    assert publishing.stale(signer_rt, publishing.Repository(signer_rt.settings)) is False
