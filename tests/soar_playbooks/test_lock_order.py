"""Issue 6, must show 1: certificates and containments of the same devices meet, and no deadlock reaches a caller.

Certifying and containing lock the device's row first, so one of them sees what the other committed: whichever came first,
a contained device has no certificate in force afterwards. Containments wait neither for other devices' enrolments nor
for long behind their own device's renewals. Run on SQLite here, on PostgreSQL by tests/interop/postgresql.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509

from lachan import devices
from lachan.devices import Criticality
from lachan.enforcement import Level
from lachan.identity import system
from lachan.runtime import Runtime
from lachan.settings import Settings
from lachan.signer.errors import SignerRefused
from pki import enrolment
from pki.errors import CertificateNotCurrent, HolderContained
from pki.models import certificates
from soar_playbooks.containment import budgets, service
from soar_playbooks.containment.guards import Facts
from soar_playbooks.models import containment_budgets
from tests.pki.support import ADMIN, Camera, camera, csr

ROUNDS, THREADS, SAMPLES = 100, 16, 100
REFUSALS = (HolderContained, CertificateNotCurrent, SignerRefused)  # before, or at the signer's own look
P99 = 0.5  # seconds, as the issue asks


@pytest.fixture
def settings(data: Path, database_url: str) -> Settings:
    many = {f"budget_{scope}": 10**6 for scope in ("site", "model", "detector", "sender")}
    return Settings.load(data, database_url=database_url, people_port=0, device_port=0, status_port=0, **many)


def normal(rt: Runtime, name: str) -> Camera:
    made = camera(rt, name)
    rt.db.run(lambda c: devices.set_criticality(c, made.id, Criticality.NORMAL, actor=ADMIN))
    return made


def contain(rt: Runtime, device_id: str) -> float:
    """Contain a device as a run does; how long it took, in seconds."""
    facts = Facts(device_id=device_id, subject_bound=True, outcome="success", sources=1, senders=("collector:a",))
    asked = service.Request(
        device_id=device_id, level=Level.QUARANTINE, reason="test", principal=system("playbooks"), facts=facts
    )
    began = time.monotonic()
    row = rt.db.run(lambda connection: service.request(rt, connection, asked), urgent=True)
    assert row.state == "active"
    return time.monotonic() - began


def renew(rt: Runtime, device: Camera, certificate: x509.Certificate) -> None:
    request = csr(subject=certificate.subject)
    enrolment.reenrol(rt, device_id=device.id, certificate=certificate, csr_der=request)


def in_force(rt: Runtime, device: Camera) -> int:
    c = certificates.c
    query = sa.select(sa.func.count()).where(c.device_id == device.id, c.state == "valid")
    with rt.db.read() as connection:
        return connection.execute(query).scalar_one()


@contextmanager
def beside(work: Callable[[int], None], threads: int) -> Iterator[list[BaseException]]:
    """Do some work over and over in threads while the block runs; what it raised, other than refusals, is in the list."""
    stop, raised = threading.Event(), list[BaseException]()

    def run(number: int) -> None:
        while not stop.is_set():
            try:
                work(number)
            except REFUSALS:
                return
            except BaseException as error:
                raised.append(error)
                return

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield raised
    finally:
        stop.set()
        for thread in running:
            thread.join()


def p99(waits: list[float]) -> float:
    return sorted(waits)[int(len(waits) * 0.99) - 1]


@pytest.mark.timeout(600)
def test_no_deadlock_reaches_a_caller_and_nobody_contained_is_certified(signer_rt: Runtime) -> None:
    rt = signer_rt
    for number in range(ROUNDS):
        device = normal(rt, f"cam-{number}")
        certificate = device.enrol(rt, csr()).certificate if number % 2 else None
        wrong: list[BaseException] = []

        def certify(
            device: Camera = device, shown: x509.Certificate | None = certificate, wrong: list[BaseException] = wrong
        ) -> None:
            try:
                renew(rt, device, shown) if shown is not None else device.enrol(rt, csr())
            except REFUSALS:
                pass
            except BaseException as error:
                wrong.append(error)

        thread = threading.Thread(target=certify)
        thread.start()
        contain(rt, device.id)
        thread.join()
        assert wrong == []
        assert in_force(rt, device) == 0


@pytest.mark.timeout(600)
def test_containments_do_not_wait_for_sixteen_enrolling_threads(signer_rt: Runtime) -> None:
    rt, made, turn = signer_rt, [0], threading.Lock()

    def enrol(_number: int) -> None:
        with turn:
            made[0] += 1
            name = f"enrols-{made[0]}"
        camera(rt, name).enrol(rt, csr())

    contained = [normal(rt, f"cam-{number}") for number in range(SAMPLES)]
    with beside(enrol, THREADS) as raised:
        waits = [contain(rt, device.id) for device in contained]
    assert raised == []
    assert made[0] >= THREADS
    assert p99(waits) <= P99


@pytest.mark.timeout(600)
def test_a_containment_does_not_wait_for_its_own_device_s_renewals(signer_rt: Runtime) -> None:
    rt, waits = signer_rt, []
    for number in range(20):
        device = normal(rt, f"cam-{number}")
        shown = device.enrol(rt, csr()).certificate
        with beside(lambda _number, device=device, shown=shown: renew(rt, device, shown), 2) as raised:  # type: ignore[misc]
            waits.append(contain(rt, device.id))
        assert raised == []
        assert in_force(rt, device) == 0
    assert max(waits) <= P99


@pytest.mark.timeout(300)
def test_budgets_are_exact_whoever_races(rt: Runtime) -> None:
    limits, counted = {"site:a": 37, "model:b": 1000}, list[bool]()

    def take() -> None:
        for _ in range(25):
            counted.append(rt.db.run(lambda connection: budgets.take(connection, limits)) is None)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with rt.db.read() as connection:
        rows = connection.execute(sa.select(containment_budgets.c.scope, containment_budgets.c.active))
        active = {row.scope: row.active for row in rows}
    assert (len(counted), sum(counted)) == (200, 37)
    assert active == {"site:a": 37, "model:b": 37}


def test_a_budget_of_nothing_lets_nothing_pass(rt: Runtime) -> None:
    spent = rt.db.run(lambda connection: budgets.take(connection, {"site:a": 0}))
    assert spent == budgets.Spent("site:a", 0)
