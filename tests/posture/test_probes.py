"""What the HTTP, login and banner probes see on a bad and on a good camera, and what they must not do."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from lachan.net.sockets import Scope, ScopeEntry
from posture.catalogue import catalogue
from posture.engagements import Method
from posture.probes import login
from posture.probes.observation import EXCERPT, Observation, Outcome, redact
from posture.probes.run import PROBES, run
from posture.probes.target import ByteBudget, ProbeTarget
from tests.posture.cameras import BadCamera, BadHandler, ChangedHandler, GoodCamera, make_certificate
from tests.support import wait

METHODS = frozenset({"connect", *map(str, Method)})


def target(*ports: int, methods: frozenset[str] = METHODS, **more: Any) -> ProbeTarget:
    entry = ScopeEntry(network=ipaddress.ip_network("127.0.0.1"), ports=frozenset(ports))
    scope = Scope("t", (entry,), methods, rate=1000.0, burst=1000)
    return ProbeTarget(host="127.0.0.1", scope=scope, ports=ports, **more)


def look(made: ProbeTarget) -> dict[str, Observation]:
    """The weightiest observation of each probe."""
    order = list(Outcome)
    found: dict[str, Observation] = {}
    for seen in run(made, paths=catalogue().paths, pairs=catalogue().pairs):
        if seen.probe not in found or order.index(seen.outcome) < order.index(found[seen.probe].outcome):
            found[seen.probe] = seen
    return found


def test_the_bad_camera_shows_its_faults(bad: BadCamera) -> None:
    seen = look(target(bad.port))
    codes = {probe: o.code for probe, o in seen.items() if o.outcome is Outcome.CONTRADICTS}
    assert codes == {
        "http.banner": "version_disclosed", "http.auth_scheme": "basic_over_cleartext",
        "http.basic_over_cleartext": "basic_over_cleartext", "net.plaintext_services": "plain_http_admin",
        "http.backup_file": "directory_listing", "cred.default_http": "default_login_accepted",
    }  # fmt: skip
    assert set(seen) == {name for names in PROBES.values() for name in names}


def test_the_good_camera_is_accused_of_nothing(cameras: Callable[..., Any], tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    good = cameras(GoodCamera.start(certificate, certificate.with_suffix(".key")))
    seen = look(target(good.port))
    assert [o for o in seen.values() if o.outcome is Outcome.CONTRADICTS] == []
    assert seen["tls.versions"].outcome is Outcome.CONFIRMS
    assert seen["http.auth_scheme"].outcome is Outcome.CONFIRMS
    assert seen["cred.default_http"].code == "default_login_refused"


def test_at_most_three_tries_and_none_after_success(cameras: Callable[..., Any], bad: BadCamera) -> None:
    look(target(bad.port))
    tried = sum(1 for _, scheme in bad.requests if scheme)
    assert tried == 2, "admin/admin is the first pair: no second try, but one made up, which must be refused"
    changed = cameras(BadCamera.start(ChangedHandler))
    look(target(changed.port))
    assert sum(1 for _, scheme in changed.requests if scheme) == 3


def test_the_vendors_pairs_come_first() -> None:
    order = [pair["id"] for pair in login._ordered(catalogue().pairs, "Hikvision")]
    assert order[0] == "hikvision-admin-12345"
    assert not any(name.startswith(("axis", "dahua")) for name in order)
    assert not any(
        name.startswith(("axis", "dahua", "hik")) for name in [p["id"] for p in login._ordered(catalogue().pairs, "")]
    )


def test_a_device_that_locks_is_left_alone(bad: BadCamera) -> None:
    seen = look(target(bad.port, lockout=True))["cred.default_http"]
    assert (seen.outcome, seen.code) == (Outcome.NOT_TRIED, "lockout_declared")
    assert not any(scheme for _, scheme in bad.requests)
    assert look(target(bad.port, lockout=True, try_lockout=True))["cred.default_http"].code == "default_login_accepted"


class LockingHandler(ChangedHandler):
    """Locks at the first wrong password."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization"):
            self.server.requests.append((self.requestline, "Basic"))  # type: ignore[attr-defined]
            self.answer(429, b"locked")
        else:
            super().do_GET()


