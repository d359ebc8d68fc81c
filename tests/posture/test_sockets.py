"""The socket factory: what it refuses costs no packet, and the peer is the witness."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from lachan import clock
from lachan.errors import Invalid
from lachan.net import sockets
from lachan.net.fetch import http_get, http_request
from lachan.net.sockets import (
    ConnectFailed,
    Meter,
    Refusal,
    Scope,
    ScopeEntry,
    SocketRefused,
    operator_scope,
    parse_entry,
)


class Witness:
    """A listener that counts what connects and answers each with the bytes given."""

    def __init__(self, answer: bytes = b"", *, drip: bool = False) -> None:
        self.answer, self.drip = answer, drip
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])
        self.connections: list[bytes] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        self.socket.settimeout(0.05)
        while not self.ended.is_set():
            try:
                sock, _ = self.socket.accept()
            except TimeoutError:
                continue
            with sock:
                sock.settimeout(2)
                self.connections.append(sock.recv(65_536) if self.answer or self.drip else b"")
                if self.answer:
                    sock.sendall(self.answer)
                while self.drip and not self.ended.wait(0.02):
                    try:
                        sock.sendall(b"x")
                    except OSError:
                        break

    def stop(self) -> None:
        self.ended.set()
        self.thread.join(5)
        self.socket.close()


@pytest.fixture
def witness() -> Iterator[Witness]:
    made = Witness(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    yield made
    made.stop()


def scope(*lines: str, **changes: object) -> Scope:
    values = {"name": "t", "entries": tuple(map(parse_entry, lines)), "methods": frozenset({"http"}), "rate": 1000.0}
    return Scope(**{**values, "burst": 1000, **changes})  # type: ignore[arg-type]


def reason(made: Scope, host: str, port: int, *, method: str = "http") -> Refusal:
    with pytest.raises(SocketRefused) as refused:
        sockets.connect(made, host, port, timeout=2, method=method)
    return refused.value.reason


def test_what_is_named_is_connected(witness: Witness) -> None:
    sockets.connect(scope(f"127.0.0.1:{witness.port}"), "127.0.0.1", witness.port, timeout=2, method="http").close()
    sockets.connect(
        scope("127.0.0.0/8:" + str(witness.port)), "localhost", witness.port, timeout=2, method="http"
    ).close()


def test_refusals_reach_nobody(witness: Witness) -> None:
    port, now = witness.port, clock.now()
    named = f"127.0.0.1:{port}"
    assert reason(scope(named, not_before=now + timedelta(hours=1)), "127.0.0.1", port) is Refusal.OUTSIDE_WINDOW
    assert reason(scope(named, not_after=now), "127.0.0.1", port) is Refusal.OUTSIDE_WINDOW
    assert reason(scope(named), "127.0.0.1", port, method="default-login") is Refusal.METHOD
    assert reason(scope("127.0.0.1:1"), "127.0.0.1", port) is Refusal.PORT
    assert reason(scope(f"10.0.0.1:{port}"), "127.0.0.1", port) is Refusal.OUTSIDE_SCOPE
    assert reason(scope("10.0.0.1:1", f"10.0.0.2:{port}", "127.0.0.1:1"), "127.0.0.1", port) is Refusal.PORT
    assert reason(scope(f"localhost:{port}"), "localhost", port) is Refusal.SPECIAL_ADDRESS
    assert reason(scope(f"0.0.0.0/0:{port}", f"[::/0]:{port}"), "127.0.0.1", port) is Refusal.SPECIAL_ADDRESS
    assert reason(scope(f"0.0.0.0/0:{port}"), "::ffff:127.0.0.1", port) is Refusal.SPECIAL_ADDRESS
    assert reason(scope(f"nowhere.invalid:{port}"), "nowhere.invalid", port) is Refusal.UNRESOLVABLE
    assert witness.connections == []


def test_a_stopped_scope_opens_nothing(witness: Witness) -> None:
    def stopped() -> None:
        raise SocketRefused("stopped", reason=Refusal.STOPPED)

    assert reason(scope(f"127.0.0.1:{witness.port}", standing=stopped), "127.0.0.1", witness.port) is Refusal.STOPPED
    assert witness.connections == []


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "127.0.0.1", "127.9.9.9", "169.254.1.1", "169.254.169.254", "224.0.0.1", "239.255.255.250", "240.0.0.1",
     "255.255.255.255", "100.100.100.200", "::", "::1", "fe80::1", "ff02::1", "fd00:ec2::254", "::ffff:169.254.169.254",
     "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "192.0.0.192", "64:ff9b:1::7f00:1", "64:ff9b:1:7f00:0:100::", "::7f00:1", "::a9fe:a9fe",
     "::ffff:0:7f00:1", "::ffff:0:a9fe:a9fe", "fd00:ec2::253", "fd20:ce::254", "fd00:42::42", "fec0::1", "100::1", "::c000:207"],
)  # fmt: skip
def test_special_addresses_need_their_own_line(address: str) -> None:
    everything = scope("0.0.0.0/0:80", "[::/0]:80")
    with pytest.raises(SocketRefused) as refused:
        sockets.permit(everything, address, 80, method="http")
    assert refused.value.reason is Refusal.SPECIAL_ADDRESS
    exact = Scope(
        "t",
        (ScopeEntry(network=ipaddress.ip_network(address.removeprefix("::ffff:") if "." in address else address)),),
        frozenset({"http"}),
        frozenset({80}),
    )
    assert str(sockets.permit(exact, address, 80, method="http")) in address


def test_link_local_does_not_name_the_metadata_address() -> None:
    with pytest.raises(SocketRefused) as refused:
        sockets.permit(scope("169.254.0.0/16:80"), "169.254.169.254", 80, method="http")
    assert refused.value.fields["kind"] == "metadata"
    sockets.permit(scope("169.254.0.0/16:80"), "169.254.7.7", 80, method="http")


def test_own_addresses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "is_own", lambda address: str(address) == "192.0.2.7")
    with pytest.raises(SocketRefused) as refused:
        sockets.permit(scope("192.0.2.0/24:80"), "192.0.2.7", 80, method="http")
    assert refused.value.reason is Refusal.OWN_ADDRESS
    sockets.permit(scope("192.0.2.0/24:80"), "192.0.2.8", 80, method="http")
    sockets.permit(scope("192.0.2.0/24:80", "192.0.2.7:80"), "192.0.2.7", 80, method="http")


def test_the_kernel_knows_its_own_addresses() -> None:
    assert sockets.is_own(ipaddress.ip_address("127.0.0.1"))
    assert not sockets.is_own(ipaddress.ip_address("192.0.2.1"))


def test_a_name_is_resolved_once(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that changes between check and connection (DNS rebinding) is not asked again."""
    answers = ["127.0.0.1", "127.0.0.2"]
    asked: list[str] = []

    def getaddrinfo(name: str, port: int, **_: object) -> list[object]:
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[min(len(asked), 2) - 1], port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    sock = sockets.connect(scope(f"127.0.0.1:{witness.port}"), "cam.example", witness.port, timeout=2, method="http")
    with sock:
        assert sock.getpeername()[0] == "127.0.0.1"
    assert asked == ["cam.example"]


