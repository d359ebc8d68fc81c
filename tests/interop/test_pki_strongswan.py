"""Programs we did not write enrol, renew and verify: Debian's strongSwan ``pki`` and OpenSSL, at the real doors."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lachan import verbs
from lachan.runtime import Runtime
from lachan.work.worker import Worker
from pki import crl, service
from tests.pki.doors import Doors, open_doors
from tests.pki.support import ADMIN, Camera, camera, contain, csr, end_containment, key
from tests.support import need

pytestmark = pytest.mark.interop
PACKAGES = "strongswan-pki libstrongswan-standard-plugins libstrongswan-extra-plugins"


@pytest.fixture
def doors(signer_rt: Runtime, tmp_path: Path) -> Iterator[Doors]:
    crl.publish(signer_rt)
    with open_doors(signer_rt, tmp_path / "clients") as found:
        hierarchy = service.hierarchy(signer_rt.db)
        (found.folder / "root.crt").write_bytes(hierarchy.root.public_bytes(Encoding.PEM))
        (found.folder / "issuing.crt").write_bytes(hierarchy.issuing.public_bytes(Encoding.PEM))
        yield found


def run(folder: Path, *words: str, fails: bool = False) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode != 0) == fails, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


class Swan:
    """strongSwan's ``pki``, as its manual shows it."""

    def __init__(self, doors: Doors) -> None:
        self.program = need.program("pki", package=PACKAGES)
        self.folder, self.url = doors.folder, doors.url("device")

    def to_file(self, name: str, *words: str) -> None:
        with (self.folder / name).open("wb") as file:
            subprocess.run([self.program, *words], cwd=self.folder, stdout=file, check=True, timeout=60)

    def key(self, name: str) -> None:
        self.to_file(name, "--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem")

    def request(self, name: str, key_file: str, subject: str, *names: str) -> None:
        sans = [word for san in names for word in ("--san", san)]
        self.to_file(name, "--req", "--in", key_file, "--type", "ecdsa", "--dn", subject, *sans, "--outform", "der")

    def est(self, request: str, *words: str) -> list[str]:
        anchors = ["--cacert", "root.crt", "--cacert", "issuing.crt"]
        return [self.program, "--est", "--url", self.url, "--in", request, *anchors, *words, "--outform", "pem"]


def enrolled(folder: Path, command: list[str]) -> x509.Certificate:
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return x509.load_pem_x509_certificate(done.stdout)


def test_strongswan_enrols_and_renews(signer_rt: Runtime, doors: Doors) -> None:
    swan, cam, folder = Swan(doors), camera(signer_rt), doors.folder
    anchors = ["--url", doors.url("device"), "--cacert", "root.crt", "--caout", "ca.pem"]
    run(folder, swan.program, "--estca", *anchors, "--outform", "pem", "--force")
    swan.key("device.key")
    swan.request("first.csr", "device.key", "CN=cam-1", "cam-1.devices.lachan.invalid")
    first = enrolled(folder, swan.est("first.csr", "--userpass", f"{cam.name}:{cam.secret}"))
    assert first.subject.rfc4514_string() == "CN=cam-1,2.5.4.5=S-cam-1,O=Vendor"
    (folder / "device.crt").write_bytes(first.public_bytes(Encoding.PEM))

    swan.key("other.key")
    subject = "O=Vendor, serialNumber=S-cam-1, CN=cam-1"
    swan.request("second.csr", "other.key", subject)
    renew = swan.est("second.csr", "--cert", "device.crt", "--key", "device.key")
    second = enrolled(folder, renew)
    assert second.subject == first.subject
    assert second.public_key() != first.public_key()

    swan.request("foreign.csr", "other.key", "O=Vendor, serialNumber=S-cam-2, CN=cam-2")
    run(folder, *swan.est("foreign.csr", "--cert", "device.crt", "--key", "device.key"), fails=True)
    run(folder, *swan.est("first.csr", "--userpass", f"{cam.name}:wrong"), fails=True)
    contain(signer_rt, cam.id)
    run(folder, *swan.est("second.csr", "--cert", "device.crt", "--key", "device.key"), fails=True)
    end_containment(signer_rt, cam.id)


