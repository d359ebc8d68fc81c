"""The TLS protocol's patience and manners, with a plain ASGI application behind it."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from api.doors import _Server
from api.limits import Limits
from api.tls import TlsDoor, server_context
from tests.api.support import Authority
from tests.support.wait import until

PIECE = 64 * 1024


class Origin:
    """An application that shows what it was handed, streams, or drinks; and counts."""

    def __init__(self) -> None:
        self.sent = 0
        self.drunk = 0
        self.drinking = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(1024):
                await send({"type": "http.response.body", "body": b"x" * PIECE, "more_body": True})
                self.sent += PIECE
            return
        if scope["path"] == "/drink":
            await self.drinking.wait()
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            self.drunk += len(message.get("body", b""))
            more = message.get("more_body", False)
        facts = scope["extensions"]["lachan.tls"]
        text = f"HTTP/1.1 200 OK\r\n\r\ncontent-length: {len(body)} {facts['version']} {len(facts['chain'])}".encode()
        headers = [(b"content-length", str(len(text)).encode()), (b"www-authenticate", b"Basic"), (b"etag", b'"1"')]
        headers.append((b"x-trailers", b",".join(n for n, _ in scope["headers"] if n == b"client-cert") or b"none"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


class Place:
    """A running door with short patience."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.authority = Authority(folder, "ca")
        made = self.authority.issue(
            "localhost", sans=[x509.DNSName("localhost")], purposes=[ExtendedKeyUsageOID.SERVER_AUTH]
        )
        self.door = TlsDoor(server_context(chain=made.chain_file, key=made.key_file, ask_client=True), limits)
        self.client = self.authority.device("0192a0a0-0000-7000-8000-000000000000")
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.origin: Origin
        self.loop: asyncio.AbstractEventLoop

    async def serve(self, stop: threading.Event, ready: threading.Event) -> None:
        self.origin, self.loop = Origin(), asyncio.get_running_loop()
        config = uvicorn.Config(
            self.origin,
            http=self.door.protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve([self.listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn sets a plain flag
            await asyncio.sleep(0.01)
        ready.set()
        await asyncio.to_thread(stop.wait)
        server.should_exit = True
        await task

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    @contextlib.contextmanager
    def tls(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Iterator[ssl.SSLSocket]:
        context = ssl.create_default_context(cafile=str(self.authority.file))
        context.load_cert_chain(self.client.chain_file, self.client.key_file)
        context.minimum_version = context.maximum_version = version
        with self.raw() as raw, context.wrap_socket(raw, server_hostname="localhost") as sock:
            yield sock


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    found = Place(
        tmp_path / "ca", getattr(request, "param", Limits(handshake=0.4, header=0.4, stall=0.6, per_address=6))
    )
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(found.serve(stop, ready)))
    thread.start()
    assert ready.wait(10)
    yield found
    found.loop.call_soon_threadsafe(found.origin.drinking.set)
    stop.set()
    thread.join(20)
    found.listener.close()
    assert not thread.is_alive()


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end, however the end comes."""
    found = b""
    try:
        while piece := sock.recv(65536):
            found += piece
    except (ConnectionResetError, ssl.SSLError):
        pass
    return found


def exchange(sock: socket.socket, request: bytes) -> bytes:
    sock.sendall(request)
    return read_all(sock)


def test_header_names_are_restored_in_the_head_only(place: Place) -> None:
    with place.tls() as sock:
        answer = exchange(sock, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    for line in (b"\r\nContent-Length: ", b"\r\nWWW-Authenticate: Basic", b'\r\nETag: "1"'):
        assert line in head
    assert body == b"HTTP/1.1 200 OK\r\n\r\ncontent-length: 0 TLSv1.3 2"


def test_an_http_1_0_request_gets_an_http_1_0_status_line(place: Place) -> None:
    with place.tls(ssl.TLSVersion.TLSv1_2) as sock:
        answer = exchange(sock, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n") and answer.endswith(b"TLSv1.2 2")


def test_pipelined_answers_each_get_a_restored_head(place: Place) -> None:
    one = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with place.tls() as sock:
        answer = exchange(sock, one + one + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.count(b"Content-Length: ") == 3


def test_trailers_do_not_become_headers(place: Place) -> None:
    request = (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"3\r\nabc\r\n0\r\nClient-Cert: :forged:\r\n\r\n"
    )
    with place.tls() as sock:
        answer = exchange(sock, request)
    assert b"X-Trailers: none" in answer and b"content-length: 3" in answer


def test_expect_100_continue_does_not_eat_the_head(place: Place) -> None:
    with place.tls() as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
        )
        assert sock.recv(1000).startswith(b"HTTP/1.1 100 ")
        assert b"\r\nContent-Length: " in exchange(sock, b"abc")


def test_who_does_not_finish_the_handshake_is_dropped(place: Place) -> None:
    with place.raw() as sock:
        sock.sendall(b"\x16\x03\x01")
        assert read_all(sock) == b""
    until(lambda: not place.door.live)


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET / HTTP/1.1\r\nX-Slow: "])
def test_who_does_not_finish_a_request_head_is_dropped(place: Place, begun: bytes) -> None:
    with place.tls() as sock:
        assert exchange(sock, begun) == b"" if begun else read_all(sock) == b""
    with place.tls() as sock:  # also on a connection that has served
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(65536)
        if begun:
            sock.sendall(begun)
            assert read_all(sock).partition(b"\r\n\r\n")[0] in (b"", b"HTTP/1.1 200 OK")
    until(lambda: not place.door.live)


def test_a_body_that_stops_coming_is_dropped(place: Place) -> None:
    with place.tls() as sock:
        assert exchange(sock, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc") == b""


@pytest.mark.parametrize("place", [Limits()], indirect=True)
def test_an_endless_head_is_refused(place: Place) -> None:
    with place.tls() as sock:
        answer = b""
        try:
            sock.sendall(b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 4_000_000)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            pass
        answer = read_all(sock)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    until(lambda: not place.door.live)


def test_one_address_gets_its_share_of_connections(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(place.raw())
        until(lambda: len(place.door.live) == 6)
        with place.raw() as seventh:
            assert read_all(seventh) == b""
    until(lambda: not place.door.live)
    with place.tls() as sock:
        assert exchange(sock, b"GET / HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize("place", [Limits(stall=30)], indirect=True)
def test_a_peer_that_does_not_read_stops_the_application(place: Place) -> None:
    with place.tls() as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        sizes = [-1.0]

        def stands() -> bool:
            sizes.append(place.origin.sent)
            return len(sizes) > 30 and sizes[-1] == sizes[-30] > 0

        until(stands, timeout=20)
        assert place.origin.sent < 16 * 1024 * 1024  # socket buffers; not the 64 MiB of the answer


def test_a_peer_that_never_reads_is_dropped(place: Place) -> None:
    with place.tls() as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: place.origin.sent > 0)
        until(lambda: not place.door.live, timeout=10)


@pytest.mark.parametrize("place", [Limits(stall=30)], indirect=True)
def test_an_application_that_does_not_read_stops_the_peer(place: Place) -> None:
    size, sent = 24 * 1024 * 1024, 0
    with place.tls() as sock:
        sock.sendall(f"POST /drink HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode())
        sock.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while sent < size:
                sent += sock.send(b"x" * PIECE)
        assert sent < 12 * 1024 * 1024
        sock.settimeout(20)
        place.loop.call_soon_threadsafe(place.origin.drinking.set)
        while sent < size:
            sent += sock.send(b"x" * min(PIECE, size - sent))
        assert f"content-length: {size}".encode() in read_all(sock)


def test_close_notify_ends_an_answer_so_that_truncation_shows(place: Place) -> None:
    with place.tls() as sock:
        sock.suppress_ragged_eofs = False  # an end without close_notify would raise
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        found = b""
        while piece := sock.recv(65536):
            found += piece
        assert found.startswith(b"HTTP/1.0 200")


def openssl(place: Place, *more: str, text: bytes = b"") -> str:
    """``openssl s_client``: a client that can do what Python's ssl cannot."""
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{place.port}",
        "-CAfile",
        str(place.authority.file),
        *more,
    ]
    return subprocess.run(command, input=text, capture_output=True, timeout=20, check=False).stdout.decode("latin-1")


def test_old_tls_and_renegotiation_are_refused(place: Place) -> None:
    assert "Cipher is (NONE)" in openssl(place, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    with subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{place.port}", "-tls1_2"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as client:  # fmt: skip
        assert client.stdin and client.stdout
        seen = b""
        while b"Verify return code" not in seen:
            seen += client.stdout.readline()
        client.stdin.write(b"R\n")  # asks for a renegotiation
        client.stdin.flush()
        rest = client.stdout.read()
        client.stdin.close()
    assert b"RENEGOTIATING" in rest and b"no renegotiation" in rest


def test_tls_unique_is_the_first_finished_message(place: Place) -> None:
    """RFC 5929 3.1, also for a resumed session: both sides name the same bytes."""
    context = ssl.create_default_context(cafile=str(place.authority.file))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session, facts = None, []
    for _ in range(2):
        with place.raw() as raw, context.wrap_socket(raw, server_hostname="localhost", session=session) as sock:
            connection = until(lambda: next((c for c in place.door.live if c.ready), None))
            facts.append((sock.session_reused, sock.get_channel_binding("tls-unique"), connection.inner.facts))
            session = sock.session
        until(lambda: not place.door.live)
    assert [reused for reused, _, _ in facts] == [False, True]
    for reused, unique, known in facts:
        assert known["tls_unique"] == unique and known["resumed"] is reused


def test_a_new_context_serves_new_connections(place: Place, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other")
    made = other.issue("localhost", sans=[x509.DNSName("localhost")], purposes=[ExtendedKeyUsageOID.SERVER_AUTH])
    place.door.context = server_context(chain=made.chain_file, key=made.key_file, ask_client=True)
    with pytest.raises(ssl.SSLCertVerificationError), place.tls():
        pass
    place.authority = other
    began = time.monotonic()
    with place.tls() as sock:
        assert exchange(sock, b"GET / HTTP/1.0\r\n\r\n")
    assert time.monotonic() - began < 30
