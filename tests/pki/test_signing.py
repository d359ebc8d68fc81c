"""The signer's side: what a taken-over web process may ask for, and what it gets for the rest."""

import json
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from lachan import devices
from lachan.runtime import Runtime
from lachan.signer.errors import SignerBusy, SignerRefused
from pki import authorities, errors, lint, profiles, service
from pki.signing import is_recorded
from tests.pki.support import ADMIN, camera, contain, csr, facts, key
from tests.support.wait import until


def spki(public: object = None) -> bytes:
    public = public or key().public_key()
    return public.public_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"ca": True}, "ca"),
    ({"basic_constraints": "CA:TRUE"}, "basic_constraints"),
    ({"san": ["city.example"]}, "san"),
    ({"names": ["city.example"]}, "names"),
    ({"subject": "CN=root"}, "subject"),
    ({"profile": "issuing"}, "profile"),
    ({"profile": "root"}, "profile"),
    ({"profile": 1}, "profile"),
    ({"profile": "server"}, "device_id"),
    ({"profile": "firmware-signing"}, "field"),
    ({"device_id": "01890a5d-ac96-774b-bcce-b302099a8057"}, "registered"),
    ({"device_id": None}, "device_id"),
    ({"spki": "text"}, "spki"),
    ({"spki": b"junk"}, "key"),
    ({"spki": spki(rsa.generate_private_key(65537, 1024).public_key())}, "rsa-1024"),
    ({"spki": spki(ec.generate_private_key(ec.SECP521R1()).public_key())}, "secp521r1"),
]


