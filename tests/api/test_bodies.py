"""Bodies: slow ones end, honest slow ones do not, what is too large is refused before it is read, and nothing is left of them."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import spool
from api.limits import Limits, patience
from lachan.identity import Role
from tests.api.support import Town
from tests.api.test_tls import Place, read_all
from tests.api.test_tls import place as place
from tests.support.wait import until

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
SLOW = Limits(stall=10, body_rate=1000, body_grace=0.4)


def test_what_has_come_buys_time_at_the_least_rate() -> None:
    limits = Limits()
    assert patience(limits, since=0, size=0, now=0) == 30
    assert patience(limits, since=0, size=0, now=29) == 1
    assert patience(limits, since=0, size=1024 * 100, now=29) == 60  # never longer than a stall
    assert patience(limits, since=0, size=1024 * 100, now=95) == pytest.approx(5)
    assert patience(limits, since=0, size=1024 * 100, now=101) < 0
    assert patience(limits, since=0, size=1 << 40, now=3595) == pytest.approx(5)  # the deadline of the whole
    assert patience(Limits(body_rate=0), since=0, size=0, now=100) == 60


@pytest.mark.parametrize("place", [SLOW], indirect=True)
def test_a_body_that_drips_is_cut(place: Place) -> None:
    """Each piece comes long before the stall; together they are too slow."""
    began = time.monotonic()
    with place.tls() as sock:
        sock.sendall(HEAD + b"100000\r\n\r\n")
        sock.settimeout(0.05)
        with pytest.raises((OSError, ssl.SSLError)):
            while time.monotonic() - began < 8:
                sock.sendall(b"x")
                try:
                    if sock.recv(1) == b"":
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("place", [SLOW], indirect=True)
def test_a_body_that_comes_slowly_enough_is_read(place: Place) -> None:
    """Ten thousand octets in more than the grace, above the least rate."""
    began = time.monotonic()
    with place.tls() as sock:
        sock.sendall(HEAD + b"10000\r\n\r\n")
        for _ in range(20):
            sock.sendall(b"x" * 500)
            until(lambda at=time.monotonic(): time.monotonic() - at > 0.04)
        assert b"content-length: 10000" in read_all(sock)
    assert time.monotonic() - began > 0.4


def test_a_body_that_waits_is_on_disk_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    place, seen = spool.Spool(tmp_path / "spool"), []

    async def coming() -> Iterator[bytes]:
        for _ in range(8):
            seen.append(len(place._taken) and sum(place._taken.values()))
            yield b"y" * (1 << 16)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(place.take("device:a", coming()))
    assert seen[-1] == 7 << 16
    assert place._all == 0 and not place._taken
    assert list((tmp_path / "spool").iterdir()) == []
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("chunked", [False, True])
def test_too_much_is_refused_before_it_is_read(doors: Town, chunked: bool) -> None:
    camera = doors.authority.device(doors.add_device("cam-1"))
    for credential, status in ((camera, b"413"), (None, b"401")):  # a stranger is told that first
        with (
            socket.create_connection(("localhost", doors.ports["device"]), timeout=10) as raw,
            doors.context(credential).wrap_socket(raw, server_hostname="localhost") as sock,
        ):
            length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {33 << 20}"
            sock.sendall(f"POST /_bulk HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
            if chunked and credential is not None:
                with pytest.raises(OSError):
                    for _ in range(40):
                        sock.sendall(b"100000\r\n" + b"z" * (1 << 20) + b"\r\n")
                    assert sock.recv(1000).startswith(b"HTTP/1.1 413")
                    raise ConnectionResetError
                continue
            got = read_all(sock)  # to the end: the connection is closed with the answer
            assert got.startswith(b"HTTP/1.1 " + status), got[:200]
            assert b"\r\nConnection: close\r\n" in got


def test_collectors_and_devices_deliver_by_the_same_way(doors: Town) -> None:
    """Large and small, plain and in several gzip members; what the people door takes by token the device door takes by certificate."""
    import gzip

    line = b'{"create":{"_index":"l"}}\n{"message":"x"}\n'
    camera = doors.authority.device(doors.add_device("cam-1"))
    token = {"Authorization": f"Bearer {doors.token(Role.COLLECTOR, site='site-1')}"}
    for door, credential, headers in (("device", camera, {}), ("people", None, token)):
        with doors.client(door, credential, headers=headers) as client:
            for content, encoding, count in (
                (line, "", 1), (line * 2000, "", 2000), (gzip.compress(line) * 3, "gzip", 3),
            ):  # fmt: skip
                more = {"Content-Encoding": encoding} if encoding else {}
                got = client.post("/_bulk", content=content, headers=more)
                assert got.status_code == 200, (door, got.text[:200])
                assert len(got.json()["items"]) == count
                assert not got.json()["errors"]
            broken = client.put("/logs/_bulk", content=b"{}")
            assert (broken.status_code, json.loads(broken.content)["status"]) == (400, 400)
            assert broken.headers["X-Elastic-Product"] == "Elasticsearch"
