"""One secret, several processes at once: one certificate. Runs on SQLite here, on PostgreSQL in tests/interop."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lachan.errors import LachanError
from lachan.runtime import Runtime
from pki import errors
from tests.pki.support import camera, contain, csr, end_containment, facts

RACERS = 4


def test_processes_racing_for_one_secret(signer_rt: Runtime, tmp_path: Path) -> None:
    cam, start = camera(signer_rt), tmp_path / "start"
    settings = signer_rt.settings
    words = [str(settings.data), str(settings.signer_path), settings.database_url, cam.name, cam.secret, str(start)]
    command = [sys.executable, "-m", "tests.pki.racer", *words]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(RACERS)]
    try:
        for racer in racers:
            assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
        start.touch()
        said = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    (issued,) = facts(signer_rt, "CertificateIssued", device_id=cam.id)
    assert sorted(said) == sorted([issued.event.serial_number, *["secret-refused"] * (RACERS - 1)])


@pytest.mark.parametrize("round_", range(3))
def test_containment_racing_with_enrolment(signer_rt: Runtime, round_: int) -> None:
    """Whichever is first: no certificate is issued after the containment committed."""
    cam, barrier, order = camera(signer_rt), threading.Barrier(2), []

    def enrol() -> None:
        barrier.wait()
        try:
            cam.enrol(signer_rt, csr())
            order.append("enrolled")
        except LachanError:
            order.append("refused")

    thread = threading.Thread(target=enrol)
    thread.start()
    barrier.wait()
    contain(signer_rt, cam.id)
    thread.join()
    with pytest.raises((errors.HolderContained, errors.SecretRefused)):
        cam.enrol(signer_rt, csr())
    assert len(facts(signer_rt, "CertificateIssued", device_id=cam.id)) == (1 if order == ["enrolled"] else 0)
    end_containment(signer_rt, cam.id)
