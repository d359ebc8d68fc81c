"""kill -9 between any two steps of issuing: nothing acknowledged is lost, nothing doubled, what is signed and not recorded closed.

The boundaries are those that the code enumerates. Runs on SQLite here, on PostgreSQL in tests/interop.
"""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import clock, devices, trust
from lachan.errors import Unavailable
from lachan.runtime import Runtime
from lachan.signer import dispatch, reconcile, siglog
from lachan.signer.errors import SignerUnavailable
from lachan.signer.siglog import SignatureOutcome
from pki import errors, models, service, unrecorded
from pki.enrolment import enrolling, renewing
from pki.states import Reason
from pki.steps import Blocking, Boundary, walk
from tests.pki.support import ADMIN, Camera, camera, contain, csr, facts, key
from tests.support.signer import run_init, running_signer

LATER = reconcile.GRACE + timedelta(seconds=1)


class Cutter:
    """The program of tests/pki/cutter.py."""

    def __init__(self, rt: Runtime) -> None:
        settings = rt.settings
        words = [str(settings.data), str(settings.signer_path), settings.database_url]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.pki.cutter", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, **task: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def cutter(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[Cutter] = []

    def start(rt: Runtime) -> Cutter:
        made.append(Cutter(rt))
        return made[-1]

    yield start
    for each in made:
        each.close()


def serials_signed(rt: Runtime, device_id: str) -> list[str]:
    lines = (line for _, line in siglog.read(rt.settings.signer_home / "signatures.log"))
    return [
        line["subject"]
        for line in lines
        if line["outcome"] == SignatureOutcome.SIGNED and line.get("device_id") == device_id
    ]


def serials_recorded(rt: Runtime, device_id: str) -> list[str]:
    c = models.certificates.c
    with rt.db.read() as connection:
        return list(connection.execute(sa.select(c.serial_number).where(c.device_id == device_id)).scalars())


def serials_closed(rt: Runtime) -> set[str]:
    with rt.db.read() as connection:
        return set(connection.execute(sa.select(models.unrecorded.c.serial_number)).scalars())


def check_books(rt: Runtime, cam: Camera, serial: str) -> None:
    """What must hold once the retry of the client was answered with ``serial``."""
    assert serials_recorded(rt, cam.id) == [serial]
    assert [fact.event.serial_number for fact in facts(rt, "CertificateIssued", device_id=cam.id)] == [serial]
    left = set(serials_signed(rt, cam.id)) - {serial}
    with clock.travel(LATER):
        for _ in range(2):
            reconcile.reconcile(rt)
    assert left <= serials_closed(rt)
    assert serial not in serials_closed(rt)
    told = [(fact.event.subject, fact.event.closed) for fact in facts(rt, "SignerDiscrepancy", device_id=cam.id)]
    assert sorted(told) == sorted((number, True) for number in left)


def test_the_door_and_its_writer_die_at_every_boundary(signer_rt: Runtime, cutter: Any) -> None:
    program = cutter(signer_rt)
    lost = {}
    kept = {Boundary.RECORDED}
    if signer_rt.db.dialect == "postgresql":
        kept.add(Boundary.WRITTEN)  # COMMIT leaves with the last statements (`lachan.scripts.Last`)
    for boundary in Boundary:
        cam, request = camera(signer_rt, f"cam-{boundary}"), csr(key())
        program.begin(
            role="door", boundary=boundary, name=cam.name, secret=cam.secret, csr=base64.b64encode(request).decode()
        )
        assert program.said() == "-9", boundary
        reconcile.reconcile(signer_rt)
        assert serials_closed(signer_rt).isdisjoint(serials_signed(signer_rt, cam.id))  # it may still come
        before = serials_recorded(signer_rt, cam.id)
        assert len(before) == (boundary in kept), boundary
        got = f"{cam.enrol(signer_rt, request).certificate.serial_number:x}"
        assert before in ([], [got]), boundary
        check_books(signer_rt, cam, got)
        lost[boundary] = len(serials_signed(signer_rt, cam.id)) - 1
    between = {Boundary.SIGNED, Boundary.RECORDING, Boundary.WRITTEN} - kept
    assert lost == {boundary: int(boundary in between) for boundary in Boundary}


