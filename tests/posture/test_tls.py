"""TLS as servers really speak it: `openssl s_server` in the roles of old and new cameras."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from lachan import clock
from lachan.net.sockets import Scope, ScopeEntry
from posture.probes import tls
from posture.probes.hello import VERSIONS, Flight, NotTls, ServerHello, client_hello
from posture.probes.observation import Outcome
from posture.probes.target import ProbeTarget
from tests.posture.cameras import BadCamera, SServer, make_certificate


def target(port: int) -> ProbeTarget:
    entry = ScopeEntry(network=ipaddress.ip_network("127.0.0.1"), ports=frozenset({port}))
    scope = Scope(
        "t", (entry,), frozenset({"connect", "tls", "http", "default-login", "banner"}), rate=1000.0, burst=1000
    )
    return ProbeTarget(host="127.0.0.1", scope=scope, ports=(port,))


def look(port: int) -> dict[str, tuple[Outcome, str, str]]:
    return {o.probe: (o.outcome, o.code, o.detail) for o in tls.probe(target(port), port)}


@pytest.fixture
def server(cameras: Callable[..., Any], tmp_path: Path) -> Callable[..., SServer]:
    def start(*options: str, **certificate: Any) -> SServer:
        made: SServer = cameras(SServer(make_certificate(tmp_path, **certificate), *options))
        return made

    return start


OLD = ("-cipher", "ALL:COMPLEMENTOFALL:@SECLEVEL=0")


def test_every_version_that_a_server_accepts_is_seen(server: Callable[..., SServer]) -> None:
    port = server(*OLD, "-min_protocol", "TLSv1", key="2048").port
    outcome, code, detail = look(port)["tls.versions"]
    assert (outcome, code, detail) == (Outcome.CONTRADICTS, "old_tls_accepted", "accepts TLS 1.0, TLS 1.1")


@pytest.mark.parametrize(
    ("options", "spoken"),
    [(("-tls1_2",), "TLS 1.2"), (("-tls1_3",), "TLS 1.3"), (("-min_protocol", "TLSv1.2"), "TLS 1.2, TLS 1.3")],
)
def test_current_versions_are_confirmed(server: Callable[..., SServer], options: tuple[str, ...], spoken: str) -> None:
    seen = look(server(*options).port)
    assert seen["tls.versions"] == (Outcome.CONFIRMS, "tls_current", f"accepts only {spoken}")
    assert seen["tls.ciphers"][0] is Outcome.CONFIRMS
    assert seen["tls.cert"][:2] == (Outcome.CONFIRMS, "certificate_sound")


def test_a_server_of_one_old_version_only(server: Callable[..., SServer]) -> None:
    """Nothing here depends on what the platform's TLS library is willing to speak."""
    seen = look(server(*OLD, "-tls1", key="2048").port)
    assert seen["tls.versions"] == (Outcome.CONTRADICTS, "old_tls_accepted", "accepts TLS 1.0")
    assert seen["tls.cert"][0] is Outcome.CONFIRMS


def test_weak_suites_are_seen(server: Callable[..., SServer]) -> None:
    outcome, code, detail = look(
        server("-tls1_2", "-cipher", "AECDH-AES128-SHA:NULL-SHA:AES128-SHA:@SECLEVEL=0", key="2048").port
    )["tls.ciphers"]
    assert (outcome, code) == (Outcome.CONTRADICTS, "weak_cipher")
    assert "AECDH-AES128" in detail or "NULL" in detail


@pytest.mark.parametrize(
    ("certificate", "code", "text"),
    [
        ({"key": "1024"}, "weak_key", "RSA key of 1024 bit"),
        ({"key": "1024", "digest": "sha1"}, "weak_key", "RSA key of 1024 bit; signed with sha1"),
        ({"key": "2048", "digest": "sha1"}, "weak_signature", "signed with sha1"),
    ],
)
def test_weak_certificates(server: Callable[..., SServer], certificate: dict[str, Any], code: str, text: str) -> None:
    assert look(server(*OLD, **certificate).port)["tls.cert"] == (Outcome.CONTRADICTS, code, text)


def test_expired_and_not_yet_valid(server: Callable[..., SServer], tmp_path: Path) -> None:
    der = x509.load_pem_x509_certificate(make_certificate(tmp_path, days=10).read_bytes())
    from cryptography.hazmat.primitives.serialization import Encoding

    with clock.travel(timedelta(days=11)):
        assert tls.judge_certificate(der.public_bytes(Encoding.DER), port=1, address="").code == "certificate_expired"
    with clock.travel(timedelta(days=-1)):
        assert (
            tls.judge_certificate(der.public_bytes(Encoding.DER), port=1, address="").code
            == "certificate_not_yet_valid"
        )
    assert tls.judge_certificate(b"\x30\x00", port=1, address="").outcome is Outcome.ERROR


def test_what_is_no_tls_is_not_taken_for_it(bad: BadCamera) -> None:
    assert tls.speaks(target(bad.port), bad.port) is False


def test_a_port_that_closed_meanwhile_is_unreachable(server: Callable[..., SServer]) -> None:
    with pytest.raises(Exception, match="refused") as refused:
        tls.speaks(target(1), 1)
    assert refused.value.reason == "refused"  # type: ignore[attr-defined]
    assert {outcome for outcome, _, _ in look(1).values()} == {Outcome.UNREACHABLE}


def test_our_hellos_are_read_by_openssl(server: Callable[..., SServer]) -> None:
    """Each hello offers its version and no other: the server's answer names it, or is an alert."""
    port = server(*OLD, "-min_protocol", "TLSv1", key="2048").port
    for name in ("TLS 1.0", "TLS 1.1", "TLS 1.2", "TLS 1.3"):
        flight = tls._try(target(port), port, VERSIONS[name])
        assert flight.hello is not None, name
        assert flight.hello.version == VERSIONS[name]
    flight = tls._try(target(port), port, VERSIONS["SSL 3.0"])
    assert flight.hello is None
    assert flight.alert is not None


def test_openssl_agrees(server: Callable[..., SServer]) -> None:
    """The same server asked by `openssl s_client`: another program, the same answer."""
    port = server("-tls1_2").port
    said = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"],
        input=b"",
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert b"Protocol  : TLSv1.2" in said.stdout or b"New, TLSv1.2" in said.stdout
    assert "TLS 1.2" in look(port)["tls.versions"][2]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(min_value=1, max_value=7))
def test_a_hostile_flight_is_read_or_refused(data: bytes, step: int) -> None:
    for lead in (b"", b"\x16\x03\x03", b"\x16\x03\x01\x00\x30\x02\x00\x00\x2c"):
        flight = Flight()
        try:
            for at in range(0, len(lead + data), step):
                flight.feed((lead + data)[at : at + step])
        except NotTls:
            continue


def test_a_flight_in_single_bytes() -> None:
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\xc0\x2f" + b"\x00"
    record = b"\x16\x03\x03" + (len(body) + 4).to_bytes(2, "big") + b"\x02" + len(body).to_bytes(3, "big") + body
    flight = Flight()
    for byte in record:
        flight.feed(bytes([byte]))
    assert flight.hello == ServerHello(0x0303, 0xC02F)


def test_a_hello_names_the_host_but_never_an_address() -> None:
    assert b"cam.example" in client_hello(0x0303, name="cam.example")
    assert b"10.0.0.1" not in client_hello(0x0303, name="10.0.0.1")
