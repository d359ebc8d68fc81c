"""A street under attack: one served installation, devices that turn one after the other, and what goes on beside them.

A sample is a device of its own that holds a connection to the device door open, is answered, and then says on another one the
line that decides. Its time runs from the sending of that line until the open connection is closed or answers 403. Meanwhile a
neighbour polls and a person reads: an answer that they do not get is an error of somebody else's.
"""

import contextlib
import json
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.support import enrolment, est, rows
from benchmarks.support.containment import LINE, Quarter
from benchmarks.support.installation import Checkout, Installation

POLL = "/device/v1/firmware"
SERVED = {200, 204, 404}
NEVER = 30.0  # seconds after which a device counts as not refused


@dataclass(frozen=True)
class Counts:
    """How many devices of each kind there are.

    Attributes:
        turning: those that turn, one a sample.
        others: whose alerts a collector brings.
        evil: enrolled devices of one hostile manufacturer.
        fresh: that wait with a secret, to enrol.
    """

    turning: int
    others: int
    evil: int
    fresh: int


@dataclass
class Seen:
    """What samples saw.

    Attributes:
        seconds: of each, from the line to the refusal; `NEVER` for one that was not refused.
        errors: what somebody else was answered, or not.
        again: devices that a new connection let in after they were refused.
    """

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """Give the milliseconds below which that share of the samples lies."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Receiver:
    """Whoever gets the webhooks: answers 204, or, once dead, takes connections and says nothing."""

    def __init__(self) -> None:
        self.dead = threading.Event()
        self.alive = threading.Event()
        self.alive.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.alive.wait(120)
                with contextlib.suppress(OSError):
                    self.send_response(204)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.alive.set()
        self.server.shutdown()
        self.server.server_close()


class Live:
    """A kept TLS connection of the client."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        at = urlsplit(url)
        raw = socket.create_connection((at.hostname or "", at.port or 443), timeout=NEVER)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw, server_hostname=at.hostname)

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; gives status and body, and status 0 for a connection that was closed."""
        try:
            self.socket.sendall(request)
            got = b""
            while b"\r\n\r\n" not in got:
                if not (part := self.socket.recv(65_536)):
                    return 0, b""
                got += part
            head, _, body = got.partition(b"\r\n\r\n")
            fields = dict(line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:])
            while len(body) < int(fields.get(b"content-length", b"0")):
                body += self.socket.recv(65_536)
            return int(head[9:12]), body
        except (ConnectionError, ssl.SSLError, OSError):
            return 0, b""

    def ended(self, within: float) -> bool:
        """Tell whether the other side closes the connection, or says anything unasked, within some seconds."""
        return bool(self.socket.pending() or select.select([self.socket], [], [], within)[0])

    def close(self) -> None:
        """Close it."""
        self.socket.close()


def trusting(root: str, who: est.Enrolled | None = None) -> ssl.SSLContext:
    """Give what a client trusts who knows the root's file, and its own certificate."""
    made = ssl.create_default_context(cafile=root)
    if who:
        made.load_cert_chain(who.certificate, who.key)
    return made


