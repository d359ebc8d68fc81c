"""An HTTP answer is taken apart as RFC 9112 says, whatever is in it and however it arrives."""

from __future__ import annotations

import http.client
import io
import random
from typing import Any

import pytest

from lachan.net.answer import Framing, HttpAnswer, NotHttp, parse
from tests.house.test_patterns import STRAIGHT, growth


def read(raw: bytes, verb: str = "GET", *, complete: bool = True) -> HttpAnswer:
    return parse(raw, verb, complete=complete, address="", elapsed=0.0)


def whole(raw: bytes, verb: str = "GET", *, step: int = 1, closed: bool = False) -> int | None:
    """How many bytes had come, ``step`` at a time, when the answer was whole."""
    framing, got = Framing(verb), bytearray()
    for at in range(0, len(raw), step):
        got += raw[at : at + step]
        if framing.whole(got, closed=False):
            return len(got)
    return len(raw) if closed and framing.whole(got, closed=True) else None


def test_a_plain_answer() -> None:
    raw = b"HTTP/1.1 200 OK\r\nServer: x\r\nX-Two: 1\r\nx-two: 2\r\nContent-Length: 2\r\n\r\nokmore"
    answer = read(raw)
    assert (answer.status, answer.body, answer.truncated) == (200, b"ok", False)
    assert answer.header("X-TWO") == "1, 2"
    assert whole(raw) == len(raw) - 4


@pytest.mark.parametrize(
    ("raw", "verb", "body", "truncated", "ends"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", "GET", b"to the end", False, None),
        (b"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n", "GET", b"", False, 38),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD", b"", False, 38),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "GET", b"short", True, None),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "GET", b"ok", False, 37),
        (b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", b"ok", False, 59),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n3\r\n...\r\n0\r\n\r\n", "GET", b"ok...", False, 71),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", "GET", b"ok", True, None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n", "GET", b"", True, 60),
        (b"HTTP/1.1 200 OK\r\nServer: cut", "GET", b"", True, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx", "GET", b"x", False, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nx", "GET", b"x", False, None),
    ],
)  # fmt: skip
def test_where_a_body_ends(raw: bytes, verb: str, body: bytes, truncated: bool, ends: int | None) -> None:
    answer = read(raw, verb)
    assert (answer.body, answer.truncated) == (body, truncated)
    for step in (1, 7, 10_000):
        assert whole(raw, verb, step=step) == ends, step


@pytest.mark.parametrize(
    "raw",
    [b"", b"SSH-2.0-x\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 2x0\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"\x00" * 99,
     b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n"],
)  # fmt: skip
def test_what_is_no_answer_is_told(raw: bytes) -> None:
    with pytest.raises(NotHttp):
        read(raw)


def test_a_greeting_is_known_at_its_first_byte() -> None:
    with pytest.raises(NotHttp):
        Framing("GET").whole(bytearray(b"S"), closed=False)


class Recorded:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self.raw)


def test_the_standard_library_reads_the_same() -> None:
    """Random answers, sound ones and cut ones: status, headers and body are `http.client`'s."""
    chance = random.Random(20261126)
    for _ in range(2000):
        headers = [("Server", "a b"), ("Set-Cookie", "x=1"), ("WWW-Authenticate", 'Digest realm="é"'), ("X", "")]
        lines = [f"{name}: {value}" for name, value in chance.sample(headers, chance.randint(0, 4))]
        body = chance.randbytes(chance.randint(0, 40))
        if chance.random() < 0.4:
            lines.append(f"Content-Length: {len(body)}")
        elif chance.random() < 0.4:
            lines.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        raw = "\r\n".join([f"HTTP/1.1 {chance.choice([200, 302, 401, 500])} Said", *lines, "", ""]).encode("latin-1")
        raw += body
        raw = raw[: chance.randint(raw.index(b"\r\n\r\n") + 4, len(raw))]
        other: Any = http.client.HTTPResponse(Recorded(raw))  # type: ignore[arg-type]
        other.begin()
        ours = read(raw)
        try:
            expected = other.read()
        except http.client.IncompleteRead as error:
            partial: bytes = error.partial  # of a chunk that was cut it keeps nothing, and we what there is
            expected = ours.body if ours.truncated and ours.body.startswith(partial) else partial
        assert (ours.status, ours.body) == (other.status, expected), raw
        assert ours.headers == tuple((name.lower(), value) for name, value in other.getheaders()), raw


@pytest.mark.parametrize(
    "make",
    [
        lambda n: b'Content-Type: multipart/mixed; boundary="' + b";" * n,
        lambda n: b"Content-Type: a" + b";a" * (n // 2),
        lambda n: b"X: y" + b"\r\n z" * (n // 4),
        lambda n: b"a" * n,
        lambda n: b":\r\n" * (n // 3),
        lambda n: b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * (n // 6),
        lambda n: b"\r\n" * n,
    ],
)
def test_no_head_makes_it_slow(make: Any) -> None:
    def taken(text: bytes) -> None:
        for verb in ("GET", "HEAD"):
            try:
                read(text, verb)
            except NotHttp:
                pass

    assert growth(taken, lambda n: b"HTTP/1.1 200 OK\r\n" + make(n) + b"\r\n\r\n", 100_000) < STRAIGHT  # type: ignore[arg-type, return-value]
