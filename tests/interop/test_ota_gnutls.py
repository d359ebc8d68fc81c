"""A second verifier of firmware signatures that shares no code with the first: GnuTLS."""

import subprocess

import pytest

from ota_signing import publishing, releases
from tests.ota_signing.conftest import FIRMWARE, House, house, quiet_house  # noqa: F401
from tests.support import need
from tests.support.signer import short_folder  # noqa: F401


@pytest.mark.interop
def test_certtool_accepts_the_signature_and_rejects_a_changed_byte(house: House, tmp_path) -> None:  # noqa: F811
    certtool = need.program("certtool", package="gnutls-bin")
    release = house.approved()
    publishing.sign(house.rt, release.id)
    with house.rt.db.read() as connection:
        (tmp_path / "fw.p7s").write_bytes(releases.signature(connection, release.id, principal=house.platform))
    command = [certtool, "--p7-verify", "--inder", "--infile", str(tmp_path / "fw.p7s")]
    command += ["--load-data", str(tmp_path / "fw"), "--load-ca-certificate", str(house.root_ca)]
    for content, fine in ((FIRMWARE, True), (b"X" + FIRMWARE[1:], False), (FIRMWARE + b"X", False)):
        (tmp_path / "fw").write_bytes(content)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is fine, done.stdout + done.stderr
