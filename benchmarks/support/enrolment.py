"""Rows of enrolment: one-time secret over kept and fresh TLS, renewal by mutual TLS; beside step-ca and the yardstick.

All sides stand served at once and take turns in rounds, so that what the machine does meanwhile meets them alike; each
turn is measured until the side is at rest again, so that facts, sealing and housekeeping are in it.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from benchmarks.support import est, http_client, rows
from benchmarks.support.installation import Checkout, Installation
from benchmarks.support.stepca import StepCa
from benchmarks.support.table import Row

WARM = 24
RENEWING = 24


@dataclass(frozen=True)
class Case:
    """A way to enrol: its name, connections, whether each request has a connection of its own."""

    name: str
    connections: int
    fresh: bool = False


CASES = (
    Case("enrol kept ×1", 1),
    Case("enrol kept ×4", 4),
    Case("enrol kept ×16", 16),
    Case("enrol fresh ×1", 1, fresh=True),
    Case("enrol fresh ×8", 8, fresh=True),
)
QUICK = (CASES[1],)


@dataclass
class Tally:
    """What one side did in one case, over all rounds."""

    done: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float | None:
        """Requests per CPU-second."""
        return self.done / self.seconds if self.seconds else None

    def quantile(self, share: float) -> float:
        """Latency in milliseconds below which that share lies."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, math.ceil(len(ordered) * share) - 1)]


@dataclass
class Side:
    """A server under load and its store of requests that were not sent yet."""

    name: str
    server: Installation | StepCa
    turn: int  # requests a turn
    unsent: Iterator[bytes] = field(default_factory=lambda: iter(()))
    tallies: dict[str, Tally] = field(default_factory=dict)
    enrolled: list[est.Enrolled] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where its load goes."""
        return self.server.url if isinstance(self.server, StepCa) else str(self.server.urls["device"])

    def take(self, count: int) -> list[bytes]:
        """Take requests that nobody sent yet; step-ca's are made when asked for (their tokens have a date)."""
        if isinstance(self.server, StepCa):
            return self.server.requests(count)
        return list(islice(self.unsent, count))

    def measure(self, case: str, lanes: list[http_client.Lane], *, fresh: bool = False) -> None:
        """Send, wait for rest, add to the tally of that case."""
        plan = http_client.Plan(self.url, self.server.root, lanes, fresh=fresh)
        self.server.settle()
        with http_client.Load(plan) as load:  # after the wait: a door closes connections that say nothing for long
            before = self.server.total()
            seconds, _ = load.go()
            self.server.settle()
            tally = self.tallies.setdefault(case, Tally())
            tally.seconds += self.server.total() - before
            tally.done += len(seconds)
            tally.latencies += seconds


def measure(
    checkouts: list[Checkout],
    step: Path | None,
    *,
    postgres: bool,
    rounds: int,
    quick: bool,
    say: Callable[[str], None],
) -> list[Row]:
    """Measure all cases on one kind of database.

    Args:
        checkouts: ours, and the yardstick where it is wanted.
        step: step-ca's binary, None to leave it out.
        postgres: on PostgreSQL, else SQLite and badger.
        rounds: turns of each side in each case.
        quick: one case, few requests.
        say: told what goes on.
    """
    cases = QUICK if quick else CASES
    where = "PostgreSQL" if postgres else "SQLite"
    with ExitStack() as open_ones:
        say(f"{where}: founding and serving {' and '.join(checkout.name for checkout in checkouts)}")

        def found(checkout: Checkout) -> Side:
            turn = (60 if quick else 150) if checkout.name != "lachan" else (120 if quick else 450)
            return _founded(open_ones, checkout, turn, postgres=postgres, wanted=turn * rounds * len(cases))

        with ThreadPoolExecutor(len(checkouts)) as pool:
            sides = list(pool.map(found, checkouts))
        if step:
            server = open_ones.enter_context(StepCa(step, postgres=postgres))
            sides.append(Side("step-ca", server, 200 if quick else 600))
        for side in sides:
            side.measure("warm", http_client.spread(side.take(WARM), 4))
        for case in cases:
            for number in range(rounds):
                say(f"{where}: {case.name}, round {number + 1} of {rounds}")
                for side in sides[number % 2 :] + sides[: number % 2]:
                    side.measure(
                        case.name, http_client.spread(side.take(side.turn), case.connections), fresh=case.fresh
                    )
        if not quick:
            _renewals(sides, rounds, say, where)
    return _rows(sides, cases, where, quick=quick)


def _founded(open_ones: ExitStack, checkout: Checkout, turn: int, *, postgres: bool, wanted: int) -> Side:
    lab = open_ones.enter_context(Installation(checkout, postgres=postgres))
    known = rows.candidates(lab, wanted + WARM)
    renewing = rows.candidates(lab, RENEWING, prefix="renew")
    lab.open()
    side = Side(checkout.name, lab, turn, (est.enrol(one) for one in known))
    side.unsent = iter(list(side.unsent))  # made now, not while measuring
    side.enrolled = enrolled(lab, renewing)
    return side


def enrolled(lab: Installation, candidates: list[est.Candidate]) -> list[est.Enrolled]:
    """Enrol devices and keep their keys and certificates."""
    keys = [est.new_key() for _ in candidates]
    get = b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: localhost\r\nUser-Agent: b\r\n\r\n"
    sent = [get, *(est.enrol(one, key) for one, key in zip(candidates, keys, strict=True))]
    plan = http_client.Plan(lab.urls["device"], lab.root, [http_client.Lane(sent)], bodies=True)
    with http_client.Load(plan) as load:
        _, (issuers, *answers) = load.go()
    made = zip(candidates, keys, answers, strict=True)
    return [est.keep(lab.folder, one.name, key, answer, issuers) for one, key, answer in made]


def _renewals(sides: list[Side], rounds: int, say: Callable[[str], None], where: str) -> None:
    """Renew over a kept mutual TLS connection per device, a few times each."""
    for number in range(rounds):
        say(f"{where}: renewals, round {number + 1} of {rounds}")
        for side in sides:
            if side.enrolled:
                each = 12 // rounds if side.name == "lachan" else 6 // rounds
                lanes = [
                    http_client.Lane([est.renew(one) for _ in range(each)], one.certificate, one.key)
                    for one in side.enrolled
                ]
                side.measure("re-enrol kept ×24", lanes)


def _rows(sides: list[Side], cases: tuple[Case, ...], where: str, *, quick: bool) -> list[Row]:
    ours, *others = sides
    names = [case.name for case in cases] + ([] if quick else ["re-enrol kept ×24"])
    found = []
    for name in names:
        beside = [(side.name, side.tallies[name].rate) for side in others if name in side.tallies]
        for label, rate in beside or [("", None)]:
            found.append(Row(f"{name}, {where}", ours.tallies[name].rate, beside=label, peer=rate))
    alone = CASES[0].name
    for share, word in ((0.5, "p50"), (0.99, "p99")):
        for side in others if alone in ours.tallies else []:
            mine, its = ours.tallies[alone].quantile(share), side.tallies[alone].quantile(share)
            found.append(Row(f"one enrolment alone {word}, {where}", mine, "ms", side.name, its))
    return found
