"""Suspend, release, revoke; and that CRL, OCSP, the doors' list and the facts tell the same story each time."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as library

from lachan import clock, enforcement, trust, verbs
from lachan.enforcement import Level, Target
from lachan.errors import Forbidden
from lachan.identity import Role
from lachan.runtime import Runtime
from lachan.work.worker import Worker
from pki import authorities, crl, errors, lint, models, ocsp, service, standing
from pki.states import Holder, Reason
from tests.conftest import person
from tests.pki.support import ADMIN, Camera, camera, csr, facts, names_of
from tests.support.view import view_of


def enrolled(rt: Runtime, name: str = "cam-1") -> tuple[Camera, x509.Certificate]:
    cam = camera(rt, name)
    return cam, cam.enrol(rt, csr()).certificate


def call(rt: Runtime, verb: str, device_id: str, **more: object) -> list[str]:
    with rt.db.write() as connection:
        answer = verbs.call(rt, connection, ADMIN, verb, {"device_id": device_id, **more})
    found: list[str] = answer["certificates"]
    return found


def request_for(rt: Runtime, certificate: x509.Certificate, algorithm: hashes.HashAlgorithm | None = None) -> bytes:
    issuer = service.hierarchy(rt.db).issuing
    builder = library.OCSPRequestBuilder().add_certificate(certificate, issuer, algorithm or hashes.SHA1())
    return builder.build().public_bytes(serialization.Encoding.DER)


def status(rt: Runtime, certificate: x509.Certificate) -> tuple[str, str | None, str]:
    """OCSP status and reason, and the reason that the CRL in force lists."""
    Worker(rt).run_due()
    answer = library.load_der_ocsp_response(ocsp.answer(rt, request_for(rt, certificate)).content)
    why = answer.revocation_reason.value if answer.revocation_reason else None
    listed = x509.load_der_x509_crl(
        crl.content(rt, crl.latest(rt, "issuing"))
    ).get_revoked_certificate_by_serial_number(certificate.serial_number)
    if listed is None:
        return answer.certificate_status.name, why, "-"
    try:
        reason = listed.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        reason = "unspecified"
    return answer.certificate_status.name, why, reason


def refused(rt: Runtime, keys: trust.CertificateKeys) -> str | None:
    return view_of(rt.db).refusal(keys)


def test_hold_release_revoke(signer_rt: Runtime) -> None:
    cam, certificate = enrolled(signer_rt)
    _, neighbour = enrolled(signer_rt, "cam-2")
    keys = trust.CertificateKeys.of(certificate)
    serial = f"{certificate.serial_number:x}"
    crl.publish(signer_rt)
    assert status(signer_rt, certificate) == ("GOOD", None, "-")

    assert call(signer_rt, "pki.suspend", cam.id, reason="odd traffic") == [serial]
    assert status(signer_rt, certificate) == ("REVOKED", "certificateHold", "certificateHold")
    assert refused(signer_rt, keys) == "suspended"
    assert call(signer_rt, "pki.suspend", cam.id, reason="again") == []

    assert call(signer_rt, "pki.release", cam.id) == [serial]
    assert status(signer_rt, certificate) == ("GOOD", None, "-")
    assert refused(signer_rt, keys) is None

    assert call(signer_rt, "pki.revoke", cam.id, reason="key_compromise") == [serial]
    assert status(signer_rt, certificate) == ("REVOKED", "keyCompromise", "keyCompromise")
    assert refused(signer_rt, keys) == "revoked"
    assert call(signer_rt, "pki.release", cam.id) == []
    with pytest.raises(errors.RevokedForGood):
        call(signer_rt, "pki.release", cam.id, serial_number=serial)
    assert status(signer_rt, certificate)[0] == "REVOKED"
    assert status(signer_rt, neighbour) == ("GOOD", None, "-")
    names = ("CertificateSuspended", "CertificateReleased", "CertificateRevoked")
    assert [fact.name for fact in facts(signer_rt, *names)] == list(names)


def test_a_change_makes_the_next_crl_due_at_once_and_numbers_only_grow(signer_rt: Runtime) -> None:
    cams = [enrolled(signer_rt, f"cam-{n}") for n in range(3)]
    numbers = [crl.publish(signer_rt).number]
    for cam, _ in cams:
        call(signer_rt, "pki.suspend", cam.id)
        Worker(signer_rt, kinds=["pki.crl"]).run_due()
        numbers.append(crl.latest(signer_rt, "issuing").number)
    assert numbers == [1, 2, 3, 4]
    for cam, _ in cams:
        call(signer_rt, "pki.release", cam.id)
    Worker(signer_rt, kinds=["pki.crl"]).run_due()
    final = crl.latest(signer_rt, "issuing")
    assert final.number == 5  # one CRL for a burst of three
    assert len(x509.load_der_x509_crl(crl.content(signer_rt, final))) == 0


def test_crl_is_renewed_before_it_ends_and_verifies(signer_rt: Runtime) -> None:
    crl.refresh(signer_rt)
    first = crl.latest(signer_rt, "issuing")
    crl.refresh(signer_rt)
    assert crl.latest(signer_rt, "issuing").number == first.number
    with clock.travel(timedelta(hours=13)):
        crl.refresh(signer_rt)
        second = crl.latest(signer_rt, "issuing")
    assert second.number == first.number + 1
    assert second.next_update > first.next_update
    issuing = service.hierarchy(signer_rt.db).issuing.public_key()
    parsed = x509.load_der_x509_crl(crl.content(signer_rt, second))
    assert isinstance(issuing, ec.EllipticCurvePublicKey)
    assert parsed.is_signature_valid(issuing)
    assert parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == second.number
    root = x509.load_der_x509_crl(crl.content(signer_rt, crl.latest(signer_rt, "root")))
    assert root.issuer == service.hierarchy(signer_rt.db).root.subject


def test_linter_finds_nothing_in_what_is_really_issued(signer_rt: Runtime) -> None:
    _, certificate = enrolled(signer_rt)
    service.issue_server_certificate(signer_rt, ["localhost", "127.0.0.1"])
    with signer_rt.db.read() as connection:
        issued = connection.execute(sa.select(models.certificates.c.profile, models.certificates.c.certificate)).all()
    assert {row.profile for row in issued} == {"camera", "server", "ocsp-responder", "firmware-signing"}
    for row in issued:
        assert lint.findings(row.certificate) == [], row.profile


def test_linter_finds_nothing_in_crl_and_ocsp(signer_rt: Runtime, tmp_path: Path) -> None:
    cam, certificate = enrolled(signer_rt)
    call(signer_rt, "pki.suspend", cam.id)
    (tmp_path / "c.crl").write_bytes(crl.content(signer_rt, crl.publish(signer_rt)))
    (tmp_path / "o.der").write_bytes(ocsp.answer(signer_rt, request_for(signer_rt, certificate)).content)
    for words in (["lint_crl", "lint", "-t", "CRL", "-p", "PKIX", "c.crl"], ["lint_ocsp_response", "lint", "o.der"]):
        command = [sys.executable, "-m", f"pkilint.bin.{words[0]}", words[1], "-s", "WARNING", *words[2:]]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stdout.strip()) == (0, ""), found


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256()])
def test_ocsp_answer_is_complete(signer_rt: Runtime, algorithm: hashes.HashAlgorithm) -> None:
    _, certificate = enrolled(signer_rt)
    issuer = service.hierarchy(signer_rt.db).issuing
    builder = library.OCSPRequestBuilder().add_certificate(certificate, issuer, algorithm)
    asked = builder.add_extension(x509.OCSPNonce(b"n" * 32), critical=False).build()
    found = ocsp.answer(signer_rt, asked.public_bytes(serialization.Encoding.DER))
    assert found.max_age == 0  # a nonce makes it one person's answer
    response = library.load_der_ocsp_response(found.content)
    assert response.serial_number == certificate.serial_number
    assert response.issuer_name_hash == asked.issuer_name_hash
    assert type(response.hash_algorithm) is type(algorithm)
    assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 32
    assert response.next_update_utc is not None and response.next_update_utc > clock.now()
    (responder,) = response.certificates
    responder.verify_directly_issued_by(issuer)
    assert responder.extensions.get_extension_for_class(x509.OCSPNoCheck)
    public = responder.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))


def test_ocsp_remembers_without_nonce_and_forgets_with_the_state(signer_rt: Runtime) -> None:
    cam, certificate = enrolled(signer_rt)
    request = request_for(signer_rt, certificate)
    first = ocsp.answer(signer_rt, request)
    assert ocsp.answer(signer_rt, request).content == first.content
    assert first.max_age == ocsp.MAX_AGE
    call(signer_rt, "pki.suspend", cam.id)
    assert ocsp.answer(signer_rt, request).content != first.content
    with clock.travel(timedelta(minutes=31)):
        fresh = library.load_der_ocsp_response(ocsp.answer(signer_rt, request).content)
        assert fresh.this_update_utc > clock.now() - timedelta(seconds=30)


def test_ocsp_errors_are_answers(signer_rt: Runtime) -> None:
    _, certificate = enrolled(signer_rt)
    request = request_for(signer_rt, certificate)

    def said(data: bytes) -> str:
        return library.load_der_ocsp_response(ocsp.answer(signer_rt, data).content).response_status.name

    for broken in (b"", b"\x30\x00", request[:-1], request + b"\0", b"\x30" * 100, b"\0" * 9000):
        assert said(broken) == "MALFORMED_REQUEST", broken
    foreign = library.OCSPRequestBuilder().add_certificate(certificate, certificate, hashes.SHA1()).build()
    assert said(foreign.public_bytes(serialization.Encoding.DER)) == "UNAUTHORIZED"
    nonce = library.OCSPRequestBuilder().add_certificate(
        certificate, service.hierarchy(signer_rt.db).issuing, hashes.SHA1()
    )
    long_nonce = nonce.add_extension(x509.OCSPNonce(b"n" * 129), critical=False).build()
    assert said(long_nonce.public_bytes(serialization.Encoding.DER)) == "MALFORMED_REQUEST"


def test_ocsp_says_unknown_of_a_serial_number_never_issued(signer_rt: Runtime) -> None:
    name, key = authorities.get(signer_rt.db, "issuing").hashes["sha1"]
    builder = library.OCSPRequestBuilder().add_certificate_by_hash(name, key, 4711, hashes.SHA1())
    answer = ocsp.answer(signer_rt, builder.build().public_bytes(serialization.Encoding.DER))
    assert library.load_der_ocsp_response(answer.content).certificate_status.name == "UNKNOWN"


def test_many_certificates_in_one_request(signer_rt: Runtime) -> None:
    """The library reads only one; OpenSSL's client asks for many."""
    _, one = enrolled(signer_rt)
    cam, two = enrolled(signer_rt, "cam-2")
    call(signer_rt, "pki.revoke", cam.id)
    questions = [ocsp.parse(request_for(signer_rt, c)).certificates[0] for c in (one, two)]
    answer = library.load_der_ocsp_response(ocsp.reply(signer_rt, ocsp.Question(tuple(questions), b"")).content)
    assert [single.certificate_status.name for single in answer.responses] == ["GOOD", "REVOKED"]