def test_the_signer_dies_at_every_boundary(rt: Runtime, tmp_path: Path, short_folder: Path, cutter: Any) -> None:
    moved = Runtime(rt.settings.model_copy(update={"signer_socket": short_folder / "s"}), rt.db, rt.wiring)
    run_init(moved, tmp_path / "offline")
    program = cutter(moved)
    lost = {}
    for boundary in dispatch.SignerBoundary:
        cam, request = camera(moved, f"cam-{boundary}"), csr(key())
        program.begin(role="signer", boundary=boundary)
        assert program.said() == "ready"
        with pytest.raises(SignerUnavailable):
            cam.enrol(moved, request)
        assert program.said() == "-9", boundary
        assert serials_recorded(moved, cam.id) == []
        with running_signer(moved):
            got = f"{cam.enrol(moved, request).certificate.serial_number:x}"
            check_books(moved, cam, got)
            moved.signer.close()
        lost[boundary] = len(serials_signed(moved, cam.id)) - 1
    assert lost == {
        dispatch.SignerBoundary.ASKED: 0,
        dispatch.SignerBoundary.BUILT: 0,
        dispatch.SignerBoundary.LOGGED: 1,
    }


class Slow(Blocking):
    """Steps with time passing between the signature and its record."""

    async def sign(self, **asked: Any) -> dict[str, Any]:
        answer = await super().sign(**asked)
        with clock.travel(LATER):
            reconcile.reconcile(self._rt)
        return answer


def test_what_was_closed_is_not_recorded_any_more(signer_rt: Runtime) -> None:
    cam, request = camera(signer_rt), csr(key())
    asked = {"device_name": cam.name, "secret": cam.secret, "csr_der": request, "source": "::1"}
    with pytest.raises(errors.IssueClosed) as caught:
        walk(enrolling(signer_rt, Slow(signer_rt), **asked))
    assert isinstance(caught.value, Unavailable)  # the client tries again
    assert serials_recorded(signer_rt, cam.id) == []
    (first,) = serials_signed(signer_rt, cam.id)
    assert serials_closed(signer_rt) == {first}
    got = f"{cam.enrol(signer_rt, request).certificate.serial_number:x}"
    check_books(signer_rt, cam, got)


def test_what_was_recorded_is_not_closed_any_more(signer_rt: Runtime) -> None:
    cam = camera(signer_rt)
    cam.enrol(signer_rt, csr())
    (serial,) = serials_recorded(signer_rt, cam.id)
    lines = (line for _, line in siglog.read(signer_rt.settings.signer_home / "signatures.log"))
    line = next(line for line in lines if line["subject"] == serial)
    assert not signer_rt.db.run(lambda connection: unrecorded.close(signer_rt, connection, line))
    assert serials_closed(signer_rt) == set()


def test_a_doors_certificate_is_closed_and_refused_too(signer_rt: Runtime) -> None:
    spki = x509_spki()
    answer = signer_rt.signer.request("issue", profile="server", names=["localhost"], spki=spki)
    with clock.travel(LATER):
        reconcile.reconcile(signer_rt)
    from lachan.identity import system
    from pki.issuing import record

    assert len(serials_closed(signer_rt)) == 1
    with pytest.raises(errors.IssueClosed):
        signer_rt.db.run(
            lambda connection: record(connection, answer, profile="server", device_id=None, actor=system("doors"))
        )


def x509_spki() -> bytes:
    from pki import csr as requests

    return requests.read(csr()).spki


def paused(rt: Runtime, boundary: Boundary, other: threading.Thread, finished: threading.Event) -> tuple[Runtime, list]:
    """A runtime that, once, lets another thread begin at a boundary, and notes whether it ended before us."""
    early: list[bool] = []

    def reached(here: Any) -> None:
        if here is boundary and not early:
            other.start()
            early.append(finished.wait(1.0))

    return replace(rt, reached=reached), early


def test_a_closing_waits_for_an_issue_that_is_being_recorded(signer_rt: Runtime) -> None:
    cam, finished, closed = camera(signer_rt), threading.Event(), []

    def close() -> None:
        line = {"subject": serials_signed(signer_rt, cam.id)[0], "device_id": cam.id, "authority": "issuing"}
        closed.append(signer_rt.db.run(lambda connection: unrecorded.close(signer_rt, connection, line)))
        finished.set()

    other = threading.Thread(target=close)
    moved, early = paused(signer_rt, Boundary.RECORDING, other, finished)
    cam.enrol(moved, csr())
    other.join()
    assert early == [False]
    assert closed == [False]
    assert serials_closed(signer_rt) == set()


def test_a_containment_waits_for_an_issue_that_is_being_recorded(signer_rt: Runtime) -> None:
    """Whoever certifies and whoever contains a device meet on its row: no certificate after a containment's commit."""
    cam, finished = camera(signer_rt), threading.Event()

    def contain(connection: sa.Connection) -> None:
        devices.lock(connection, [cam.id])
        signal = trust.Signal(
            device_id=cam.id, source="containment", answer=trust.Answer.QUARANTINE, reason="quarantined", ref="c",
            since=clock.now(),
        )  # fmt: skip
        trust.set_signal(connection, signal)

    def run() -> None:
        signer_rt.db.run(contain)
        finished.set()

    other = threading.Thread(target=run)
    moved, early = paused(signer_rt, Boundary.RECORDING, other, finished)
    cam.enrol(moved, csr())
    other.join()
    assert early == [False]
    assert len(serials_recorded(signer_rt, cam.id)) == 1


