"""Releases that were agreed to for something else; devices with a good certificate that ask without end."""

import zlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp as library

from lachan import clock, trust
from lachan.buckets import Buckets
from lachan.enforcement import Level
from lachan.identity import Principal, Role, tokens
from lachan.identity.errors import BadToken
from lachan.runtime import Runtime
from ota_signing import delivery
from ota_signing.errors import TooManyReports
from ota_signing.schemas import InstallOutcome
from pki import ocsp, service, standing
from pki.errors import TooManyRenewals
from soar_playbooks.containment import approvals
from soar_playbooks.containment import service as containment
from soar_playbooks.containment.records import Containment, ReleaseCount
from soar_playbooks.errors import FourEyes
from soar_playbooks.runs import http_step
from soar_playbooks.states import ContainmentState
from tests.api.support import Town
from tests.conftest import person
from tests.ota_signing.conftest import House
from tests.pki.support import camera, csr, key
from tests.soar_playbooks.support import AN, BINH, decision, new_device

DUNG = person("dung", Role.APPROVER, Role.ANALYST)
CHI = person("chi", Role.ANALYST)
GIANG = person("giang", Role.APPROVER)


def propose(rt: Runtime, who: Principal, device: Any, level: Level, **more: Any) -> Containment:
    with rt.db.write() as connection:
        return approvals.propose(rt, connection, who, device=device, level=level, reason=f"{level}!", **more)


def approve(rt: Runtime, who: Principal, row: Containment) -> Containment:
    with rt.db.write() as connection:
        return approvals.approve(rt, connection, who, containment_id=row.id)


def release(rt: Runtime, who: Principal, row: Containment) -> ReleaseCount:
    with rt.db.write() as connection:
        return approvals.release(rt, connection, who, containment_id=row.id)


def test_who_asked_for_it_cannot_release_it_after_somebody_asked_for_more(rt: Runtime) -> None:
    """Dũng asks for quarantine, a friend asks for isolation, and Dũng is no longer "the proposer": he still is."""
    device = new_device(rt)
    row = approve(rt, AN, propose(rt, DUNG, device, Level.QUARANTINE))
    propose(rt, CHI, device, Level.ISOLATE)
    with rt.db.write() as connection:
        approvals.reject(rt, connection, BINH, containment_id=row.id)
    with pytest.raises(FourEyes):
        release(rt, DUNG, row)
    release(rt, AN, row)
    assert release(rt, BINH, row).containment.state is ContainmentState.ENDED


def test_agreeing_to_release_from_less_is_not_agreeing_to_release_from_more(rt: Runtime) -> None:
    """An's old yes to ending a mild measure must not be half of the release of a cut that came later."""
    device = new_device(rt)
    row = approve(rt, BINH, propose(rt, CHI, device, Level.DEGRADE))
    release(rt, AN, row)
    approve(rt, BINH, propose(rt, CHI, device, Level.QUARANTINE))
    assert release(rt, GIANG, row).approvals == 1
    assert decision(rt, device) is trust.Answer.QUARANTINE
    assert release(rt, AN, row).containment.state is ContainmentState.ENDED
    assert decision(rt, device) is trust.Answer.ALLOW


def test_row_and_signal_of_a_lengthened_containment_end_together(rt: Runtime) -> None:
    """Else the doors let a device in while its containment is said to be in force."""
    device = new_device(rt)
    row = approve(rt, BINH, propose(rt, CHI, device, Level.QUARANTINE, until=timedelta(hours=1)))
    approve(rt, AN, propose(rt, CHI, device, Level.ISOLATE, until=timedelta(hours=9)))
    with clock.travel(timedelta(hours=2)), rt.db.read() as connection:
        assert (containment.find(connection, row.id).until or clock.now()) > clock.now()
        assert trust.decision(connection, device.id).answer is trust.Answer.QUARANTINE


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"a": NaN}', b'{"a": "\\u0000"}', b'{"a": 1e999}', b"\xff", b"7"])
def test_a_peers_strange_answer_is_an_answer(body: bytes) -> None:
    """The request had its effect; an answer that breaks the worker would have it sent again."""
    assert http_step._fields(body) == {}