def test_the_rate_is_kept_for_each_target() -> None:
    meter, made = Meter(), scope("10.0.0.0/8:80", rate=0.001, burst=2)
    meter.take(made, "10.0.0.1", patience=0)
    meter.take(made, "10.0.0.1", patience=0)
    meter.take(made, "10.0.0.2", patience=0)
    with pytest.raises(SocketRefused) as refused:
        meter.take(made, "10.0.0.1", patience=1)
    assert refused.value.reason is Refusal.RATE
    assert refused.value.fields["retry_after"] > 1


def test_a_redirect_is_an_answer(witness: Witness) -> None:
    first = Witness(f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{witness.port}/\r\n\r\n".encode())
    try:
        allowed = scope(f"127.0.0.1:{first.port}", f"127.0.0.1:{witness.port}")
        answer = http_get(allowed, f"http://127.0.0.1:{first.port}/", timeout=3)
    finally:
        first.stop()
    assert (answer.status, answer.header("location")) == (302, f"http://127.0.0.1:{witness.port}/")
    assert len(first.connections) == 1
    assert witness.connections == []


def test_one_request_is_sent_as_asked(witness: Witness) -> None:
    answer = http_request(
        scope(f"127.0.0.1:{witness.port}"), "POST", f"http://127.0.0.1:{witness.port}/hook?x=1", timeout=3, method="http",
        headers={"webhook-id": "1"}, body=b"{}",
    )  # fmt: skip
    assert (answer.status, answer.body, answer.truncated, answer.address) == (200, b"ok", False, "127.0.0.1")
    sent = witness.connections[0].decode()
    assert sent.startswith(f"POST /hook?x=1 HTTP/1.1\r\nHost: 127.0.0.1:{witness.port}\r\n")
    assert "Content-Length: 2\r\n" in sent
    assert sent.endswith("webhook-id: 1\r\n\r\n{}")


@pytest.mark.parametrize(
    "url", ["ftp://h/", "http://an:pw@h/", "file:///etc/passwd", "http://", "http://h:x/", "http://h/a b"]
)
def test_urls_that_are_not_fetched(url: str) -> None:
    with pytest.raises(Invalid):
        http_get(scope("0.0.0.0/0:80"), url, timeout=1)


def test_headers_cannot_be_smuggled(witness: Witness) -> None:
    with pytest.raises(Invalid):
        http_get(
            scope(f"127.0.0.1:{witness.port}"),
            f"http://127.0.0.1:{witness.port}/",
            timeout=1,
            headers={"a": "b\r\nc: d"},
        )
    assert witness.connections == []


def test_a_dripping_peer_cannot_hold_us() -> None:
    drip = Witness(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", drip=True)
    try:
        answer = http_get(scope(f"127.0.0.1:{drip.port}"), f"http://127.0.0.1:{drip.port}/", timeout=0.4)
    finally:
        drip.stop()
    assert answer.truncated
    assert answer.elapsed < 3


def test_an_endless_answer_is_capped() -> None:
    big = Witness(b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * 200_000)
    try:
        answer = http_get(scope(f"127.0.0.1:{big.port}"), f"http://127.0.0.1:{big.port}/", timeout=5, max_bytes=10_000)
    finally:
        big.stop()
    assert answer.truncated
    assert len(answer.body) < 10_000


def test_what_is_no_http_is_told() -> None:
    ssh = Witness(b"SSH-2.0-dropbear\r\n")
    try:
        with pytest.raises(ConnectFailed) as failed:
            http_get(scope(f"127.0.0.1:{ssh.port}"), f"http://127.0.0.1:{ssh.port}/", timeout=3)
    finally:
        ssh.stop()
    assert failed.value.reason == "protocol"


def test_a_closed_port_is_told() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectFailed) as failed:
        sockets.connect(scope(f"127.0.0.1:{port}"), "127.0.0.1", port, timeout=2, method="http")
    assert failed.value.reason == "refused"


@pytest.mark.parametrize(
    ("text", "network", "name", "ports"),
    [
        ("10.0.0.0/8:443", "10.0.0.0/8", None, {443}),
        ("10.1.2.3", "10.1.2.3/32", None, set()),
        ("[fd00::/8]:8443", "fd00::/8", None, {8443}),
        ("fd00::1", "fd00::1/128", None, set()),
        ("Hooks.Example.vn:443", None, "hooks.example.vn", {443}),
        ("hooks.example.vn", None, "hooks.example.vn", set()),
    ],
)
def test_lines_of_an_allow_list(text: str, network: str | None, name: str | None, ports: set[int]) -> None:
    entry = parse_entry(text)
    assert (str(entry.network) if entry.network else None, entry.name, entry.ports) == (network, name, ports)


@pytest.mark.parametrize("text", ["", ":443", "host:0", "host:70000", "host:x", "[::]/0:80", "a b:80", "http://h:80"])
def test_lines_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="allow-list"):
        operator_scope((text,))
