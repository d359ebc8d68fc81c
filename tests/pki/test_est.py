"""EST over the real device door (RFC 7030): operations, media types, encodings, errors and channel binding."""

import base64
import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from OpenSSL import SSL

from api.device import est
from lachan.runtime import Runtime
from pki import service
from pki.states import Reason
from tests.pki.doors import Doors, open_doors
from tests.pki.support import ADMIN, Camera, camera, contain, csr, end_containment, key
from tests.support.malleable import twin_of
from tests.support.wait import until

EST = "/.well-known/est"
PKCS10 = {"Content-Type": "application/pkcs10"}


@pytest.fixture
def doors(signer_rt: Runtime, tmp_path: Path) -> Iterator[Doors]:
    with open_doors(signer_rt, tmp_path / "clients") as found:
        yield found


def certificates(answer: httpx.Response) -> list[x509.Certificate]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Transfer-Encoding"] == "base64"
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))


def post(
    client: httpx.Client, cam: Camera, request: bytes, operation: str = "simpleenroll", secret: str | None = None
) -> httpx.Response:
    body = base64.encodebytes(request)
    return client.post(f"{EST}/{operation}", content=body, headers=PKCS10, auth=(cam.name, secret or cam.secret))


def test_a_devices_life_over_the_wire(signer_rt: Runtime, doors: Doors) -> None:
    cam, first_key, second_key = camera(signer_rt), key(), key()
    with doors.client() as client:
        authorities = certificates(client.get(f"{EST}/cacerts"))
        hierarchy = service.hierarchy(signer_rt.db)
        assert set(authorities) == {hierarchy.root, hierarchy.issuing}
        assert client.get(f"{EST}/csrattrs").headers["Content-Type"] == "application/csrattrs"
        answer = post(client, cam, csr(first_key))
        assert answer.headers["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
        (first,) = certificates(answer)
        assert all(len(line) <= 64 for line in answer.text.splitlines())
        assert certificates(post(client, cam, csr(first_key))) == [first]  # the answer was lost
        assert post(client, cam, csr()).status_code == 401  # somebody else saw the secret
    renewal = csr(second_key, subject=first.subject)
    with doors.client(first, first_key) as client:
        answer = client.post(f"{EST}/simplereenroll", content=renewal, headers=PKCS10)
        (second,) = certificates(answer)
    assert second.subject == first.subject
    with doors.client(second, second_key) as client:
        assert client.get("/device/v1/self").status_code == 200


def test_quarantine_holds_over_the_wire_and_ends(signer_rt: Runtime, doors: Doors) -> None:
    cam, device_key = camera(signer_rt), key()
    with doors.client() as client:
        (first,) = certificates(post(client, cam, csr(device_key)))
    with signer_rt.db.write() as connection:
        fresh = service.issue_secret(signer_rt, connection, ADMIN, cam.id)
    renewal = csr(key(), subject=first.subject)

    def renew() -> httpx.Response:
        while True:  # a connection may be closed before its answer: the decision just changed
            try:
                with doors.client(first, device_key) as client:
                    return client.post(f"{EST}/simplereenroll", content=renewal, headers=PKCS10)
            except httpx.TransportError:
                continue

    contain(signer_rt, cam.id)
    until(lambda: renew().status_code == 403, timeout=5)
    with doors.client() as client:
        for answer in (
            post(client, cam, csr(device_key)),  # the old secret
            post(client, cam, csr(), secret=fresh.secret),  # a new key
            post(client, cam, csr(), "camera/simpleenroll", secret=fresh.secret),
        ):
            assert answer.status_code == 403
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert "contained" in answer.text
    assert "contained" in renew().text or "decision" in renew().text
    end_containment(signer_rt, cam.id)
    until(lambda: renew().status_code == 200, timeout=5)
    with doors.client() as client:
        assert post(client, cam, csr(), secret=fresh.secret).status_code == 200


@pytest.mark.parametrize("standing", ["valid", "suspended", "revoked", "contained"])
def test_a_certificate_with_its_signature_rewritten_is_served_nothing(
    signer_rt: Runtime, doors: Doors, standing: str
) -> None:
    """Not before, and not when the certificate itself is refused: it never was the registered one."""
    cam, device_key = camera(signer_rt), key()
    with doors.client() as client:
        (first,) = certificates(post(client, cam, csr(device_key)))
    twin, renewal = twin_of(first), csr(key(), subject=first.subject)

    def asked(shown: x509.Certificate) -> tuple[str, int]:
        with doors.client(shown, device_key) as client:
            try:
                told = client.get("/device/v1/self").json()
                renewed = client.post(f"{EST}/simplereenroll", content=renewal, headers=PKCS10)
            except httpx.TransportError:
                return "cut", 0  # the decision changed under the connection
        return told.get("reason") or told["answer"], renewed.status_code

    assert asked(twin) == ("unregistered", 403)
    assert asked(first) == ("allow", 200)
    with signer_rt.db.write() as connection:
        if standing == "suspended":
            service.suspend(signer_rt, connection, ADMIN, device_id=cam.id, reason="odd")
        if standing == "revoked":
            service.revoke(signer_rt, connection, ADMIN, device_id=cam.id, reason=Reason.KEY_COMPROMISE)
    if standing == "contained":
        contain(signer_rt, cam.id)
    if standing != "valid":
        reason = "quarantine" if standing == "contained" else standing
        until(lambda: asked(first) == (reason, 403), timeout=5)
    assert asked(twin) == ("unregistered", 403)
    if standing == "contained":
        end_containment(signer_rt, cam.id)
        until(lambda: asked(first) == ("allow", 200), timeout=5)
        assert asked(twin) == ("unregistered", 403)


def test_answers_to_what_is_wrong(signer_rt: Runtime, doors: Doors) -> None:
    cam = camera(signer_rt)
    path = f"{EST}/simpleenroll"
    good, basic = base64.b64encode(csr()), (cam.name, cam.secret)
    with doors.client() as client:
        anonymous = client.post(path, content=good, headers=PKCS10)
        assert anonymous.status_code == 401
        assert anonymous.headers["WWW-Authenticate"] == 'Basic realm="est"'
        wrong = client.post(path, content=good, headers=PKCS10, auth=(cam.name, "x"))
        unknown = client.post(path, content=good, headers=PKCS10, auth=("nobody", "x"))
        assert wrong.status_code == unknown.status_code == 401
        assert wrong.text == unknown.text  # it is not told which of the two was wrong
        broken = {"Authorization": "Basic %%%", **PKCS10}
        assert client.post(path, content=good, headers=broken).status_code == 401
        assert client.post(path, content=good, auth=basic).status_code == 415
        for body in (b"", b"%%%", b"MII=", csr()[:-3]):
            assert client.post(path, content=body, headers=PKCS10, auth=basic).status_code == 400, body
        assert client.post(path, content=b"M" * 40_000, headers=PKCS10, auth=basic).status_code == 413
        assert client.post(f"{EST}/tv/simpleenroll", content=good, headers=PKCS10, auth=basic).status_code == 404
        assert client.get(f"{EST}/server/cacerts").status_code == 404
        for operation in ("serverkeygen", "fullcmc", "camera/serverkeygen"):
            answer = client.post(f"{EST}/{operation}", content=good, headers=PKCS10, auth=basic)
            assert (answer.status_code, answer.text.count("\n")) == (501, 1)
        reenroll = client.post(f"{EST}/simplereenroll", content=good, headers=PKCS10, auth=basic)
        assert reenroll.status_code == 401
        assert reenroll.headers["Content-Type"].startswith("text/plain")
        other = post(client, cam, csr(names=[x509.DNSName("cam-2")]))
        assert (other.status_code, "cam-2" in other.text) == (403, True)
        for _ in range(20):
            answer = post(client, cam, csr(), secret="x")
        assert answer.status_code == 429
        assert 0 < int(answer.headers["Retry-After"]) <= 900


def test_requests_in_every_encoding(signer_rt: Runtime, doors: Doors) -> None:
    request, cases = csr(), {}
    cases["der"] = request
    cases["pem"] = x509.load_der_x509_csr(request).public_bytes(Encoding.PEM)
    cases["one-line"] = base64.b64encode(request)
    cases["wrapped"] = base64.encodebytes(request).replace(b"\n", b"\r\n")
    cam = camera(signer_rt)
    for form, body in cases.items():  # the same key, so each of them gets the same certificate
        with doors.client() as client:
            answer = client.post(
                f"{EST}/camera/simpleenroll",
                content=body,
                headers={"Content-Type": "application/pkcs10; charset=binary"},
                auth=(cam.name, cam.secret),
            )
        assert len(certificates(answer)) == 1, form


def test_certificates_only_are_written_as_the_library_writes_them(signer_rt: Runtime) -> None:
    chain = service.hierarchy(signer_rt.db).chain
    for count in (1, 2):
        made = est._certs_only(*(certificate.public_bytes(Encoding.DER) for certificate in chain[:count]))
        assert made == pkcs7.serialize_certificates(chain[:count], Encoding.DER)


def test_a_client_without_user_agent_gets_one_line(signer_rt: Runtime, doors: Doors) -> None:
    """strongSwan up to 5.9.8 stops at the first line end."""
    connection = http.client.HTTPSConnection("localhost", doors.ports["device"], context=doors.context())
    connection.request("GET", f"{EST}/cacerts")
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert b"\n" not in text
    assert ("Content-Length", str(len(text))) in answer.getheaders()  # and it looks for exactly this spelling
    assert len(pkcs7.load_der_pkcs7_certificates(base64.b64decode(text))) == 2


@pytest.mark.parametrize("right", [True, False])
def test_tls_unique_in_challenge_password(signer_rt: Runtime, doors: Doors, *, right: bool) -> None:
    """RFC 7030 3.5, as a TLS 1.2 client does it."""
    cam, context = camera(signer_rt), doors.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    connection = http.client.HTTPSConnection("localhost", doors.ports["device"], context=context)
    connection.connect()
    unique = connection.sock.get_channel_binding("tls-unique")
    assert unique
    request = csr(challenge=base64.b64encode(unique if right else bytes(len(unique))))
    credentials = base64.b64encode(f"{cam.name}:{cam.secret}".encode()).decode()
    headers = {**PKCS10, "Authorization": f"Basic {credentials}"}
    connection.request("POST", f"{EST}/simpleenroll", base64.b64encode(request), headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status == (200 if right else 400), text


def test_exporter_of_tls_13_in_challenge_password(signer_rt: Runtime, doors: Doors) -> None:
    """What takes tls-unique's place in TLS 1.3 (RFC 9266)."""
    cam, context = camera(signer_rt), SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.load_verify_locations(str(doors.anchors))
    context.set_verify(SSL.VERIFY_PEER)
    with socket.create_connection(("localhost", doors.ports["device"]), timeout=None) as raw:
        connection = SSL.Connection(context, raw)
        connection.set_connect_state()
        connection.do_handshake()
        exporter = connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        body = base64.b64encode(csr(challenge=base64.b64encode(exporter)))
        credentials = base64.b64encode(f"{cam.name}:{cam.secret}".encode())
        head = b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += b"Content-Type: application/pkcs10\r\nAuthorization: Basic " + credentials
        connection.sendall(head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
