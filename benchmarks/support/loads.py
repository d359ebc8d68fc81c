"""What goes on beside a device that turns: each a context in which a street is under one kind of load.

A load runs in threads of the client until the block ends; what it is refused is its own affair (`Street.bystanders` watches
others). Each is bounded in count, and the last, a hostile manufacturer, does what one can who has a thousand devices.
"""

import contextlib
import itertools
import multiprocessing
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from benchmarks import firmware
from benchmarks.support import est
from benchmarks.support.installation import Checkout
from benchmarks.support.street import Live, Street, bulk, get, said, trusting

Load = Callable[[Street], AbstractContextManager[None]]
ORDINARY = "Nov 22 16:19:02 camera daemon.info ntpd: the clock is kept"
LINES = 720


@contextmanager
def threads(*loops: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run loops, each in a thread of its own, until the block ends; an error of one ends the block with it."""
    stop, faults = threading.Event(), list[BaseException]()

    def run(loop: Callable[[threading.Event], None]) -> None:
        try:
            loop(stop)
        except BaseException as error:  # noqa: BLE001 - told at the end of the block
            faults.append(error)

    running = [threading.Thread(target=run, args=(loop,)) for loop in loops]
    for one in running:
        one.start()
    try:
        yield
    finally:
        stop.set()
        for one in running:
            one.join()
    if faults:
        raise faults[0]


@contextmanager
def idle(_street: Street) -> Iterator[None]:
    """Nothing."""
    yield


@contextmanager
def ingest(street: Street) -> Iterator[None]:
    """A collector delivers half of what is taken from it when it delivers all the time."""
    people = _collector(street)

    def deliver() -> bool:
        lines = [said(ORDINARY, host={"name": f"que-{number:07}"}) for number in range(LINES)]
        body = bulk(lines).partition(b"\r\n\r\n")[2]
        return people.post("/_bulk", content=body, headers=street.quarter.headers).status_code in {200, 201}

    began = time.monotonic()
    taken = sum(itertools.takewhile(lambda _: time.monotonic() - began < 3, (deliver() for _ in range(10_000))))
    every = 2 * (time.monotonic() - began) / max(1, taken)

    def loop(stop: threading.Event) -> None:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + every, time.monotonic())
            deliver()

    street.lab.settle()
    with closing(people), threads(loop):
        yield


@contextmanager
def importing(street: Street, count: int = 100_000) -> Iterator[None]:
    """A file of devices is being imported, and another after it."""
    begun = threading.Event()

    def loop(stop: threading.Event) -> None:
        while not stop.is_set():
            name = secrets.token_hex(3)
            lines = ["name,vendor,model,serial_number,site"]
            lines += [f"imp-{name}-{i:06},Vendor {i % 12},M{i % 40},{name}-{i},site-{i % 500}" for i in range(count)]
            headers = {"Content-Type": "text/csv", "Idempotency-Key": f"load-{name}"}
            text = ("\n".join(lines) + "\n").encode()
            answer = street.admin.post("/api/v1/devices/import", content=text, headers=headers, timeout=600)
            answer.raise_for_status()
            begun.set()
            query = f"SELECT count(*) FROM devices WHERE name >= 'imp-{name}-' AND name < 'imp-{name}.'"
            while not stop.wait(0.5) and street.quarter.rows.one(query) < count:
                pass

    with threads(loop):
        begun.wait(60)
        yield


@contextmanager
def assessed(street: Street) -> Iterator[None]:
    """Four devices that say nothing and one that says too much are looked at, again and again."""
    with ExitStack() as servers:
        ports = [servers.enter_context(_silent()) for _ in range(4)] + [servers.enter_context(_hostile())]
        under = [_engagement(street, port) for port in ports]

        def loop(stop: threading.Event) -> None:
            while not stop.is_set():
                for device, engagement in under:
                    path = f"/api/v1/devices/{device}/assess"
                    answer = street.analyst.post(path, json={"engagement_id": engagement})
                    if answer.status_code not in {202, 409}:  # 409: one is under way
                        raise RuntimeError(f"an assessment was answered {answer.status_code}: {answer.text[:300]}")
                stop.wait(3)

        with threads(loop):
            time.sleep(1)
            yield


@contextmanager
def dead_webhook(street: Street) -> Iterator[None]:
    """Whoever gets the webhooks takes connections and says nothing; fifty deliveries wait for it."""
    street.receiver.alive.clear()
    try:
        street.quarter.deliver(50)
        yield
    finally:
        street.receiver.alive.set()


@contextmanager
def enrolling(street: Street) -> Iterator[None]:
    """Sixteen connections enrol device after device."""
    unsent = iter([est.enrol(one) for one in street.fresh])
    lock = threading.Lock()

    def loop(stop: threading.Event) -> None:
        with closing(Live(str(street.lab.urls["device"]), street.trust())) as live:
            while not stop.is_set():
                with lock:
                    request = next(unsent, None)
                if request is None:
                    return
                status, body = live.ask(request)
                if status != 200:
                    raise RuntimeError(f"an enrolment was answered {status}: {body[:200]!r}")

    with threads(*[loop] * 16):
        yield


@contextmanager
def tuf(street: Street, count: int = 20_000) -> Iterator[None]:
    """All metadata of so many releases is being made, and once more after that."""
    from lachan.runtime import Runtime
    from lachan.settings import Settings
    from lachan.work import jobs
    from ota_signing import bins
    from ota_signing.models import slots

    env = street.lab.env
    url = env.get("LACHAN_DATABASE_URL", "")
    rt = Runtime.open(Settings.load(street.lab.data, database_url=url, people_port=0, device_port=0, status_port=0))
    firmware.crowd(rt, count)

    def again() -> bool:
        with rt.db.read() as connection:
            made = connection.execute(slots.select().where(slots.c.published < slots.c.revision).limit(1)).first()
        return made is None

    def loop(stop: threading.Event) -> None:
        while not stop.is_set():
            with rt.db.write() as connection:
                connection.execute(
                    slots.update().where(slots.c.slot < bins.SLOTS).values(revision=slots.c.revision + 1)
                )
                jobs.poke(connection, "ota.tuf.refresh")
            rt.wake()
            while not stop.wait(0.5) and not again():
                pass

    try:
        with threads(loop):
            yield
    finally:
        rt.close()


def waiting(count: int) -> Load:
    """Give a load: so many other devices' alerts wait, and are filled up when half of them are cut."""

    @contextmanager
    def others(street: Street) -> Iterator[None]:
        quarter = street.quarter
        query = "SELECT count(*) FROM containments WHERE site = 'quarter'"

        def more(left: int) -> None:
            for some in (min(500, left - start) for start in range(0, left, 500)):
                quarter.deliver(some)

        def loop(stop: threading.Event) -> None:
            with contextlib.suppress(StopIteration):  # no device is left that did not turn
                while not stop.wait(0.2):
                    if quarter.alerts - quarter.rows.one(query) < count // 2:
                        more(count // 2)

        with quarter.held():
            more(count)
        with threads(loop):
            yield

    return others


@contextmanager
def hours_apart(street: Street, count: int = 50_000) -> Iterator[None]:
    """One device sends so many lines, two hours between each and the next."""
    who = next(street.turning)

    def loop(stop: threading.Event) -> None:
        with closing(street.live(who)) as live:
            for first in range(0, count, LINES):
                lines = [said("login failed", ago=timedelta(hours=2 * n)) for n in range(first, first + LINES)]
                while not stop.is_set() and live.ask(bulk(lines))[0] in {429, 503}:
                    stop.wait(0.5)
                if stop.is_set():
                    return

    with threads(loop):
        yield


@contextmanager
def hostile_vendor(street: Street) -> Iterator[None]:
    """A manufacturer's devices turn, date lines hours apart, renew in bursts, are silent when looked at, send slowly.

    They are a process of their own, which shares the machine with the installation but no thread with who measures.
    """
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    args = (str(street.lab.urls["device"]), str(street.lab.root), street.evil, stop)
    others = spawn.Process(target=_hostile_devices, args=args, daemon=True)
    with assessed(street):
        others.start()
        try:
            yield
        finally:
            stop.set()
            others.join(60)
            others.kill()
    if others.exitcode:
        raise RuntimeError("the hostile vendor's devices ended early")


def _hostile_devices(url: str, root: str, evil: list[est.Enrolled], stop: Any) -> None:
    """Do what such a vendor's devices do, eight at a time, until told to stop."""
    taken, lock = itertools.cycle(evil), threading.Lock()

    def turn(_ended: threading.Event) -> None:
        number = 0
        while not stop.is_set():
            with lock:
                who = next(taken)
            number += 1
            with contextlib.suppress(OSError), closing(Live(url, trusting(root, who))) as live:
                lines = [said("login failed", ago=timedelta(hours=2 * n)) for n in range(200)]
                live.ask(bulk([*lines, said()] if number % 3 == 0 else lines))
                for _ in range(3):
                    live.ask(est.renew(who))

    def slow(_ended: threading.Event) -> None:
        """Send bodies a byte a second."""
        lives: list[Live] = []
        for who in evil[:32]:
            with contextlib.suppress(OSError):
                lives.append(Live(url, trusting(root, who)))
                lives[-1].socket.sendall(b"POST /_bulk HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{")
        while not stop.wait(1):
            for live in lives:
                with contextlib.suppress(OSError):
                    live.socket.sendall(b" ")
        for live in lives:
            live.close()

    with threads(*[turn] * 8, slow):
        stop.wait()


@contextmanager
def renewing(street: Street, who: est.Enrolled) -> Iterator[None]:
    """A device that turns renews meanwhile, on four connections at once."""
    requests = [[est.renew(who) for _ in range(8)] for _ in range(4)]
    lives = [street.live(who) for _ in requests]
    for live in lives:
        live.ask(get("/.well-known/est/cacerts"))

    def burst(place: int) -> Callable[[threading.Event], None]:
        def loop(stop: threading.Event) -> None:
            for request in requests[place]:
                if stop.is_set() or lives[place].ask(request)[0] == 0:
                    return

        return loop

    with threads(*(burst(place) for place in range(len(lives)))):
        yield
    for live in lives:
        live.close()


def _collector(street: Street) -> httpx.Client:
    return httpx.Client(base_url=str(street.lab.urls["people"]), verify=street.trust(), timeout=60)


def _engagement(street: Street, port: int) -> tuple[str, str]:
    name = f"looked-{port}-{secrets.token_hex(2)}"
    device = {
        "name": name,
        "vendor": "Evil",
        "model": "E1",
        "serial_number": name,
        "site": "evil",
        "address": "127.0.0.1",
    }
    made = street.admin.post("/api/v1/devices", json=device).raise_for_status().json()["id"]
    now = datetime.now(UTC)
    wanted: dict[str, Any] = {
        "reason": "acceptance", "device_ids": [made], "networks": [], "ports": [port], "methods": ["http", "default-login"],
        "not_before": now.isoformat(), "not_after": (now + timedelta(hours=2)).isoformat(), "loopback": True,
    }  # fmt: skip
    engagement = street.analyst.post("/api/v1/engagements", json=wanted).raise_for_status().json()
    street.approver.post(f"/api/v1/engagements/{engagement['id']}/approve", json={}).raise_for_status()
    return made, engagement["id"]


@contextmanager
def _server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A listener that does something with each connection; gives its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    open_ones: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                open_ones.append(listening.accept()[0])
                threading.Thread(target=_quietly, args=(answer, open_ones[-1]), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for one in open_ones:
            one.close()


def _quietly(answer: Callable[[socket.socket], None], one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        answer(one)


def _silent() -> AbstractContextManager[int]:
    return _server(lambda _one: None)


def _hostile() -> AbstractContextManager[int]:
    def answer(one: socket.socket) -> None:
        if one.recv(65_536).startswith(b"GET"):
            one.sendall(
                b"HTTP/1.1 401 No\r\nWWW-Authenticate: Digest " + b"a" * 24_000 + b"\r\nContent-Length: 0\r\n\r\n"
            )
        one.close()

    return _server(answer)


def known(checkout: Checkout) -> bool:
    """Tell whether a checkout's tables are ours, so that releases can be written into them."""
    return checkout.name == "lachan"
