"""Enrolment: one secret, one device, one certificate; whoever asks for more is refused and told of."""

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lachan import clock, devices, trust
from lachan.errors import LachanError, NotFound
from lachan.identity import Role
from lachan.runtime import Runtime
from pki import errors, models, service
from pki.states import Reason
from tests.conftest import person
from tests.pki.support import (
    ADMIN,
    camera,
    contain,
    csr,
    end_containment,
    facts,
    key,
    named,
    names_of,
)
from tests.support.malleable import twin_of


def test_certificate_carries_the_registry_not_the_request(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    enrolled = cam.enrol(signer_rt, csr())
    certificate = enrolled.certificate
    assert certificate.subject.rfc4514_string() == "CN=cam-1,2.5.4.5=S-cam-1,O=Vendor"
    assert [str(name.value) for name in names_of(certificate)] == [
        f"urn:uuid:{cam.id}",
        "cam-1.devices.lachan.invalid",
    ]
    certificate.verify_directly_issued_by(enrolled.chain[0])
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert timedelta(days=90) <= life <= timedelta(days=90, minutes=5)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.serial_number.bit_length() == 127
    (fact,) = facts(signer_rt, "CertificateIssued", device_id=cam.id)
    assert fact.event.serial_number == f"{certificate.serial_number:x}"
    assert fact.actor == f"device:{cam.id}"
    with signer_rt.db.read() as connection:
        assert devices.get(connection, cam.id).state is devices.DeviceState.ENROLLED


def test_other_strong_keys_are_certified(signer_rt: Runtime) -> None:
    strong = (
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    )
    for number, device_key in enumerate(strong):
        enrolled = camera(signer_rt, f"cam-{number}").enrol(signer_rt, csr(device_key))
        enrolled.certificate.verify_directly_issued_by(enrolled.chain[0])
        assert enrolled.certificate.public_key() == device_key.public_key()


def test_weak_or_foreign_keys_are_refused(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    weak = (
        rsa.generate_private_key(65537, 1024),
        rsa.generate_private_key(3, 2048),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP521R1()),
    )
    for device_key in weak:
        with pytest.raises(errors.KeyUnfit):
            cam.enrol(signer_rt, csr(device_key))


def test_proof_of_possession_is_always_verified(signer_rt: Runtime) -> None:
    cam, request = camera(signer_rt), bytearray(csr())
    request[-1] ^= 1
    with pytest.raises(errors.CsrMalformed):
        cam.enrol(signer_rt, bytes(request))
    assert cam.enrol(signer_rt, csr())  # the secret was not used up by it


def test_what_is_no_request_is_refused(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    for request in (b"", b"0\x03\x02\x01\x00", b"x" * 20_000):
        with pytest.raises(errors.CsrMalformed):
            cam.enrol(signer_rt, request)


def test_a_request_to_be_an_authority_is_refused(signer_rt: Runtime) -> None:
    with pytest.raises(errors.CsrMalformed, match="authority"):
        camera(signer_rt).enrol(signer_rt, csr(authority=True))


OTHERS: list[tuple[x509.Name | None, list[x509.GeneralName]]] = [
    (named("cam-2"), []),
    (named("cam-1", "S-other"), []),
    (None, [x509.DNSName("cam-2")]),
    (None, [x509.DNSName("cam-1"), x509.DNSName("cam-2.devices.lachan.invalid")]),
    (None, [x509.UniformResourceIdentifier("urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057")]),
    (None, [x509.RFC822Name("root@lachan.invalid")]),
    (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n) for n in ("cam-1", "cam-2")]), []),
]