def target(cam: Camera) -> Target:
    return Target(device_id=cam.id, name=cam.name, vendor="Vendor", site="hoan-kiem")


def test_enforcement_point_holds_and_lifts_only_its_own(signer_rt: Runtime) -> None:
    cam, certificate = enrolled(signer_rt)
    other, bystander = enrolled(signer_rt, "cam-2")
    point = enforcement.points(signer_rt)["certificate-hold"]
    assert point.plan(signer_rt, target(cam), Level.DEGRADE) == []
    assert len(point.plan(signer_rt, target(cam), Level.QUARANTINE)) == 1
    for _ in range(2):  # again with the same intent changes nothing more
        evidence = point.apply(signer_rt, target(cam), Level.QUARANTINE, intent="i-1")
        assert evidence.settled
    assert evidence.detail["certificates"][f"{certificate.serial_number:x}"] == {"state": "held", "ocsp": "revoked"}
    assert len(facts(signer_rt, "CertificateSuspended")) == 1
    assert point.observe(signer_rt) == {cam.id: Level.QUARANTINE}
    assert status(signer_rt, bystander)[0] == "GOOD"
    with pytest.raises(errors.HeldByContainment):
        call(signer_rt, "pki.release", cam.id)
    call(signer_rt, "pki.suspend", cam.id, reason="a person's own suspicion")
    assert point.release(signer_rt, target(cam), intent="i-2").settled
    assert status(signer_rt, certificate)[0] == "REVOKED"  # the person's hold stays
    assert point.observe(signer_rt) == {}
    call(signer_rt, "pki.release", cam.id)
    assert status(signer_rt, certificate)[0] == "GOOD"


