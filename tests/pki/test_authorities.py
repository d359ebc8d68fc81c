"""More than one issuing authority: a new one beside the old under one root, each with its own CRL and OCSP answers."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as library

from lachan.runtime import Runtime
from lachan.signer.context import InitContext
from lachan.signer.errors import SignerRefused
from lachan.signer.keystore import open_keys
from lachan.work.worker import Worker
from pki import authorities, crl, ocsp, service, setup
from pki.states import Reason
from tests.pki.doors import Doors, open_doors
from tests.pki.support import ADMIN, Camera, camera, csr


def bring_root_back(rt: Runtime, offline: Path) -> setup.Root:
    """The root's key from the offline folder, as a ceremony has it."""
    passphrase = (offline / "root.passphrase").read_bytes().strip()
    key = serialization.load_pem_private_key((offline / "root.key").read_bytes(), passphrase)
    return setup.Root(key, service.hierarchy(rt.db).root)  # type: ignore[arg-type]


def add(rt: Runtime, offline: Path, name: str) -> authorities.Authority:
    context = InitContext(rt.settings, rt.db, open_keys(rt.settings.signer_home), offline)
    return setup.add_authority(context, bring_root_back(rt, offline), name)


def enrolled(rt: Runtime, name: str) -> tuple[Camera, x509.Certificate]:
    cam = camera(rt, name)
    return cam, cam.enrol(rt, csr()).certificate


def revoke(rt: Runtime, cam: Camera, serial_number: str | None = None) -> None:
    rt.db.run(
        lambda connection: service.revoke(
            rt, connection, ADMIN, device_id=cam.id, reason=Reason.SUPERSEDED, serial_number=serial_number
        )
    )
    Worker(rt).run_due()


def listed(rt: Runtime, authority: str) -> set[int]:
    found = x509.load_der_x509_crl(crl.content(rt, crl.latest(rt, authority)))
    assert found.is_signature_valid(authorities.get(rt.db, authority).certificate.public_key())  # type: ignore[arg-type]
    return {one.serial_number for one in found}


def asked(rt: Runtime, certificate: x509.Certificate, issuer: authorities.Authority) -> library.OCSPResponse:
    name, key = issuer.hashes["sha1"]
    builder = library.OCSPRequestBuilder().add_certificate_by_hash(name, key, certificate.serial_number, hashes.SHA1())
    return library.load_der_ocsp_response(ocsp.answer(rt, builder.build().public_bytes(Encoding.DER)).content)


