"""The status door's answers from memory: at once, once made, and never past a change of what they were made of."""

import base64
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp as library

from api.memory import Marks
from lachan.runtime import Runtime
from pki import crl, service
from tests.pki.doors import open_doors
from tests.pki.support import ADMIN, camera, csr
from tests.support.wait import until


class Place:
    """The status door with one certificate that was asked about."""

    def __init__(self, rt: Runtime, url: str) -> None:
        self.rt, self.url = rt, url
        self.camera = camera(rt)
        self.certificate = self.camera.enrol(rt, csr()).certificate
        crl.publish(rt)
        issuing = service.hierarchy(rt.db).issuing
        built = library.OCSPRequestBuilder().add_certificate(self.certificate, issuing, hashes.SHA256()).build()
        self.path = f"/ocsp/{quote(base64.b64encode(built.public_bytes(serialization.Encoding.DER)), safe='')}"

    def signatures(self) -> int:
        """How often the signer has signed so far."""
        log = self.rt.settings.signer_home / "signatures.log"
        return log.read_bytes().count(b'"kind":"ocsp"') + log.read_bytes().count(b'"kind": "ocsp"')


@pytest.fixture
def place(signer_rt: Runtime, tmp_path: Path) -> Iterator[Place]:
    with open_doors(signer_rt, tmp_path / "c") as doors:
        yield Place(signer_rt, doors.url("status"))


def test_what_was_answered_is_answered_again_without_the_signer(place: Place) -> None:
    with httpx.Client(base_url=place.url) as client:
        first = client.get(place.path)
        made = place.signatures()
        assert made
        again = [client.get(place.path) for _ in range(5)]
        assert {answer.content for answer in again} == {first.content}
        assert place.signatures() == made
        assert len({answer.headers["X-Request-Id"] for answer in again}) == 5
        assert all(
            answer.headers["X-Content-Type-Options"] == "nosniff" and "Date" in answer.headers for answer in again
        )


def test_a_change_is_in_the_next_answer(place: Place) -> None:
    def status() -> library.OCSPCertStatus:
        return library.load_der_ocsp_response(client.get(place.path).content).certificate_status

    def number() -> int:
        listed = x509.load_der_x509_crl(client.get("/crl/issuing.crl").content)
        return listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    with httpx.Client(base_url=place.url) as client:
        assert [status() for _ in range(3)] == [library.OCSPCertStatus.GOOD] * 3
        before = [number() for _ in range(3)]
        with place.rt.db.write() as connection:
            service.suspend(place.rt, connection, ADMIN, device_id=place.camera.id, reason="")
        patience = (
            0.0 if place.rt.db.dialect == "sqlite" else 2.0
        )  # at the next request; on PostgreSQL within the bound
        until(lambda: status() is library.OCSPCertStatus.REVOKED, timeout=patience)
        made = crl.publish(place.rt).number
        until(lambda: number() == made, timeout=patience)
        assert made > before[0] == before[-1]


def test_on_sqlite_the_marks_are_exact_and_cost_no_reading_where_nothing_changed(signer_rt: Runtime) -> None:
    marks = Marks(signer_rt.db)
    if signer_rt.db.dialect != "sqlite":
        assert marks.fresh() is None  # somebody must look, in a thread
        return
    first = marks.fresh()
    assert first is not None and marks.fresh() is first
    reads: list[str] = []
    original = marks._read_marks
    marks._read_marks = lambda connection: reads.append("") or original(connection)  # type: ignore[method-assign,func-returns-value]
    assert marks.fresh() is first and not reads
    cam = camera(signer_rt)
    cam.enrol(signer_rt, csr())
    with signer_rt.db.write() as connection:
        service.suspend(signer_rt, connection, ADMIN, device_id=cam.id, reason="")
    second = marks.fresh()
    assert second is not None and second.revisions["issuing"] == first.revisions.get("issuing", 0) + 1
    assert len(reads) == 1 and marks.fresh() is second and len(reads) == 1
    marks.close()


def test_entity_tags_are_compared_weakly_and_head_is_get_without_a_body(place: Place) -> None:
    with httpx.Client(base_url=place.url) as client:
        for path in (place.path, "/crl/issuing.crl", "/crl/root.crl", "/ca/issuing.crt", "/ca/chain.pem"):
            got = client.get(path)
            tag = got.headers["ETag"]
            for known in (tag, f"W/{tag}", f'"other", W/{tag}', "*"):
                answer = client.get(path, headers={"If-None-Match": known})
                assert (answer.status_code, answer.content) == (304, b""), (path, known)
                assert answer.headers["ETag"] == tag and answer.headers["Cache-Control"]
            assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
            head = client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["Content-Length"] == str(len(got.content))


def test_pipelined_requests_are_answered_in_their_order(place: Place) -> None:
    """Those that are known at once stand between those that are not."""
    at = urlsplit(place.url)
    paths = ["/ca/issuing.crt", "/nothing", place.path, "/crl/issuing.crl", "/ca/other.crt", "/ca/issuing.crt"] * 3
    with socket.create_connection((at.hostname, at.port), timeout=10) as connection:
        sent = "".join(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: number-{n:04}\r\n\r\n" for n, path in enumerate(paths)
        )
        connection.sendall(sent.encode())
        connection.sendall(b"GET /ca/issuing.crt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        got = b"".join(iter(lambda: connection.recv(65536), b""))
    lines = [line.split(b": ")[1] for line in got.split(b"\r\n") if line.lower().startswith(b"x-request-id: number")]
    assert lines == [f"number-{n:04}".encode() for n in range(len(paths))]
    assert got.count(b"HTTP/1.1 404") == 6
    assert got.count(b"HTTP/1.1 200") == 13


def test_a_path_that_can_be_read_in_two_ways_is_none(place: Place) -> None:
    at = urlsplit(place.url)
    for path in (
        "/ca/../ca/issuing.crt",
        "/ca//issuing.crt",
        "/ca%2fissuing.crt",
        "/ca/./issuing.crt",
        "/ca/%2e%2e/ca/issuing.crt",
    ):
        with socket.create_connection((at.hostname, at.port), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            got = b"".join(iter(lambda: connection.recv(65536), b""))
        assert got.startswith(b"HTTP/1.1 404"), path
        assert b"application/problem+json" in got