def test_a_lockout_met_ends_the_tries(cameras: Callable[..., Any]) -> None:
    camera = cameras(BadCamera.start(LockingHandler))
    seen = look(target(camera.port))["cred.default_http"]
    assert (seen.outcome, seen.code) == (Outcome.SILENT, "lockout_met")
    assert sum(1 for _, scheme in camera.requests if scheme) == 1


class CatchAllHandler(BadHandler):
    """Answers every address with its front page, as single-page applications do."""

    def do_GET(self) -> None:
        self.answer(200, b"<title>Index of / camera</title>root:x:0:0")


def test_a_catch_all_is_not_accused(cameras: Callable[..., Any]) -> None:
    seen = look(target(cameras(BadCamera.start(CatchAllHandler)).port))
    assert seen["http.backup_file"].code == seen["http.unauth_config_read"].code == "catch_all"
    assert seen["cred.default_http"].code == "no_login_seen"


class RedirectHandler(BadHandler):
    """Sends everybody elsewhere."""

    elsewhere = ""

    def do_GET(self) -> None:
        self.answer(302, b"", Location=self.elsewhere)


def test_redirects_are_not_followed(cameras: Callable[..., Any], bad: BadCamera) -> None:
    handler: type[BaseHTTPRequestHandler] = type(
        "H", (RedirectHandler,), {"elsewhere": f"http://127.0.0.1:{bad.port}/"}
    )
    seen = look(target(cameras(BadCamera.start(handler)).port))
    assert bad.connections == 0
    assert seen["net.plaintext_services"].outcome is Outcome.SILENT
    to_tls: type[BaseHTTPRequestHandler] = type(
        "S", (RedirectHandler,), {"elsewhere": f"https://127.0.0.1:{bad.port}/"}
    )
    assert look(target(cameras(BadCamera.start(to_tls)).port))["net.plaintext_services"].code == "redirects_to_tls"
    assert bad.connections == 0


def greeter(cameras: Callable[..., Any], greeting: bytes) -> Any:
    """A port that speaks first and records what it hears."""

    class Greeter:
        def __init__(self) -> None:
            self.socket = socket.create_server(("127.0.0.1", 0))
            self.port = self.socket.getsockname()[1]
            self.heard: list[bytes] = []
            self.ended = threading.Event()
            self.thread = threading.Thread(target=self.serve)
            self.thread.start()

        def serve(self) -> None:
            self.socket.settimeout(0.05)
            while not self.ended.is_set():
                try:
                    sock, _ = self.socket.accept()
                except TimeoutError:
                    continue
                with sock:
                    sock.settimeout(1)
                    sock.sendall(greeting)
                    try:
                        self.heard.append(sock.recv(1000))
                    except OSError:
                        self.heard.append(b"")

        def stop(self) -> None:
            self.ended.set()
            self.thread.join(5)
            self.socket.close()

    return cameras(Greeter())


@pytest.mark.parametrize("greeting", [b"\xff\xfd\x01\xff\xfd\x1f\r\ncam login: ", b"\r\nBusyBox v1.19\r\nlogin: "])
def test_telnet_is_seen_and_nothing_is_said_to_it(cameras: Callable[..., Any], greeting: bytes) -> None:
    server = greeter(cameras, greeting)
    seen = look(target(server.port))
    assert seen["telnet.open"].code == seen["net.telnet"].code == "telnet_open"
    assert wait.until(lambda: server.heard) == [b""], "one connection, not a byte sent"


def test_what_speaks_first_is_sent_no_hello(cameras: Callable[..., Any]) -> None:
    server = greeter(cameras, b"SSH-2.0-dropbear_2022.83\r\n")
    seen = look(target(server.port))
    assert wait.until(lambda: server.heard) == [b""]
    assert seen["net.telnet"].outcome is Outcome.SILENT
    assert seen["net.port_sweep_vs_ixit"].ports == (server.port,)


