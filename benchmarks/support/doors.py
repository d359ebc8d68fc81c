"""Rows of the doors: what one answer costs, beside the same run's floor (`benchmarks.support.floor`) and the yardstick.

All sides stand served at once and take turns in rounds. What is counted is the CPU of all server processes from the first
request until they are at rest again, less what rest costs in that time: a cheap request must not pay for the housekeeping
of the seconds around it. Requests are finished bytes; connections are kept.
"""

import base64
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from benchmarks.support import cpu, est, rows
from benchmarks.support.enrolment import enrolled
from benchmarks.support.hawkbit import Hawkbit
from benchmarks.support.http_client import Lane, Load, Plan
from benchmarks.support.installation import Checkout, Installation
from benchmarks.support.table import Row
from benchmarks.support.yardstick import COMMIT, OURS, TOP
from lachan.demo import replay

DEVICES = 16
FIRMWARE = 16 << 20
RANGE = 64 << 10
LINES = 720
TURNS = (
    4  # of a round, where the floor is measured: short ones, by turns, since the machine's pace changes by the second
)
FLOOR = "floor"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One row's load.

    Attributes:
        name: of the row.
        door: device or status.
        connections: how many, kept.
        each: requests of one connection in a turn.
        request: gives the n-th request of a connection.
        shows: whether each connection shows the certificate of a device.
        floor: whether the floor is measured beside it.
        scale: units of one answer.
        unit: what is counted a CPU-second.
        distinct: requests are all different, and each turn comes from addresses of its own.
        less: the yardstick is sent so many times less, since it takes so much longer.
    """

    name: str
    door: str
    connections: int
    each: int
    request: Callable[["Side", int], bytes]
    shows: bool = True
    floor: bool = False
    scale: float = 1.0
    unit: str = "per CPU-second"
    distinct: bool = False
    less: int = 1


@dataclass
class Side:
    """A server under load, and what requests to it need."""

    name: str
    pids: dict[str, int]
    idle: float
    urls: dict[str, str]
    root: Path
    shown: list[est.Enrolled]
    ocsp: list[bytes] = field(default_factory=list)
    release: str = ""
    issuer: x509.Certificate | None = None
    tallies: dict[str, tuple[float, float]] = field(default_factory=dict)
    turns: Iterator[int] = field(default_factory=itertools.count)
    batches: Iterator[int] = field(default_factory=itertools.count)

    def measure(self, case: Case) -> None:
        """Run one turn of a case and add it up."""
        turn, lanes = next(self.turns), []
        each = max(4, case.each // case.less) if self.name == COMMIT else case.each
        for place in range(case.connections):
            one = self.shown[place % len(self.shown)] if case.shows else None
            sent = [case.request(self, place * each + n) for n in range(each if case.distinct else 1)]
            lanes.append(
                Lane(
                    sent, one.certificate if one else None, one.key if one else None,
                    1 if case.distinct else each,
                    f"127.{1 + turn // 200}.{1 + turn % 200}.{1 + place}" if case.distinct and case.door == "status" else "",
                )
            )  # fmt: skip
        if not case.floor:
            cpu.quiet(self.pids, idle=self.idle)
        with Load(Plan(self.urls[case.door], self.root, lanes)) as load:
            before, began = cpu.total(self.pids), time.monotonic()
            seconds, _ = load.go()
            if not case.floor:  # what only answers leaves nothing to be done
                cpu.quiet(self.pids, idle=self.idle)
            spent = cpu.total(self.pids) - before - self.idle * (time.monotonic() - began)
        done, used = self.tallies.get(case.name, (0.0, 0.0))
        self.tallies[case.name] = (done + len(seconds) * case.scale, used + max(spent, 1e-3))

    def warm(self, case: Case) -> None:
        """Ask a little, uncounted: what is made at the first question is not what a question costs."""
        if case.floor:
            self.measure(replace(case, each=len(self.shown), less=1))
            self.tallies.pop(case.name, None)

    def rate(self, case: Case) -> float | None:
        """Give units per CPU-second, None when it was not measured."""
        done, used = self.tallies.get(case.name, (0.0, 0.0))
        return done / used if used else None


def _get(path: str, **headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "User-Agent: b", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _ocsp_get(side: Side, number: int) -> bytes:
    asked = side.ocsp[number % len(side.ocsp)] if side.ocsp else b"0" * 70
    return _get(f"/ocsp/{quote(base64.b64encode(asked).decode(), safe='')}")


def _ocsp_nonce(side: Side, number: int) -> bytes:
    assert side.issuer
    leaf = x509.load_pem_x509_certificate(side.shown[number % len(side.shown)].certificate.read_bytes())
    built = ocsp.OCSPRequestBuilder().add_certificate(leaf, side.issuer, hashes.SHA256())
    body = built.add_extension(x509.OCSPNonce(os.urandom(16)), critical=False).build().public_bytes(Encoding.DER)
    return est.request("/ocsp", "application/ocsp-request", body)


def _range(side: Side, number: int) -> bytes:
    first = number * RANGE % FIRMWARE
    return _get(f"/firmware/{side.release}", Range=f"bytes={first}-{first + RANGE - 1}")


@cache
def _ordinary() -> list[bytes]:
    """Give the demo's recording of a camera that nothing happens to, action and document of each line (no failed log-ins)."""
    return [pair for pair in replay.ending(replay.BENIGN, datetime.now(UTC)) if b"assword" not in pair]