def test_a_request_that_names_another_device_is_refused(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    for subject, names in OTHERS:
        with pytest.raises(errors.IdentityMismatch):
            cam.enrol(signer_rt, csr(subject=subject, names=names))
    told = facts(signer_rt, "EnrolmentRefused", device_id=cam.id)
    assert [fact.event.reason for fact in told] == ["identity-mismatch"] * len(OTHERS)
    assert not facts(signer_rt, "CertificateIssued", device_id=cam.id)
    assert cam.enrol(signer_rt, csr(subject=named("cam-1", "S-cam-1"), names=[x509.DNSName("cam-1")]))


def test_a_secret_is_for_one_device_and_one_use(signer_rt: Runtime) -> None:
    one, two = camera(signer_rt), camera(signer_rt, "cam-2")
    with pytest.raises(errors.SecretRefused):
        two.enrol(signer_rt, csr(), secret=one.secret)
    one.enrol(signer_rt, csr())
    with pytest.raises(errors.SecretRefused):
        one.enrol(signer_rt, csr())


def test_the_database_does_not_hold_the_secret(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    assert len(cam.secret) >= 4 + 26  # 128 bits need 26 letters of base32
    with signer_rt.db.read() as connection:
        row = connection.execute(sa.select(models.secrets)).mappings().one()
    assert not any(cam.secret in str(value) or cam.secret[4:] in str(value) for value in row.values())


def test_a_secret_expires_and_a_new_one_ends_the_old(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    with clock.travel(timedelta(days=7, seconds=1)), pytest.raises(errors.SecretRefused):
        cam.enrol(signer_rt, csr())
    with signer_rt.db.write() as connection:
        fresh = service.issue_secret(signer_rt, connection, ADMIN, cam.id)
    with pytest.raises(errors.SecretRefused):
        cam.enrol(signer_rt, csr())
    assert cam.enrol(signer_rt, csr(), secret=fresh.secret)


def test_the_same_key_within_ten_minutes_gets_the_same_certificate(signer_rt: Runtime) -> None:
    cam, device_key = camera(signer_rt), key()
    first = cam.enrol(signer_rt, csr(device_key)).certificate
    with clock.travel(timedelta(minutes=9)):
        assert cam.enrol(signer_rt, csr(device_key)).certificate == first
        with pytest.raises(errors.SecretRefused):
            cam.enrol(signer_rt, csr())
    with clock.travel(timedelta(minutes=11)), pytest.raises(errors.SecretRefused):
        cam.enrol(signer_rt, csr(device_key))
    assert len(facts(signer_rt, "CertificateIssued", device_id=cam.id)) == 1


@pytest.mark.parametrize("same_key", [False, True])
def test_racing_uses_of_one_secret_give_one_certificate(signer_rt: Runtime, *, same_key: bool) -> None:
    cam, shared = camera(signer_rt), key()
    requests = [csr(shared if same_key else key()) for _ in range(8)]
    barrier, got, refused = threading.Barrier(8), [], []

    def use(request: bytes) -> None:
        barrier.wait()
        try:
            got.append(cam.enrol(signer_rt, request).certificate.serial_number)
        except errors.SecretRefused:
            refused.append(request)

    threads = [threading.Thread(target=use, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(set(got)), len(refused)) == ((8, 1, 0) if same_key else (1, 1, 7))
    assert len(facts(signer_rt, "CertificateIssued", device_id=cam.id)) == 1
    with signer_rt.db.read() as connection:
        rows = connection.execute(sa.select(models.certificates.c.id).where(models.certificates.c.device_id == cam.id))
        assert len(rows.all()) == 1


def test_wrong_secrets_are_rate_limited_per_device(signer_rt: Runtime) -> None:
    cam, other = camera(signer_rt), camera(signer_rt, "cam-2")
    for _ in range(signer_rt.settings.pki_failures_device):
        with pytest.raises(errors.SecretRefused):
            cam.enrol(signer_rt, csr(), secret="lce_wrong")
    with pytest.raises(errors.TooManyAttempts) as caught:
        cam.enrol(signer_rt, csr())
    assert 0 < caught.value.fields["retry_after"] <= 900
    assert other.enrol(signer_rt, csr())
    with clock.travel(timedelta(minutes=15, seconds=1)):
        assert cam.enrol(signer_rt, csr())


def test_wrong_secrets_are_rate_limited_per_address_also_for_unknown_names(signer_rt: Runtime) -> None:
    request = csr()

    def guess(source: str, name: str) -> None:
        service.enrol(signer_rt, device_name=name, secret="x", csr_der=request, source=source)

    for number in range(signer_rt.settings.pki_failures_address):
        with pytest.raises(errors.SecretRefused):
            guess("192.0.2.7", f"nobody-{number}")
    with pytest.raises(errors.TooManyAttempts):
        guess("192.0.2.7", "nobody-60")
    with pytest.raises(errors.SecretRefused):
        guess("192.0.2.8", "nobody-60")
    assert len(facts(signer_rt, "EnrolmentRefused")) <= 10  # a flood does not fill the ledger


def test_a_contained_device_gets_nothing_and_after_release_everything_works(signer_rt: Runtime) -> None:
    cam, first_key = camera(signer_rt), key()
    first = cam.enrol(signer_rt, csr(first_key)).certificate
    with signer_rt.db.write() as connection:
        fresh = service.issue_secret(signer_rt, connection, ADMIN, cam.id)
    renewal = csr(key(), subject=first.subject)
    contain(signer_rt, cam.id)
    for attempt in (
        lambda: cam.enrol(signer_rt, csr(first_key)),  # the old secret with the old key
        lambda: cam.enrol(signer_rt, csr(), secret=fresh.secret),  # a new key with a good secret
        lambda: service.reenrol(signer_rt, device_id=cam.id, certificate=first, csr_der=renewal),
    ):
        with pytest.raises(errors.HolderContained):
            attempt()
    assert len(facts(signer_rt, "CertificateIssued", device_id=cam.id)) == 1
    end_containment(signer_rt, cam.id)
    assert service.reenrol(signer_rt, device_id=cam.id, certificate=first, csr_der=renewal)
    assert cam.enrol(signer_rt, csr(), secret=fresh.secret)


@pytest.mark.parametrize("answer", [trust.Answer.LIMITED, trust.Answer.DENY])
def test_limited_may_enrol_and_deny_may_not(signer_rt: Runtime, answer: trust.Answer) -> None:
    cam = camera(signer_rt)
    contain(signer_rt, cam.id, answer)
    if answer is trust.Answer.DENY:
        with pytest.raises(errors.HolderContained):
            cam.enrol(signer_rt, csr())
    else:
        assert cam.enrol(signer_rt, csr())


def test_retired_devices_and_stolen_keys_are_refused(signer_rt: Runtime) -> None:
    one, two, shared = camera(signer_rt), camera(signer_rt, "cam-2"), key()
    one.enrol(signer_rt, csr(shared))
    with pytest.raises(errors.KeyInUse):
        two.enrol(signer_rt, csr(shared))
    with signer_rt.db.write() as connection:
        devices.retire(connection, two.id, "broken", actor=ADMIN)
    with pytest.raises(errors.DeviceRetired):
        two.enrol(signer_rt, csr())


def test_renewal_keeps_the_identity(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    first = cam.enrol(signer_rt, csr()).certificate
    rekeyed = csr(key(), subject=first.subject, names=names_of(first))
    second = service.reenrol(signer_rt, device_id=cam.id, certificate=first, csr_der=rekeyed).certificate
    assert second.subject == first.subject
    assert names_of(second) == names_of(first)
    assert second.serial_number != first.serial_number
    again = service.reenrol(signer_rt, device_id=cam.id, certificate=first, csr_der=rekeyed).certificate
    assert again == second


def test_renewal_with_the_same_key_gives_a_new_certificate(signer_rt: Runtime) -> None:
    cam, device_key = camera(signer_rt), key()
    first = cam.enrol(signer_rt, csr(device_key)).certificate
    request = csr(device_key, subject=first.subject)
    second = service.reenrol(signer_rt, device_id=cam.id, certificate=first, csr_der=request).certificate
    assert second.serial_number != first.serial_number
    assert second.public_key() == first.public_key()


def test_renewal_for_another_name_is_refused(signer_rt: Runtime) -> None:
    cam, other = camera(signer_rt), camera(signer_rt, "cam-2")
    first = cam.enrol(signer_rt, csr()).certificate
    neighbour = other.enrol(signer_rt, csr()).certificate
    for request in (
        csr(subject=neighbour.subject),
        csr(subject=named("cam-1")),
        csr(),
        csr(subject=first.subject, names=names_of(neighbour)),
        csr(subject=first.subject, names=names_of(first)[:1]),
        csr(subject=first.subject, names=[*names_of(first), x509.DNSName("cam-2")]),
    ):
        with pytest.raises(errors.IdentityMismatch):
            service.reenrol(signer_rt, device_id=cam.id, certificate=first, csr_der=request)


def test_renewal_needs_a_certificate_in_force(signer_rt: Runtime) -> None:
    cam, other = camera(signer_rt), camera(signer_rt, "cam-2")
    first = cam.enrol(signer_rt, csr()).certificate
    neighbour = other.enrol(signer_rt, csr()).certificate
    request = csr(subject=first.subject)
    with pytest.raises(errors.CertificateNotCurrent):
        service.reenrol(signer_rt, device_id=cam.id, certificate=neighbour, csr_der=request)
    with pytest.raises(errors.CertificateNotCurrent, match="unknown"):
        service.reenrol(signer_rt, device_id=cam.id, certificate=twin_of(first), csr_der=request)
    with clock.travel(timedelta(days=91)), pytest.raises(errors.CertificateNotCurrent):
        service.reenrol(signer_rt, device_id=cam.id, certificate=first, csr_der=request)
    with signer_rt.db.write() as connection:
        service.suspend(signer_rt, connection, ADMIN, device_id=cam.id, reason="looks odd")
    with pytest.raises(errors.CertificateNotCurrent):
        service.reenrol(signer_rt, device_id=cam.id, certificate=first, csr_der=request)


def test_channel_binding_is_verified_when_present(signer_rt: Runtime) -> None:
    import base64

    cam, unique, exporter = camera(signer_rt), b"u" * 12, b"e" * 32

    def enrol(challenge: bytes | None, *bindings: bytes) -> service.Enrolled:
        request = csr(challenge=challenge)
        return service.enrol(
            signer_rt, device_name=cam.name, secret=cam.secret, csr_der=request, source="::1", bindings=bindings
        )

    for said, bindings in ((b"wrong", (unique,)), (base64.b64encode(unique), ()), (base64.b64encode(b""), (b"",))):
        with pytest.raises(errors.ProofMismatch):
            enrol(said, *bindings)
    assert enrol(base64.b64encode(exporter), unique, exporter)


def test_who_may_issue_a_secret(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)

    def issue(principal: object) -> None:
        with signer_rt.db.write() as connection:
            service.issue_secret(signer_rt, connection, principal, cam.id)  # type: ignore[arg-type]

    issue(person("maker", Role.MANUFACTURER, vendor="Vendor"))
    with pytest.raises(NotFound):
        issue(person("rival", Role.MANUFACTURER, vendor="Rival"))
    with pytest.raises(LachanError, match="lacks"):
        issue(person("auditor", Role.AUDITOR))


def test_a_secret_of_another_profile_than_the_url_names(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    with pytest.raises(errors.SecretForOtherProfile):
        service.enrol(
            signer_rt, device_name=cam.name, secret=cam.secret, csr_der=csr(), source="::1", profile="firmware-signing"
        )
    with signer_rt.db.write() as connection, pytest.raises(errors.ProfileUnknown):
        service.issue_secret(signer_rt, connection, ADMIN, cam.id, "firmware-signing")


def test_a_suspension_is_not_escaped_with_a_secret(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    cam.enrol(signer_rt, csr())
    with signer_rt.db.write() as connection:
        fresh = service.issue_secret(signer_rt, connection, ADMIN, cam.id)
        service.suspend(signer_rt, connection, ADMIN, device_id=cam.id, reason="looks odd")
    with pytest.raises(errors.CertificatesSuspended):
        cam.enrol(signer_rt, csr(), secret=fresh.secret)
    with signer_rt.db.write() as connection:
        service.release(signer_rt, connection, ADMIN, device_id=cam.id, reason="it was the cleaner")
    assert cam.enrol(signer_rt, csr(), secret=fresh.secret)


def test_a_key_revoked_as_compromised_never_comes_back(signer_rt: Runtime) -> None:
    cam, device_key = camera(signer_rt), key()
    cam.enrol(signer_rt, csr(device_key))
    with signer_rt.db.write() as connection:
        service.revoke(signer_rt, connection, ADMIN, device_id=cam.id, reason=Reason.KEY_COMPROMISE)
        fresh = service.issue_secret(signer_rt, connection, ADMIN, cam.id)
    with pytest.raises(errors.KeyUnfit, match="compromised"):
        cam.enrol(signer_rt, csr(device_key), secret=fresh.secret)
    assert cam.enrol(signer_rt, csr(), secret=fresh.secret)


def test_names_that_no_device_can_have(signer_rt: Runtime) -> None:
    for name in ("cam-1\0", "", "CAM 1", "x" * 300, "'; drop table devices"):
        with pytest.raises(errors.SecretRefused):
            service.enrol(signer_rt, device_name=name, secret="x", csr_der=csr(), source="::1")