def test_a_second_authority_issues_and_the_first_goes_on(signer_rt: Runtime, tmp_path: Path) -> None:
    old_cam, old = enrolled(signer_rt, "cam-old")
    kept_cam, kept = enrolled(signer_rt, "cam-kept")
    first = authorities.get(signer_rt.db, "issuing")
    second = add(signer_rt, tmp_path / "offline", "issuing-2")
    new_cam = camera(signer_rt, "cam-new")
    answer = new_cam.enrol(signer_rt, csr())
    new = answer.certificate

    assert (second.line, second.generation, second.key_name) == ("issuing", 2, "pki-issuing-2")
    assert authorities.every(signer_rt.db) == (second, first), "the newest of a line is the first"
    assert new.issuer == second.certificate.subject != first.certificate.subject == old.issuer
    assert answer.chain == (second.certificate,)
    again = service.reenrol(
        signer_rt, device_id=kept_cam.id, certificate=kept, csr_der=csr(subject=kept.subject)
    ).certificate
    assert again.issuer == second.certificate.subject, "who renews moves to the new authority"
    for certificate, authority in ((old, first), (new, second)):
        certificate.verify_directly_issued_by(authority.certificate)
        (point,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert point.full_name and point.full_name[0].value.endswith(authority.crl_path)

    crl.refresh(signer_rt)
    numbers = {name: crl.latest(signer_rt, name).number for name in ("issuing", "issuing-2")}
    assert numbers == {"issuing": 1, "issuing-2": 1}
    revoke(signer_rt, new_cam)
    assert (listed(signer_rt, "issuing"), listed(signer_rt, "issuing-2")) == (set(), {new.serial_number})
    assert crl.latest(signer_rt, "issuing").number == 1, "a change of the other authority is none of its business"
    revoke(signer_rt, old_cam)
    assert (listed(signer_rt, "issuing"), listed(signer_rt, "issuing-2")) == ({old.serial_number}, {new.serial_number})

    for certificate, authority, other in ((old, first, second), (new, second, first)):
        said = asked(signer_rt, certificate, authority)
        assert said.certificate_status is library.OCSPCertStatus.REVOKED
        said.certificates[0].verify_directly_issued_by(authority.certificate)
        wrong = asked(signer_rt, certificate, other)
        assert wrong.certificate_status is library.OCSPCertStatus.UNKNOWN, "the other authority never issued it"
    assert asked(signer_rt, kept, first).certificate_status is library.OCSPCertStatus.GOOD


@pytest.fixture
def two(signer_rt: Runtime, tmp_path: Path) -> Iterator[tuple[Runtime, Doors, list[x509.Certificate]]]:
    """Doors of an installation with two authorities, and a revoked certificate of each."""
    cams = [enrolled(signer_rt, "cam-1")]
    add(signer_rt, tmp_path / "offline", "issuing-2")
    cams.append(enrolled(signer_rt, "cam-2"))
    for cam, _ in cams:
        revoke(signer_rt, cam)
    with open_doors(signer_rt, tmp_path / "c") as doors:
        yield signer_rt, doors, [certificate for _, certificate in cams]


def test_openssl_believes_both(two: tuple[Runtime, Doors, list[x509.Certificate]], tmp_path: Path) -> None:
    rt, doors, certificates = two

    def openssl(*words: str) -> str:
        done = subprocess.run(
            ["openssl", *words], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
        )
        return done.stdout + done.stderr

    (tmp_path / "root.pem").write_bytes(service.pem(service.hierarchy(rt.db).root))
    for certificate, authority in zip(certificates, reversed(authorities.every(rt.db)), strict=True):
        (tmp_path / "c.pem").write_bytes(service.pem(certificate))
        (tmp_path / "ca.pem").write_bytes(service.pem(authority.certificate))
        (tmp_path / "ca.crl").write_bytes(crl.content(rt, crl.latest(rt, authority.name)))
        chain = ["-CAfile", "root.pem", "-untrusted", "ca.pem"]
        assert "certificate revoked" in openssl("verify", *chain, "-crl_check", "-CRLfile", "ca.crl", "c.pem")
        assert "c.pem: OK" in openssl("verify", *chain, "c.pem")
        said = openssl(
            "ocsp", "-issuer", "ca.pem", "-cert", "c.pem", "-url", doors.url("status") + "/ocsp", "-CAfile", "root.pem",
            "-verify_other", "ca.pem",
        )  # fmt: skip
        assert "Response verify OK" in said, said
        assert "c.pem: revoked" in said, said


def test_the_signer_knows_only_its_own_authorities(signer_rt: Runtime) -> None:
    for kind, fields in (
        ("crl", {"authority": "root"}),
        ("crl", {"authority": "issuing-2"}),
        (
            "ocsp",
            {"authority": "ocsp-responder", "certificates": [{"hash": "sha1", "serial_number": b"1"}], "nonce": b""},
        ),
        ("issue", {"profile": "ocsp-responder", "authority": "root"}),
    ):
        with pytest.raises(SignerRefused, match="no authority"):
            signer_rt.signer.request(kind, **fields)


def test_one_authority_that_fails_does_not_keep_the_other_from_its_crl(signer_rt: Runtime, tmp_path: Path) -> None:
    second = add(signer_rt, tmp_path / "offline", "issuing-2")
    (authorities.folder(signer_rt.settings) / f"{second.name}.crt").unlink()
    authorities._files.cache_clear()
    with pytest.raises(SignerRefused):
        crl.refresh(signer_rt)
    assert crl.latest(signer_rt, "issuing").number == 1
    assert [found.what for found in crl.health(signer_rt)] == ["The authority issuing-2 has no CRL."]