def _bulk(side: Side, number: int, *, lines: int) -> bytes:
    """A batch of lines, each with an id of its own."""
    text, turn = [], next(side.batches)
    for place in range(lines):
        pair = _ordinary()[(number * lines + place) % len(_ordinary())]
        text.append(pair.replace(b'"_id": "', b'"_id": "%d-%d-' % (turn, place)))
    return est.request("/_bulk", "application/x-ndjson", b"".join(text))


def cases(quick: bool) -> dict[str, list[Case]]:
    """Give the cases by part."""
    n = 60 if quick else 400
    big = {"scale": FIRMWARE / 1e6, "unit": "MB per CPU-second"}
    return {
        "status": [
            Case("OCSP GET cached ×8", "status", 8, n, _ocsp_get, shows=False, floor=True, less=10),
            Case("CRL ×8", "status", 8, n, lambda *_: _get("/crl/issuing.crl"), shows=False, floor=True, less=10),
            Case("OCSP nonce ×1", "status", 1, 60 if quick else 180, _ocsp_nonce, shows=False, distinct=True),
            Case("OCSP nonce ×16", "status", 16, 30 if quick else 100, _ocsp_nonce, shows=False, distinct=True),
        ],
        "device": [
            Case("firmware poll ×8", "device", 8, n, lambda *_: _get("/device/v1/firmware"), floor=True, less=10),
            Case("EST cacerts ×8", "device", 8, n, lambda *_: _get("/.well-known/est/cacerts"), floor=True, less=10),
        ],
        "bytes": [
            Case("64 KiB ranges ×8", "device", 8, 40 if quick else 200, _range, distinct=True, less=3),
            Case("artifact bytes ×4", "device", 4, 1 if quick else 4,
                 lambda side, _: _get(f"/firmware/{side.release}"), **big),
        ],
        "bulk": [
            Case("_bulk 1 line ×1", "device", 1, 60 if quick else 300, lambda s, k: _bulk(s, k, lines=1), distinct=True),
            Case("_bulk 1 line ×16", "device", 16, 15 if quick else 60, lambda s, k: _bulk(s, k, lines=1), distinct=True),
            Case(f"_bulk {LINES} lines ×1", "device", 1, 4 if quick else 12,
                 lambda s, k: _bulk(s, k, lines=LINES), scale=LINES, unit="lines per CPU-second", distinct=True),
        ],
    }  # fmt: skip


def measure(
    checkouts: list[Checkout], parts: list[str], *, rounds: int, quick: bool, say: Say, hawkbit: Path | None = None
) -> list[Row]:
    """Measure the cases of some parts.

    Args:
        checkouts: ours, and the yardstick where it is wanted.
        parts: of `cases`.
        rounds: turns of each side in each case.
        quick: few requests.
        say: told what goes on.
        hawkbit: the script that serves hawkBit, where its row is wanted.
    """
    chosen = [case for part in parts for case in cases(quick)[part]]
    with ExitStack() as open_ones:
        say(f"founding and serving {' and '.join(checkout.name for checkout in checkouts)}")
        labs = [open_ones.enter_context(Installation(checkout)) for checkout in checkouts]
        with ThreadPoolExecutor(len(labs)) as pool:
            sides = list(pool.map(_side, labs))
        floor = open_ones.enter_context(Floor(labs[0]))
        standing = floor.side(sides[0])
        for case in chosen:
            for side in [*sides, *([standing] if case.floor else [])]:
                side.warm(case)
            for number in range(rounds * TURNS if case.floor else rounds):
                if number < rounds:
                    say(f"{case.name}, round {number + 1} of {rounds}")
                taking = [*sides, *([standing] if case.floor else [])]
                for side in taking if number % 2 else reversed(taking):
                    side.measure(case)
        found = [row for case in chosen for row in _rows(case, sides, standing)]
        if hawkbit:
            found += _beside_hawkbit(hawkbit, sides[0], quick=quick, say=say)
    return found


