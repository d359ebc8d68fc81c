"""Four processes at the doors: their limits are the door's, one that is killed costs its own connections, and a change of
trust reaches all of them."""

import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from lachan.ids import new_id
from pki.ocsp import SIGNED_BURST, SIGNED_RATE
from tests.loop.conftest import Town, attack, served
from tests.support.wait import until

MOST = 24  # connections from one address
SELF = "/device/v1/self"
pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town with four processes at its doors."""
    settings = {"LACHAN_DOORS": "4", "LACHAN_DOOR_CONNECTIONS_PER_ADDRESS": str(MOST)}
    with served(tmp_path_factory.mktemp("four"), **settings) as made:
        yield made


def doors(town: Town) -> set[int]:
    """The door processes that live now."""
    found = set[int]()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            state = (place / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"--role" in words and b"doors" in words and int(state[1]) == town.city.urls["pid"] and state[0] != "Z":
            found.add(int(place.name))
    return found


def port(town: Town, door: str) -> int:
    return int(town.city.urls[door].rpartition(":")[2])


class Live:
    """A connection on which one request after the other is sent."""

    def __init__(
        self, town: Town, door: str, context: ssl.SSLContext | None = None, path: str = "/ca/root.crt"
    ) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port(town, door)), timeout=10)
        self.own = self.socket.getsockname()[1]
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def status(self) -> int:
        """What a request is answered; 0 for a connection that the door has ended."""
        try:
            self.socket.sendall(self._request)
            answer = self.socket.recv(65536)
        except (ConnectionError, ssl.SSLError):
            return 0
        return int(answer.split()[1]) if answer else 0

    def close(self) -> None:
        self.socket.close()


def attempt(town: Town, door: str, context: ssl.SSLContext | None = None, path: str = "/ca/root.crt") -> Live | None:
    """Connect and ask; None when the door did not take the connection."""
    try:
        made = Live(town, door, context, path)
    except (ConnectionError, ssl.SSLError):
        return None
    if made.status():
        return made
    made.close()
    return None


def holder(town: Town, live: Live) -> int:
    """The process at the other end of a connection."""
    wanted = f"{port(town, 'status'):04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, inode = (line.split()[place] for place in (1, 2, 9))
        if local.endswith(wanted) and remote.endswith(f":{live.own:04X}"):
            for pid in doors(town):
                for each in Path(f"/proc/{pid}/fd").iterdir():
                    try:
                        if os.readlink(each) == f"socket:[{inode}]":
                            return pid
                    except FileNotFoundError:
                        continue
    return 0


def test_connections_of_an_address_are_counted_over_all_and_a_killed_process_costs_its_own(four: Town) -> None:
    assert len(doors(four)) == 4
    taken = [live for live in (attempt(four, "status") for _ in range(MOST + 16)) if live is not None]
    assert len(taken) == MOST
    held = {live: holder(four, live) for live in taken}
    assert len(set(held.values())) > 1, "more than one process answers"
    before, killed = doors(four), held[taken[0]]
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(doors(four) - {killed}) == 4, timeout=30, what="another one is started in its place")
    assert doors(four) - before, "with a process of its own"
    assert [live.status() for live in taken if held[live] == killed] == [0] * list(held.values()).count(killed)
    left = [live for live in taken if held[live] != killed]
    assert [live.status() for live in left] == [200] * len(left), "the others' connections live"
    until(lambda: (more := attempt(four, "status")) and (taken.append(more) or len(taken) > 0), timeout=30)

    def again() -> bool:
        if (more := attempt(four, "status")) is not None:
            left.append(more)
        return more is None

    left.append(taken[-1])
    until(again, timeout=30)
    assert len(left) == MOST, "what the killed one had is free again, and no more than that"
    for live in {*taken, *left}:
        live.close()


def test_a_change_of_trust_is_seen_by_all_four(four: Town) -> None:
    camera, _ = four.camera("four-1", "four")
    context = four.tls("four-1")
    lives = [live for live in (attempt(four, "device", context, SELF) for _ in range(16)) if live is not None]
    assert len(lives) > 8
    assert {live.status() for live in lives} == {200}
    camera.must("bulk", lines=attack())
    four.contained("four-1", timeout=60)
    until(lambda: {live.status() for live in lives} <= {0, 403}, timeout=20, what="all of them refuse")
    for live in lives:
        live.close()
    four.release("four-1")
    until(lambda: camera.do("ask").get("status") == 200, timeout=30, what="the camera is let in again")
    camera.process.terminate()


def test_answers_that_are_signed_anew_come_from_one_bucket(four: Town) -> None:
    def certificate(path: str) -> x509.Certificate:
        with socket.create_connection(("127.0.0.1", port(four, "status")), timeout=10) as link:
            link.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: link.recv(65536), b""))
        return x509.load_der_x509_certificate(answer.partition(b"\r\n\r\n")[2])

    camera, _ = four.camera("four-4", "four")
    leaf = x509.load_pem_x509_certificates((four.city.folder / "four-4" / "device.pem").read_bytes())[0]
    issuer = certificate("/ca/issuing.crt")
    camera.process.terminate()

    def ask(number: int) -> bool:
        nonce = x509.OCSPNonce(number.to_bytes(16, "big"))
        built = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256()).add_extension(nonce, False)
        body = built.build().public_bytes(Encoding.DER)
        head = f"POST /ocsp HTTP/1.0\r\nContent-Type: application/ocsp-request\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port(four, "status")), timeout=30) as link:
            link.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: link.recv(65536), b""))
        given = ocsp.load_der_ocsp_response(answer.partition(b"\r\n\r\n")[2])
        return given.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL

    began, asked = time.monotonic(), int(SIGNED_BURST) + 150
    with ThreadPoolExecutor(8) as pool:
        signed = sum(pool.map(ask, range(asked)))
    allowed = SIGNED_BURST + SIGNED_RATE * (time.monotonic() - began) + 1
    assert signed < asked, "no process had a bucket of its own"
    assert SIGNED_BURST <= signed <= allowed


def test_a_write_that_is_sent_to_all_at_once_is_done_once(four: Town) -> None:
    admin = four.story.admin
    body = {"name": "four-2", "vendor": "acme", "model": "A1", "serial_number": new_id(), "site": "four"}
    headers = {**admin.http.headers, "Idempotency-Key": new_id()}
    cookies = dict(admin.http.cookies)

    def send(_: int) -> tuple[int, str]:
        with httpx.Client(
            base_url=str(admin.http.base_url), verify=four.city.trust, timeout=30, cookies=cookies
        ) as http:
            answer = http.post("/api/v1/devices", json=body, headers=headers)
            return answer.status_code, answer.json().get("id", answer.json().get("code", ""))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    made = {told for status, told in answers if status == 201}
    assert len(made) == 1
    assert {status for status, _ in answers} <= {201, 409}


def test_each_process_keeps_lines_in_a_stream_of_its_own(four: Town) -> None:
    camera, _ = four.camera("four-3", "four")
    context = four.tls("four-3")
    line = b'{"create":{"_index":"l"}}\n{"message":"four-%d"}\n'

    def send(number: int) -> int:
        body = line % number
        with (
            socket.create_connection(("127.0.0.1", port(four, "device")), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as link,
        ):
            head = "POST /_bulk HTTP/1.0\r\nContent-Type: application/x-ndjson\r\nContent-Length: "
            link.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
            return int(link.recv(65536).split()[1])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(48))) == {200}
    kept = sorted((four.city.data / "logs").glob("bulk-*"))
    text = b"".join(each.read_bytes() for stream in kept for each in stream.glob("*.segment"))
    assert all(b'"four-%d"' % number in text for number in range(48))
    assert len([stream for stream in kept if any(each.stat().st_size for each in stream.glob("*.segment"))]) > 1
    camera.process.terminate()


def test_metrics_are_those_of_all_four(four: Town) -> None:
    token = four.city.lachan("token", "add", "metrics", "--role", "platform")["token"]

    def counted() -> float:
        headers = {"Authorization": f"Bearer {token}"}
        text = httpx.get(f"{four.city.urls['people']}/metrics", headers=headers, verify=four.city.trust).text
        told = [line for line in text.splitlines() if line.startswith("lachan_requests_total") and "/ca/" in line]
        return sum(float(line.split()[-1]) for line in told)

    def ask(_: int) -> int:
        return httpx.get(f"{four.city.urls['status']}/ca/root.crt").status_code

    before = counted()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(40))) == {200}
    assert counted() == before + 40