def test_renewing_without_end_is_refused(signer_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new key is a signature, a row and a sealed fact; the whole city shares one signer."""
    monkeypatch.setattr(standing, "RENEWALS", 3)
    cam = camera(signer_rt)
    mine = key()
    certificate = cam.enrol(signer_rt, csr(mine)).certificate

    def renew() -> Any:
        fresh = csr(key(), subject=certificate.subject, names=list(_names(certificate)))
        return service.reenrol(signer_rt, device_id=cam.id, certificate=certificate, csr_der=fresh)

    renew()
    renew()
    with pytest.raises(TooManyRenewals) as refused:
        renew()
    assert 3000 < refused.value.fields["retry_after"] <= 3600
    with clock.travel(timedelta(minutes=61)):
        assert renew().certificate


def _names(certificate: Any) -> Any:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_reporting_without_end_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "REPORTS", 3)
    device, made = house.device(), house.published()

    def report(outcome: InstallOutcome) -> Any:
        return delivery.report(house.rt, device, release_id=made.id, version="2.0.0", outcome=outcome)

    for outcome in (InstallOutcome.FAILED, InstallOutcome.INSTALLED, InstallOutcome.FAILED):
        report(outcome)
    with pytest.raises(TooManyReports):
        report(InstallOutcome.INSTALLED)
    assert report(InstallOutcome.FAILED)  # the same again is no new fact


def test_what_was_approved_is_what_was_read(doors: Town) -> None:
    """An analyst asks for more between the approver's look and click: the click then approves nothing."""
    device = doors.add_device("cam-1")
    chi, an = doors.sign_in("chi", Role.ANALYST), doors.sign_in("an", Role.APPROVER)
    place = "/api/v1/containments"
    with doors.client("people") as client:
        asked = {"device_id": device.id, "level": "degrade", "reason": "odd"}
        read = client.post(place, json=asked, headers=chi.headers).json()
        assert client.post(place, json=asked | {"level": "isolate"}, headers=chi.headers).status_code == 201
        approve = f"{place}/{read['id']}/approve"
        refused = client.post(approve, json={"level": read["wanted"]}, headers=an.headers)
        assert (refused.status_code, refused.json()["code"]) == (409, "not-waiting")
        form = an.headers | {"Origin": doors.rt.settings.people_url}
        by_form = client.post(f"/containments/{read['id']}/approve", data={"level": "degrade"}, headers=form)
        assert by_form.status_code == 409
        assert client.get(f"{place}/{read['id']}", headers=an.headers).json()["state"] == "waiting"
        taken = client.post(approve, json={"level": "isolate"}, headers=an.headers)
        assert (taken.status_code, taken.json()["level"]) == (200, "isolate")


def test_a_stranger_cannot_have_the_signer_sign_without_end(
    signer_rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each nonce is a new signature and a line of a log that never shrinks; others are still answered."""
    monkeypatch.setattr(ocsp, "SIGNED_BURST", 3.0)
    monkeypatch.setattr(ocsp, "SIGNED_RATE", 0.0001)
    monkeypatch.setattr(ocsp, "_buckets", Buckets(limit=10))
    cam = camera(signer_rt)
    certificate = cam.enrol(signer_rt, csr(key())).certificate
    asked = library.OCSPRequestBuilder().add_certificate(
        certificate, service.hierarchy(signer_rt.db).issuing, hashes.SHA256()
    )

    def ask(source: str, nonce: bytes = b"") -> ocsp.Status:
        made = asked.add_extension(x509.OCSPNonce(nonce), critical=False) if nonce else asked
        request = made.build().public_bytes(serialization.Encoding.DER)
        return ocsp.answer(signer_rt, request, source=source).status

    assert ask("192.0.2.1") is ocsp.Status.SUCCESSFUL
    found = [ask("192.0.2.1", bytes([number]) * 16) for number in range(1, 5)]
    assert found == [ocsp.Status.SUCCESSFUL] * 2 + [ocsp.Status.TRY_LATER] * 2
    assert ask("192.0.2.1") is ocsp.Status.SUCCESSFUL  # remembered: free
    assert ask("192.0.2.2", b"n" * 16) is ocsp.Status.SUCCESSFUL
    assert ask("", b"n" * 16) is ocsp.Status.SUCCESSFUL  # ourselves


@pytest.mark.parametrize("short", ["\0" * 32, "0" * 31 + "é", "Z" * 32])
def test_a_token_that_no_database_could_look_up_is_no_token(short: str) -> None:
    body = f"{short}_secret"
    with pytest.raises(BadToken):
        tokens.parse(f"lachan_{body}_{zlib.crc32(body.encode()):08x}")