def _beside_hawkbit(script: Path, ours: Side, *, quick: bool, say: Say) -> Iterator[Row]:
    """Measure our poll over mutual TLS beside hawkBit's over plain HTTP, by turns."""
    say("starting hawkBit and warming it up")
    poll = cases(quick)["device"][0]
    ours.tallies.pop(poll.name, None)
    with Hawkbit(script) as peer:
        for _ in range(4):
            peer.measure()
            ours.measure(poll)
    yield Row(poll.name, ours.rate(poll), poll.unit, beside="hawkBit", peer=peer.rate, note="hawkBit without TLS")


def _rows(case: Case, sides: list[Side], floor: Side) -> Iterator[Row]:
    ours, *others = sides
    beside = [(other.name, other.rate(case)) for other in others]
    if case.floor:
        beside.insert(0, (FLOOR, floor.rate(case)))
    for name, rate in beside or [("", None)]:
        yield Row(case.name, ours.rate(case), case.unit, beside=name, peer=rate)


def _side(lab: Installation) -> Side:
    candidates = rows.candidates(lab, DEVICES, prefix="door")
    lab.open()
    shown = enrolled(lab, candidates)
    urls = {name: lab.urls[name] for name in ("device", "status")}
    side = Side(lab.checkout.name, lab.pids, lab.idle, urls, lab.root, shown)
    side.issuer = x509.load_der_x509_certificate(httpx.get(f"{urls['status']}/ca/issuing.crt").content)
    for one in shown:
        leaf = x509.load_pem_x509_certificate(one.certificate.read_bytes())
        built = ocsp.OCSPRequestBuilder().add_certificate(leaf, side.issuer, hashes.SHA256())
        side.ocsp.append(built.build().public_bytes(Encoding.DER))
    side.release = _publish(lab)
    lab.rest()
    side.idle = lab.idle
    return side


def _publish(lab: Installation) -> str:
    """Publish a release for the devices' model; gives its id when devices are offered it."""
    with closing(lab.admin()) as admin:
        base, trust = lab.urls["people"], str(lab.root)
        query = {"vendor": "Bench", "name": "b.bin"}
        content = os.urandom(1 << 20) * (FIRMWARE >> 20)
        made = admin.post("/api/v1/artifacts", params=query, content=content).raise_for_status().json()
        body = {"artifact_id": made["id"], "model": "B1", "version": "2.0.0"}
        release = admin.post("/api/v1/releases", json=body).raise_for_status().json()
        url = f"/api/v1/releases/{release['id']}"
        for name in ("an", "binh"):
            link = lab.lachan("user", "add", name, "--role", "approver")["link"]
            with httpx.Client(base_url=base, verify=trust, headers={"Origin": base}) as person:
                answer = person.post("/api/v1/session", json={"token": link.partition("#")[2]}).raise_for_status()
                person.headers["X-CSRF-Token"] = answer.json()["csrf"]
                person.post(f"{url}/approve", json={"digest": release["digest"]}).raise_for_status()
        end = time.monotonic() + 60
        admin.post(f"{url}/publish", json={}).raise_for_status()
        while not admin.get(url).raise_for_status().json()["listed"]:
            if time.monotonic() > end:
                raise TimeoutError("the release was not listed")
            time.sleep(0.2)
    return str(release["id"])


class Floor:
    """The floor's process, under the certificate of an installation's device door."""

    def __init__(self, lab: Installation) -> None:
        self.lab = lab

    def __enter__(self) -> Self:
        """Start it."""
        place = self.lab.data / "doors"
        line = [
            str(OURS.python),
            "-m",
            "benchmarks.support.floor",
            str(place / "device.pem"),
            str(place / "device.key"),
        ]
        self.process = subprocess.Popen(line, cwd=TOP, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.urls: dict[str, Any] = json.loads(self.process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate()

    def side(self, like: Side) -> Side:
        """Give it as a side that is asked what another is asked."""
        urls = {name: str(self.urls[name]) for name in ("device", "status")}
        pids = {FLOOR: int(self.urls["pid"])}
        return Side(FLOOR, pids, cpu.at_rest(pids), urls, like.root, like.shown, like.ocsp, like.release, like.issuer)