@pytest.mark.parametrize("left", list(Method))
def test_only_what_was_approved_is_done(bad: BadCamera, left: Method) -> None:
    seen = look(target(bad.port, methods=METHODS - {str(left)}))
    for probe in PROBES[str(left)]:
        assert (seen[probe].outcome, seen[probe].code) == (Outcome.NOT_AUTHORISED, "method_not_allowed")
    if left is Method.HTTP:
        assert bad.requests == []
    if left is Method.DEFAULT_LOGIN:
        assert not any(scheme for _, scheme in bad.requests)


def test_an_unreachable_device_is_not_good() -> None:
    with socket.socket() as full:  # bound, not listening: refused at once
        full.bind(("127.0.0.1", 0))
        seen = look(target(full.getsockname()[1]))
    assert seen["net.port_sweep_vs_ixit"].ports == ()
    assert {o.code for probe, o in seen.items() if probe != "net.port_sweep_vs_ixit"} == {"all_closed"}
    seen = look(target(9, deadline=0.0))
    assert {o.outcome for o in seen.values()} == {Outcome.ERROR}
    assert {o.code for o in seen.values()} == {"time_box"}


def test_a_device_that_sends_too_much_is_not_judged_by_it(bad: BadCamera) -> None:
    full = look(target(bad.port))
    seen = look(target(bad.port, octets=ByteBudget(left=300)))
    cut = {name for name, o in seen.items() if (o.outcome, o.code) == (Outcome.ERROR, "byte_budget")}
    assert {"http.backup_file", "http.unauth_config_read", "cred.default_http"} <= cut
    assert cut < full.keys()
    assert [name for name, o in full.items() if o.code == "byte_budget"] == []


def test_nothing_secret_is_kept(bad: BadCamera) -> None:
    kept = json.dumps([o.body() for o in run(target(bad.port), paths=catalogue().paths, pairs=catalogue().pairs)])
    assert "hunter2" not in kept
    assert "sesame" not in kept
    assert "YWRtaW4" not in kept, "no Authorization value"
    assert "admin-admin" in kept, "the pair's name"


@pytest.mark.parametrize(
    ("raw", "gone"),
    [
        ("Set-Cookie: sid=s3cr3t\nx: y", "s3cr3t"),
        ('WWW-Authenticate: Digest nonce="s3cr3t"', "s3cr3t"),
        ("admin_password=s3cr3t\n", "s3cr3t"),
        ('{"wifi_psk": "s3cr3t word", "a": 1}', "s3cr3t"),
        ("<Password>s3cr3t</Password>", "s3cr3t"),
        ("rtspPasswd: s3cr3t", "s3cr3t"),
        ("root:$6$s3cr3t:19000:0:99999:7:::", "s3cr3t"),
        ("-----BEGIN RSA PRIVATE KEY-----\ns3cr3t\n-----END RSA PRIVATE KEY-----", "s3cr3t"),
        ("-----BEGIN PRIVATE KEY-----\ns3cr3t", "s3cr3t"),
        ("\x1b[31m\x00", "\x1b"),
    ],
)
def test_redaction(raw: str, gone: str) -> None:
    assert gone not in redact(raw)


def test_evidence_is_capped() -> None:
    assert len(redact(b"x" * 1_000_000)) == EXCERPT


def test_observations_come_back_as_they_were(bad: BadCamera) -> None:
    for seen in run(target(bad.port), paths=catalogue().paths, pairs=catalogue().pairs):
        again = Observation.load(json.loads(json.dumps(seen.body())))
        assert again == seen
        assert again.digest == seen.digest


def test_digest_answers_as_the_standard_says() -> None:
    """RFC 7616 3.4.1: the camera computes the same from what was sent, with the right password only."""
    challenge = (
        'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, nonce="7ypf", opaque="FQhe"'
    )
    said = login.authorization(challenge, user="Mufasa", password="Circle of Life")
    from tests.posture.cameras import digest_fits

    assert digest_fits(said, user="Mufasa", password="Circle of Life")
    assert not digest_fits(said, user="Mufasa", password="circle of life")
    assert 'opaque="FQhe"' in said


def test_hostile_challenges_are_survived() -> None:
    assert "\n" not in login.authorization('Digest realm="a\r\nX: y", nonce="n"', user="u", password="p")
    assert login.authorization("Basic", user="u", password="p") == "Basic dTpw"
