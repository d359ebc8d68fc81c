"""The manufacturer's ``examples/enrol.sh``: real openssl and curl enrol and renew at the real device door."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lachan.runtime import Runtime
from pki import service
from tests.pki.doors import Doors, open_doors
from tests.pki.support import camera, contain
from tests.support import need

pytestmark = pytest.mark.interop
SCRIPT = Path(__file__).parents[2] / "examples" / "enrol.sh"


@pytest.fixture
def doors(signer_rt: Runtime, tmp_path: Path) -> Iterator[Doors]:
    need.program("curl", package="curl")
    with open_doors(signer_rt, tmp_path / "clients") as found:
        root = service.hierarchy(signer_rt.db).root
        (found.folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
        yield found


def enrol(doors: Doors, verb: str, *words: str, ca: str = "root.pem") -> subprocess.CompletedProcess[str]:
    command = ["sh", str(SCRIPT), verb, "--server", doors.url("device"), "--ca", ca, "--folder", "device", *words]
    return subprocess.run(command, cwd=doors.folder, capture_output=True, text=True, check=False, timeout=60)


def first(doors: Doors, name: str, secret: str, *, ca: str = "root.pem") -> subprocess.CompletedProcess[str]:
    (doors.folder / "secret.txt").write_text(f"{secret}\n")
    return enrol(doors, "first", "--name", name, "--secret-file", "secret.txt", ca=ca)


def held(doors: Doors) -> x509.Certificate:
    return x509.load_pem_x509_certificate((doors.folder / "device" / "device.pem").read_bytes())


def test_it_enrols_and_renews(signer_rt: Runtime, doors: Doors) -> None:
    cam = camera(signer_rt)
    done = first(doors, cam.name, cam.secret)
    assert done.returncode == 0, done.stderr
    certificate, device = held(doors), doors.folder / "device"
    assert cam.name in certificate.subject.rfc4514_string()
    assert (device / "device.key").stat().st_mode & 0o777 == 0o600
    assert {file.name for file in device.iterdir()} == {"device.key", "device.pem"}  # nothing of the work stays behind

    done = enrol(doors, "renew")
    assert done.returncode == 0, done.stderr
    renewed = held(doors)
    assert renewed.serial_number != certificate.serial_number
    assert renewed.public_key() != certificate.public_key()
    assert renewed.subject == certificate.subject
    assert enrol(doors, "renew").returncode == 0  # and the renewed one opens the door again

    contain(signer_rt, cam.id)
    kept = held(doors)
    done = enrol(doors, "renew")
    assert done.returncode == 1
    assert "refused (403)" in done.stderr, done.stderr
    assert held(doors) == kept


def test_a_lost_answer_is_asked_for_again_and_mistakes_are_told(signer_rt: Runtime, doors: Doors) -> None:
    cam, device = camera(signer_rt), doors.folder / "device"
    refused = first(doors, cam.name, "lce_wrong")
    assert (refused.returncode, "refused (401)" in refused.stderr) == (1, True), refused.stderr
    assert not (device / "device.pem").exists()
    stranger = first(doors, cam.name, cam.secret, ca=str(other_root(doors.folder)))
    assert (stranger.returncode, "not the city's server" in stranger.stderr) == (1, True), stranger.stderr

    assert first(doors, cam.name, cam.secret).returncode == 0
    certificate = held(doors)
    (device / "device.key").rename(device / "device.key.new")  # as if the answer had never arrived
    (device / "device.pem").unlink()
    again = first(doors, cam.name, cam.secret)
    assert again.returncode == 0, again.stderr
    assert held(doors) == certificate

    assert enrol(doors, "first").returncode == 2
    assert enrol(doors, "dance").returncode == 2


def other_root(folder: Path) -> Path:
    """A root certificate of somebody else."""
    file = folder / "other.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
             str(folder / "other.key"), "-subj", "/CN=other", "-out", str(file)]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True)
    return file
