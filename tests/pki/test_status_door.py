"""The status door over plain HTTP: certificates of authorities, CRLs, OCSP by POST and GET."""

import base64
from pathlib import Path
from urllib.parse import quote

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp as library

from lachan.runtime import Runtime
from pki import crl, ocsp, service
from tests.pki.doors import open_doors
from tests.pki.support import ADMIN, camera, csr


def test_everything_the_certificates_point_to(signer_rt: Runtime, tmp_path: Path) -> None:
    cam = camera(signer_rt)
    certificate = cam.enrol(signer_rt, csr()).certificate
    hierarchy = service.hierarchy(signer_rt.db)
    crl.publish(signer_rt)
    builder = library.OCSPRequestBuilder().add_certificate(certificate, hierarchy.issuing, hashes.SHA256())
    question = builder.build().public_bytes(serialization.Encoding.DER)
    with open_doors(signer_rt, tmp_path / "c") as doors, httpx.Client(base_url=doors.url("status")) as client:
        for name, wanted in (("root", hierarchy.root), ("issuing", hierarchy.issuing)):
            answer = client.get(f"/ca/{name}.crt")
            assert answer.headers["Content-Type"] == "application/pkix-cert"
            assert x509.load_der_x509_certificate(answer.content) == wanted
            listed = client.get(f"/crl/{name}.crl")
            assert listed.headers["Content-Type"] == "application/pkix-crl"
            assert x509.load_der_x509_crl(listed.content).issuer == wanted.subject
        assert x509.load_pem_x509_certificates(client.get("/ca/chain.pem").content) == hierarchy.chain
        for path in ("/ca/other.crt", "/crl/other.crl", "/ca/ocsp-responder.crt"):
            assert client.get(path).status_code == 404, path

        path = f"/ocsp/{quote(base64.b64encode(question), safe='')}"
        posted, got = client.post("/ocsp", content=question), client.get(path)
        assert posted.content == got.content
        assert got.headers["Content-Type"] == "application/ocsp-response"
        assert f"max-age={ocsp.MAX_AGE}" in got.headers["Cache-Control"]
        status = library.load_der_ocsp_response(got.content)
        assert status.certificate_status is library.OCSPCertStatus.GOOD
        assert status.next_update_utc is not None
        for broken in (client.get("/ocsp/%%%"), client.post("/ocsp", content=b"x")):
            said = library.load_der_ocsp_response(broken.content).response_status
            assert said is library.OCSPResponseStatus.MALFORMED_REQUEST
            assert broken.headers["Cache-Control"] == "no-store"

        with signer_rt.db.write() as connection:
            service.suspend(signer_rt, connection, ADMIN, device_id=cam.id, reason="")
        after = library.load_der_ocsp_response(client.get(path).content)
        assert after.revocation_reason is x509.ReasonFlags.certificate_hold


def test_pointers_in_a_certificate_are_those_of_the_status_door(signer_rt: Runtime) -> None:
    certificate = camera(signer_rt).enrol(signer_rt, csr()).certificate
    base = signer_rt.settings.status_url
    (point,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name is not None
    assert point.full_name[0].value == f"{base}/crl/issuing.crl"
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert {item.access_location.value for item in access} == {f"{base}/ocsp", f"{base}/ca/issuing.crt"}