def test_the_signer_refuses_what_the_profile_does_not_say(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    for fields, why in REFUSED:
        with pytest.raises(SignerRefused, match=why):
            signer_rt.signer.request("issue", **{"profile": "camera", "device_id": cam.id, "spki": spki(), **fields})
    until(lambda: len(facts(signer_rt, "SignatureRefused")) == len(REFUSED), what="the refusals in the outbox")
    assert not facts(signer_rt, "CertificateIssued", device_id=cam.id)


def test_server_names_are_the_configured_ones(signer_rt: Runtime) -> None:
    for names in ([], ["city.example"], ["localhost", "city.example"], ["*"]):
        with pytest.raises(SignerRefused, match="name"):
            signer_rt.signer.request("issue", profile="server", names=names, spki=spki())
        with pytest.raises(errors.NamesNotOurs):
            service.issue_server_certificate(signer_rt, names)


def test_retired_and_contained_devices_are_refused_by_the_signer_too(signer_rt: Runtime) -> None:
    one, two = camera(signer_rt), camera(signer_rt, "cam-2")
    contain(signer_rt, one.id)
    with signer_rt.db.write() as connection:
        devices.retire(connection, two.id, "broken", actor=ADMIN)
    for cam, why in ((one, "contained"), (two, "retired")):
        with pytest.raises(SignerRefused, match=why):
            signer_rt.signer.request("issue", profile="camera", device_id=cam.id, spki=spki())


def test_an_unlinted_profile_is_refused(signer_rt: Runtime) -> None:
    record = authorities.folder(signer_rt.settings) / lint.RECORD
    known = json.loads(record.read_text())
    assert set(known.values()) == set(profiles.load())
    record.write_text(json.dumps({digest: name for digest, name in known.items() if name != "camera"}))
    with pytest.raises(SignerRefused, match="linted"):
        camera(signer_rt).enrol(signer_rt, csr())
    lint.approve(authorities.folder(signer_rt.settings), profiles.load())
    assert camera(signer_rt, "cam-2").enrol(signer_rt, csr())


OCSP_REFUSED: list[dict[str, object]] = [
    {"certificates": [], "nonce": b""},
    {"certificates": [{"hash": "sha1", "serial_number": b"\1"}] * 21, "nonce": b""},
    {"certificates": [{"hash": "md5", "serial_number": b"\1"}], "nonce": b""},
    {"certificates": [{"hash": "sha1", "serial_number": b""}], "nonce": b""},
    {"certificates": [{"hash": "sha1", "serial_number": b"\1", "status": "good"}], "nonce": b""},
    {"certificates": [{"hash": "sha1", "serial_number": b"\1"}], "nonce": b"n" * 129},
    {"certificates": [{"hash": "sha1", "serial_number": b"\1"}], "nonce": b"", "status": "good"},
]


def test_ocsp_requests_of_other_shapes_are_refused(signer_rt: Runtime) -> None:
    for request in OCSP_REFUSED:
        with pytest.raises(SignerRefused):
            signer_rt.signer.request("ocsp", **request)


def test_crl_takes_no_fields(signer_rt: Runtime) -> None:
    with pytest.raises(SignerRefused):
        signer_rt.signer.request("crl", leave_out=["4711"])


def test_hierarchy_is_what_the_documents_say(signer_rt: Runtime) -> None:
    found = service.hierarchy(signer_rt.db)
    found.issuing.verify_directly_issued_by(found.root)
    found.root.verify_directly_issued_by(found.root)
    limits = found.issuing.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (limits.critical, limits.value.ca, limits.value.path_length) == (True, True, 0)
    assert found.issuing.not_valid_after_utc <= found.root.not_valid_after_utc
    for certificate in (found.root, found.issuing):
        assert lint.findings(certificate.public_bytes(serialization.Encoding.DER)) == []
    names = [f.event.name for f in facts(signer_rt, "AuthorityCreated")]
    assert {"root", "issuing"} <= set(names)


def test_root_key_leaves_the_machine_encrypted(signer_rt: Runtime, tmp_path: object) -> None:
    from pathlib import Path

    offline = Path(str(tmp_path)) / "offline"
    pem = (offline / "root.key").read_bytes()
    passphrase = (offline / "root.passphrase").read_bytes().strip()
    assert b"ENCRYPTED" in pem
    with pytest.raises(TypeError):
        serialization.load_pem_private_key(pem, None)
    root_key = serialization.load_pem_private_key(pem, passphrase)
    assert root_key.public_key() == service.hierarchy(signer_rt.db).root.public_key()
    assert {path.stat().st_mode & 0o777 for path in (offline / "root.key", offline / "root.passphrase")} == {0o600}
    data = signer_rt.settings.data
    for path in data.rglob("*"):
        if path.is_file():
            assert b"lachan root" not in path.read_bytes() or path.suffix not in {".key", ".pub"}
    assert not any("root" in path.name for path in data.rglob("*.key"))


def test_init_again_changes_nothing(signer_rt: Runtime, tmp_path: object) -> None:
    from pathlib import Path

    from lachan.signer.context import InitContext
    from lachan.signer.keystore import FileKeyStore
    from pki import setup

    before = service.hierarchy(signer_rt.db)
    keys = FileKeyStore(signer_rt.settings.signer_home / "keys", b"unused")
    setup.init(InitContext(signer_rt.settings, signer_rt.db, keys, Path(str(tmp_path)) / "offline2"))
    assert service.hierarchy(signer_rt.db) == before


def test_a_certificate_never_outlives_its_issuer(signer_rt: Runtime) -> None:
    found = service.hierarchy(signer_rt.db)
    template = profiles.compile_template(
        profiles.get("camera"), profiles.Issuer(found.authorities[0], "http://status.lachan.invalid")
    )
    end = found.issuing.not_valid_after_utc
    body = template.fill(
        serial=1 << 126, not_before=end - timedelta(days=1), not_after=end + timedelta(days=90),
        subject=found.issuing.subject.public_bytes(), spki=spki(), key_id=b"k" * 20, san=b"",
    )  # fmt: skip
    from lachan import der

    signature = der.sequence(der.integer(1), der.integer(1))
    certificate = x509.load_der_x509_certificate(der.signed(body, profiles.ECDSA_SHA256, signature))
    assert certificate.not_valid_after_utc == end


def test_every_signature_is_in_the_books(signer_rt: Runtime) -> None:
    certificate = camera(signer_rt).enrol(signer_rt, csr()).certificate
    with signer_rt.db.read() as connection:
        assert is_recorded(connection, f"{certificate.serial_number:x}")
        assert not is_recorded(connection, "4711")


def test_service_certificates_are_renewed_in_their_last_third(signer_rt: Runtime) -> None:
    from lachan import clock
    from pki.issuing import renew_services

    before = service.service_certificate(signer_rt.db, "ocsp-responder")
    renew_services(signer_rt)
    assert service.service_certificate(signer_rt.db, "ocsp-responder") == before
    with clock.travel(timedelta(days=300)):
        renew_services(signer_rt)
    after = service.service_certificate(signer_rt.db, "ocsp-responder")
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert authorities.kept(signer_rt.settings, "ocsp-responder") == after
    assert after.public_key() == before.public_key()


def test_a_device_has_so_many_certificates_an_hour_whatever_the_database_says(signer_rt: Runtime) -> None:
    """Somebody who has taken the door over asks the signer itself: its own count stops them."""
    cam, public = camera(signer_rt), spki()
    most = signer_rt.settings.signer_device_hour
    for _ in range(most):
        assert signer_rt.signer.request("issue", profile="camera", device_id=cam.id, spki=public)
    for _ in range(3):
        with pytest.raises(SignerBusy) as caught:
            signer_rt.signer.request("issue", profile="camera", device_id=cam.id, spki=public)
    assert 1 <= caught.value.fields["retry_after"] <= 3600
    until(lambda: len(facts(signer_rt, "SignatureRefused")) == 1, what="one refusal in the outbox, not one each")
    other = camera(signer_rt, "cam-2")
    assert signer_rt.signer.request("issue", profile="camera", device_id=other.id, spki=spki())