def state(doors: Doors, cam: Camera) -> tuple[str, str]:
    """What ``openssl verify -crl_check`` and ``openssl ocsp`` say, each with what it fetched itself from the doors."""
    openssl, folder, status = need.program("openssl", package="openssl"), doors.folder, doors.url("status")
    curl = need.program("curl", package="curl")
    for name in ("issuing", "root"):
        run(folder, curl, "-sSf", "-o", f"{name}.crl", f"{status}/crl/{name}.crl")
    crls = [word for name in ("issuing", "root") for word in ("-CRLfile", f"{name}.crl")]
    chain = ["-CAfile", "root.crt", "-untrusted", "issuing.crt"]
    verify = [openssl, "verify", "-crl_check_all", *chain, *crls, f"{cam.name}.crt"]
    done = subprocess.run(verify, cwd=folder, capture_output=True, text=True, check=False)
    verified = done.stdout + done.stderr
    said = "good" if f"{cam.name}.crt: OK" in verified else "revoked" if "revoked" in verified else verified
    asked = ["-issuer", "issuing.crt", "-cert", f"{cam.name}.crt", "-CAfile", "root.crt", "-url", f"{status}/ocsp"]
    answers = set()
    for more in ([], ["-no_nonce"], ["-sha256"]):
        order = asked if more != ["-sha256"] else [*more, *asked]
        text = run(folder, openssl, "ocsp", *order, *(more if more == ["-no_nonce"] else []))
        assert "Response verify OK" in text, text
        answers.add(text.split(f"{cam.name}.crt: ")[1].split("\n")[0])
    assert len(answers) == 1
    return said, answers.pop()


def test_openssl_verify_and_ocsp_agree_before_and_after(signer_rt: Runtime, doors: Doors) -> None:
    cams = [camera(signer_rt, name) for name in ("cam-1", "cam-2")]
    for cam in cams:
        certificate = cam.enrol(signer_rt, csr(key())).certificate
        (doors.folder / f"{cam.name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    cam, neighbour = cams
    story = [
        (None, "good"),
        (("pki.suspend", {"reason": "odd traffic"}), "revoked"),
        (("pki.release", {}), "good"),
        (("pki.revoke", {"reason": "key_compromise"}), "revoked"),
    ]
    for change, wanted in story:
        if change is not None:
            with signer_rt.db.write() as connection:
                verbs.call(signer_rt, connection, ADMIN, change[0], {"device_id": cam.id, **change[1]})
            Worker(signer_rt).run_due()
        assert state(doors, cam) == (wanted, wanted), change
        assert state(doors, neighbour) == ("good", "good"), change


def test_curl_and_openssl_read_what_est_answers(signer_rt: Runtime, doors: Doors) -> None:
    openssl, curl = need.program("openssl", package="openssl"), need.program("curl", package="curl")
    cam, folder, est = camera(signer_rt), doors.folder, f"{doors.url('device')}/.well-known/est"
    get = [curl, "-sSf", "--cacert", "anchors.pem"]
    run(folder, *get, "-o", "ca.b64", f"{est}/cacerts")
    run(folder, openssl, "base64", "-d", "-in", "ca.b64", "-out", "ca.p7")
    text = run(folder, openssl, "pkcs7", "-inform", "DER", "-in", "ca.p7", "-print_certs", "-noout")
    assert "lachan root" in text and "lachan issuing" in text
    run(folder, openssl, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", "c.key", "-subj", "/CN=cam-1", "-outform", "DER", "-out", "c.csr")  # fmt: skip
    run(folder, openssl, "base64", "-in", "c.csr", "-out", "c.b64")
    run(folder, *get, "--http1.0", "-u", f"{cam.name}:{cam.secret}", "-H", "Content-Type: application/pkcs10",
        "--data-binary", "@c.b64", "-o", "c.p7.b64", f"{est}/camera/simpleenroll")  # fmt: skip
    run(folder, openssl, "base64", "-d", "-in", "c.p7.b64", "-out", "c.p7")
    text = run(folder, openssl, "pkcs7", "-inform", "DER", "-in", "c.p7", "-print_certs", "-noout")
    assert "CN = cam-1" in text or "CN=cam-1" in text