def test_one_issue_of_a_device_is_in_flight(signer_rt: Runtime) -> None:
    """Who comes meanwhile waits, looks again and is refused without a signature."""
    cam, finished, refused = camera(signer_rt), threading.Event(), []

    def use() -> None:
        try:
            cam.enrol(signer_rt, csr())
        except errors.SecretRefused as error:
            refused.append(error)
        finished.set()

    other = threading.Thread(target=use)
    moved, early = paused(signer_rt, Boundary.HELD, other, finished)
    cam.enrol(moved, csr())
    other.join()
    assert early == [False]
    assert len(refused) == 1
    assert serials_signed(signer_rt, cam.id) == serials_recorded(signer_rt, cam.id)


def test_too_many_waiting_issues_of_a_device_are_told_to_come_again(signer_rt: Runtime) -> None:
    import asyncio

    from lachan.signer.link import SignerLink
    from pki import steps

    async def flow() -> None:
        on_loop = steps.OnLoop(signer_rt, SignerLink(signer_rt.settings.signer_path))
        async with on_loop.hold("a"):
            waiting = [asyncio.ensure_future(on_loop.hold("a").__aenter__()) for _ in range(steps.WAITING - 1)]
            await asyncio.sleep(0)
            with pytest.raises(errors.IssueUnderWay):
                async with on_loop.hold("a"):
                    pass
            async with on_loop.hold("b") as waited:
                assert not waited
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        async with on_loop.hold("a"):
            pass

    asyncio.run(flow())


class Meddled(Blocking):
    """Steps with something happening between the signature and its record."""

    def __init__(self, rt: Runtime, meddle: Any) -> None:
        super().__init__(rt)
        self.meddle = meddle

    async def sign(self, **asked: Any) -> dict[str, Any]:
        answer = await super().sign(**asked)
        self.meddle()
        return answer


@pytest.mark.parametrize("what", ["contained", "retired", "suspended", "secret ended", "key taken"])
def test_what_changes_between_signature_and_record_is_seen(signer_rt: Runtime, what: str) -> None:
    rt, shared = signer_rt, key()
    cam, other = camera(rt), camera(rt, "other")
    cam.enrol(rt, csr())
    with rt.db.write() as connection:
        fresh = service.issue_secret(rt, connection, ADMIN, cam.id)

    def meddle() -> None:
        if what == "contained":
            contain(rt, cam.id)
        if what == "key taken":
            other.enrol(rt, csr(shared))
        with rt.db.write() as connection:
            if what == "retired":
                devices.retire(connection, cam.id, "broken", actor=ADMIN)
            if what == "suspended":
                service.suspend(rt, connection, ADMIN, device_id=cam.id, reason="odd")
            if what == "secret ended":
                service.issue_secret(rt, connection, ADMIN, cam.id)

    wanted = {
        "contained": errors.HolderContained, "retired": errors.DeviceRetired, "suspended": errors.CertificatesSuspended,
        "secret ended": errors.SecretRefused, "key taken": errors.KeyInUse,
    }[what]  # fmt: skip
    request = {"device_name": cam.name, "secret": fresh.secret, "csr_der": csr(shared), "source": "::1"}
    with pytest.raises(wanted):
        walk(enrolling(rt, Meddled(rt, meddle), **request))
    assert len(serials_recorded(rt, cam.id)) == 1
    with clock.travel(LATER):
        reconcile.reconcile(rt)
    assert serials_closed(rt) == set(serials_signed(rt, cam.id)) - set(serials_recorded(rt, cam.id))
    assert len(serials_closed(rt)) == 1


def test_a_renewal_is_judged_again_too(signer_rt: Runtime) -> None:
    rt, cam = signer_rt, camera(signer_rt)
    first = cam.enrol(rt, csr()).certificate

    def meddle() -> None:
        with rt.db.write() as connection:
            service.revoke(rt, connection, ADMIN, device_id=cam.id, reason=Reason.KEY_COMPROMISE)

    request = csr(key(), subject=first.subject)
    with pytest.raises(errors.CertificateNotCurrent):
        walk(renewing(rt, Meddled(rt, meddle), device_id=cam.id, certificate=first, csr_der=request))
    assert len(serials_recorded(rt, cam.id)) == 1