def get(path: str) -> bytes:
    """Build a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: b\r\n\r\n".encode()


def bulk(lines: list[dict[str, Any]]) -> bytes:
    """Build a `_bulk` of documents, each with an id of its own."""
    pairs = (
        json.dumps({"create": {"_index": "l", "_id": secrets.token_hex(8)}}) + "\n" + json.dumps(line) for line in lines
    )
    return est.request("/_bulk", "application/x-ndjson", ("\n".join(pairs) + "\n").encode())


def said(text: str = LINE, *, ago: timedelta = timedelta(0), **more: Any) -> dict[str, Any]:
    """Give a line of a device, dated so long ago."""
    return {"@timestamp": (datetime.now(UTC) - ago).isoformat().replace("+00:00", "Z"), "message": text, **more}


class Street:
    """The installation, its devices and people."""

    def __init__(self, lab: Installation, receiver: Receiver, counts: Counts) -> None:
        self.lab, self.receiver = lab, receiver
        known = rows.candidates(lab, counts.turning + 1, prefix="urg")
        evil = rows.candidates(lab, counts.evil, prefix="evil") if counts.evil else []
        self.fresh = rows.candidates(lab, counts.fresh, prefix="new") if counts.fresh else []
        rows.Rows(lab).run("UPDATE devices SET vendor = 'Evil', site = 'evil' WHERE name >= 'evil-' AND name < 'evil.'")
        self.quarter = Quarter(lab, counts.others + 10)
        self.admin = self.quarter.admin
        made = enrolment.enrolled(lab, known)
        self.neighbour, self.turning = made[0], iter(made[1:])
        self.evil = enrolment.enrolled(lab, evil)
        self.analyst = self._person("an", "analyst")
        self.approver = self._person("binh", "approver")
        lab.settle()

    def _person(self, name: str, role: str) -> httpx.Client:
        self.admin.post("/api/v1/users", json={"name": name, "roles": [role]}).raise_for_status()
        link = self.admin.post(f"/api/v1/users/{name}/link").raise_for_status().json()["url"]
        base = str(self.lab.urls["people"])
        person = httpx.Client(base_url=base, verify=self.trust(), timeout=60, headers={"Origin": base})
        answer = person.post("/api/v1/session", json={"token": link.partition("#")[2]}).raise_for_status()
        person.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return person

    def close(self) -> None:
        """Close what people hold open."""
        for person in (self.admin, self.analyst, self.approver):
            person.close()

    def trust(self, who: est.Enrolled | None = None) -> ssl.SSLContext:
        """Give what a client of this installation trusts, and its own certificate."""
        return trusting(str(self.lab.root), who)

    def live(self, who: est.Enrolled) -> Live:
        """Open a connection of a device to its door."""
        return Live(str(self.lab.urls["device"]), self.trust(who))

    def sample(self, who: est.Enrolled) -> float:
        """Have one device turn; gives the seconds from its line to the refusal.

        Raises:
            RuntimeError: it was refused before it turned.
        """
        held, voice, poll = self.live(who), self.live(who), get(POLL)
        try:
            for one in (held, voice):
                if (status := one.ask(poll)[0]) not in SERVED:
                    raise RuntimeError(f"{who.name} was answered {status} before it turned")
            began = time.perf_counter()
            while voice.ask(bulk([said()]))[0] in {429, 503}:  # as a sender does: it keeps its line and comes again
                time.sleep(0.05)
            while time.perf_counter() - began < NEVER:
                if held.ended(0.002) or held.ask(poll)[0] in {0, 403}:
                    return time.perf_counter() - began
            return NEVER
        finally:
            held.close()
            voice.close()

    @contextmanager
    def bystanders(self, seen: Seen) -> Iterator[None]:
        """A neighbour polls and a person reads, ten times a second; what they are not answered is written down."""
        stop = threading.Event()

        def neighbour() -> None:
            live, poll = self.live(self.neighbour), get(POLL)
            while not stop.wait(0.1):
                status, _ = live.ask(poll)
                if status not in SERVED:
                    seen.errors.append(f"the neighbour was answered {status}")
                    live.close()
                    live = self.live(self.neighbour)
            live.close()

        def person() -> None:
            while not stop.wait(0.1):
                try:
                    self.analyst.get("/api/v1/alerts", params={"limit": 1}, timeout=20).raise_for_status()
                except httpx.HTTPError as error:
                    seen.errors.append(f"the analyst: {error!r}")

        threads = [threading.Thread(target=one) for one in (neighbour, person)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def control(self, who: est.Enrolled) -> bool:
        """Tell whether a device that was refused is refused on a new connection, too."""
        try:
            with closing(self.live(who)) as live:
                return live.ask(get(POLL))[0] in {0, 403}
        except OSError:
            return True


@contextmanager
def street(checkout: Checkout, counts: Counts, *, postgres: bool = False) -> Iterator[Street]:
    """Found and serve an installation with such a street."""
    receiver = Receiver()
    settings = {
        "LACHAN_WEBHOOK_URL": f"http://127.0.0.1:{receiver.port}/hook",
        "LACHAN_OUTGOING_ALLOW": json.dumps([f"127.0.0.1:{receiver.port}"]),
    }
    try:
        with Installation(checkout, postgres=postgres, settings=settings) as lab:
            made = Street(lab, receiver, counts)
            try:
                yield made
            finally:
                made.close()
    finally:
        receiver.close()