def renewed(rt: Runtime, cam: Camera, certificate: x509.Certificate) -> x509.Certificate:
    request = csr(subject=certificate.subject, names=names_of(certificate))
    return service.reenrol(rt, device_id=cam.id, certificate=certificate, csr_der=request).certificate


def test_every_certificate_of_a_device_is_held_and_lifted(signer_rt: Runtime) -> None:
    """One is revoked, one a person holds: each keeps what it had."""
    cam, first = enrolled(signer_rt)
    others = [renewed(signer_rt, cam, first) for _ in range(4)]
    by_number = [f"{certificate.serial_number:x}" for certificate in (first, *others)]
    call(signer_rt, "pki.revoke", cam.id, serial_number=by_number[1], reason="superseded")
    call(signer_rt, "pki.suspend", cam.id, serial_number=by_number[2])
    point = enforcement.points(signer_rt)["certificate-hold"]
    evidence = point.apply(signer_rt, target(cam), Level.QUARANTINE, intent="i")
    assert evidence.settled
    assert evidence.detail["held"] == sorted(set(by_number) - {by_number[1]})
    assert len(facts(signer_rt, "CertificateSuspended")) == 5  # a person's and four of the containment
    assert point.release(signer_rt, target(cam), intent="j").settled
    assert [status(signer_rt, certificate)[0] for certificate in (first, *others)] == [
        "GOOD", "REVOKED", "REVOKED", "GOOD", "GOOD",
    ]  # fmt: skip
    assert len(facts(signer_rt, "CertificateReleased")) == 4


