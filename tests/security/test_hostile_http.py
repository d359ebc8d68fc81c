"""The doors against peers that send too much, too slowly, or twice: unauthenticated, over real sockets."""

import socket
import ssl
from collections.abc import Iterator

import pytest

from lachan.identity import Role
from tests.api.support import Town


def plain(town: Town, door: str) -> socket.socket:
    """A connection to a door; through TLS where the door speaks it."""
    raw = socket.create_connection(("localhost", town.ports[door]), timeout=10)
    return raw if door == "status" else town.context().wrap_socket(raw, server_hostname="localhost")


def ended(connection: socket.socket) -> bytes:
    """What the door still says before it closes; a door that does not close fails by timeout."""
    heard = b""
    try:
        while piece := connection.recv(65536):
            heard += piece
    except (ConnectionError, ssl.SSLError):
        pass
    return heard


DOORS = ("people", "device", "status")
TWO_WAYS = (
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /y HTTP/1.1\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    b"GET /x\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nX: y\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n",
    b"POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
)


def test_a_head_without_end_is_cut_off(doors: Town) -> None:
    """A header line that never ends, and headers that never end, must not be kept in memory."""
    for door in DOORS:
        for filling in (b"x" * 65536, b"X-A: b\r\n" * 8192):
            sent = 0
            with plain(doors, door) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
                with pytest.raises(OSError):
                    while sent < 64 << 20:
                        connection.sendall(filling)
                        sent += len(filling)
            assert sent < 32 << 20, door  # what the kernel's buffers took


def test_requests_that_can_be_read_in_two_ways_are_refused(doors: Town) -> None:
    """Nothing behind such a request is taken for a second one."""
    for door in DOORS:
        for head in TWO_WAYS:
            with plain(doors, door) as connection:
                connection.sendall(head)
                heard = ended(connection)
            assert heard.startswith(b"HTTP/1.1 400"), (door, head, heard)
            assert heard.count(b"HTTP/1.1 ") == 1


def test_no_path_leads_out_of_a_folder(doors: Town) -> None:
    """Dots, encoded slashes and backslashes in /tuf and /firmware reach no file that is not firmware or metadata."""
    device = doors.add_device("cam-1")
    with doors.client("device", doors.authority.device(device)) as client:
        for path in (
            "/tuf/metadata/..%2f..%2fpepper", "/tuf/metadata/%2e%2e", "/tuf/metadata/..%5cpepper",
            "/tuf/metadata/pepper%00.json", "/tuf/targets/..%2f..%2f..%2fpepper", "/tuf/targets//etc/passwd",
            "/tuf/targets/%2e%2e/%2e%2e/pepper", "/firmware/..%2fpepper", "/firmware/%2e%2e%2fpepper/signature",
        ):  # fmt: skip
            answer = client.get(path)
            assert answer.status_code == 404, (path, answer.status_code)
    with doors.client("status") as client:
        for path in ("/ca/..%2fpepper.crt", "/crl/..%2fpepper.crl", "/ca/%2e%2e/pepper.crt"):
            assert client.get(path).status_code == 404, path


def test_a_key_does_not_make_the_door_hold_a_body_of_gigabytes(doors: Town) -> None:
    """The repetition of a JSON write is recognised by its body; whoever sends an endless one is not waited for."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 24 << 20:
            sent += 1 << 16
            yield b" " * (1 << 16)

    bearer = {"Authorization": f"Bearer {doors.token(Role.COLLECTOR, site='s')}", "Content-Type": "application/json"}
    with doors.client("people") as client:
        refused = client.post("/api/v1/devices", content=endless(), headers=bearer | {"Idempotency-Key": "k"})
        assert refused.status_code == 413
        # Uploads have their own way of being repeated: they are refused for who asks, and nothing of them is read.
        for path in ("/api/v1/artifacts?vendor=v&name=n", "/api/v1/devices/import"):
            refused = client.post(path, headers=bearer | {"Idempotency-Key": "k"})
            assert refused.status_code == 403