def test_a_device_has_a_bounded_number_of_certificates(signer_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who renews for months makes the containment of its device, and the next CRL, as long as it likes."""
    monkeypatch.setattr(standing, "CERTIFICATES", 3)
    cam, first = enrolled(signer_rt)
    second = renewed(signer_rt, cam, first)
    renewed(signer_rt, cam, first)
    with pytest.raises(errors.TooManyCertificates):
        renewed(signer_rt, cam, first)
    with signer_rt.db.write() as connection:
        secret = service.issue_secret(signer_rt, connection, ADMIN, cam.id).secret
    with pytest.raises(errors.TooManyCertificates):
        cam.enrol(signer_rt, csr(), secret)
    call(signer_rt, "pki.revoke", cam.id, serial_number=f"{second.serial_number:x}", reason="superseded")
    assert cam.enrol(signer_rt, csr(), secret).certificate
    with pytest.raises(errors.TooManyCertificates):
        renewed(signer_rt, cam, first)


def test_release_of_containment_leaves_a_revocation(signer_rt: Runtime) -> None:
    cam, certificate = enrolled(signer_rt)
    point = enforcement.points(signer_rt)["certificate-hold"]
    point.apply(signer_rt, target(cam), Level.QUARANTINE, intent="i")
    call(signer_rt, "pki.revoke", cam.id, reason="privilege_withdrawn")
    assert point.release(signer_rt, target(cam), intent="j").settled
    assert status(signer_rt, certificate) == ("REVOKED", "privilegeWithdrawn", "privilegeWithdrawn")


def test_enforcement_point_sees_a_certificate_that_slipped_by(signer_rt: Runtime) -> None:
    cam, _ = enrolled(signer_rt)
    point = enforcement.points(signer_rt)["certificate-hold"]
    assert not point.verify(signer_rt, target(cam), Level.QUARANTINE).settled
    point.apply(signer_rt, target(cam), Level.QUARANTINE, intent="i")
    with signer_rt.db.write() as connection:  # as if issued by somebody who did not ask trust
        service.release(signer_rt, connection, ADMIN, device_id=cam.id, reason="", holder=Holder.CONTAINMENT)
    assert not point.verify(signer_rt, target(cam), Level.QUARANTINE).settled
    assert point.apply(signer_rt, target(cam), Level.QUARANTINE, intent="i").settled


def test_a_change_whose_job_failed_is_published_by_the_next_refresh(signer_rt: Runtime) -> None:
    cam, certificate = enrolled(signer_rt)
    crl.refresh(signer_rt)
    call(signer_rt, "pki.suspend", cam.id)
    crl.refresh(signer_rt)  # the job of the change never ran
    listed = x509.load_der_x509_crl(crl.content(signer_rt, crl.latest(signer_rt, "issuing")))
    assert listed.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None


def test_driving_the_point_again_moves_nothing(signer_rt: Runtime) -> None:
    cam, _ = enrolled(signer_rt)
    point = enforcement.points(signer_rt)["certificate-hold"]

    def version() -> int:
        with signer_rt.db.read() as connection:
            return trust.version(connection)

    for drive in (
        lambda: point.apply(signer_rt, target(cam), Level.QUARANTINE, intent="i"),
        lambda: point.release(signer_rt, target(cam), intent="j"),
    ):
        drive()
        before = version()
        drive()
        assert version() == before


def test_verbs_need_their_permission(signer_rt: Runtime) -> None:
    cam, _ = enrolled(signer_rt)
    auditor, analyst = person("au", Role.AUDITOR), person("an", Role.ANALYST)
    for who, verb in ((auditor, "pki.suspend"), (analyst, "pki.release"), (analyst, "pki.revoke")):
        with signer_rt.db.write() as connection, pytest.raises(Forbidden):
            verbs.call(signer_rt, connection, who, verb, {"device_id": cam.id})
    assert verbs.get("pki.suspend").undo == "pki.release"


def test_every_reason_is_one_of_the_standard() -> None:
    standard = {flag.name: flag for flag in x509.ReasonFlags}
    for reason in Reason:
        assert reason.value in standard


def test_only_one_certificate_of_several(signer_rt: Runtime) -> None:
    cam, first = enrolled(signer_rt)
    request = csr(subject=first.subject)
    second = service.reenrol(signer_rt, device_id=cam.id, certificate=first, csr_der=request).certificate
    serial = f"{first.serial_number:x}"
    assert call(signer_rt, "pki.revoke", cam.id, serial_number=serial.upper(), reason="superseded") == [serial]
    assert status(signer_rt, first)[0] == "REVOKED"
    assert status(signer_rt, second)[0] == "GOOD"
    with pytest.raises(errors.NoCertificate):
        call(signer_rt, "pki.revoke", cam.id, serial_number="4711")
    rows = service.certificates_of(signer_rt, ADMIN, cam.id)
    assert [row.state for row in rows] == ["valid", "revoked"]
