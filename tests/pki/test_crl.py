"""CRLs: entries follow the rows page by page, a large one leaves the signer as a file, and the door sends it as it lies there."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as library

from lachan import clock
from lachan.database import Database
from lachan.program import doctor
from lachan.runtime import Runtime
from lachan.work.worker import Worker
from pki import authorities, crl, listed, ocsp, revocation, service
from pki.models import attempts, certificates, crls
from pki.states import CertificateState, Reason
from tests.pki.doors import open_doors
from tests.pki.support import camera, csr


def rows(
    count: int, *, state: CertificateState = CertificateState.REVOKED, at: datetime | None = None, days: int = 90
) -> list[dict]:
    """Certificate rows with random serial numbers, no device, and bytes that nobody looks at."""
    now = at or clock.now()
    return [
        {
            "id": os.urandom(16).hex(),
            "serial_number": f"{int.from_bytes(os.urandom(16), 'big') >> 2 | 1 << 126:x}",
            "profile": "camera",
            "subject": "CN=bulk",
            "fingerprint": os.urandom(32).hex(),
            "spki_sha256": "",
            "certificate": b"",
            "not_before": now,
            "not_after": now + timedelta(days=days),
            "state": state,
            "state_since": now.replace(microsecond=0),
            "reason": "superseded" if state is CertificateState.REVOKED else "",
            "issued_at": now,
        }
        for _ in range(count)
    ]


def insert(db: Database, values: list[dict]) -> None:
    with db.write() as connection:
        connection.execute(certificates.insert(), values)


def change(rt: Runtime, serials: Sequence[str], state: CertificateState) -> None:
    """What `revoke` and `release` do to the rows of certificates."""

    def unit(connection: sa.Connection) -> None:
        found = connection.execute(sa.select(certificates).where(certificates.c.serial_number.in_(serials))).all()
        reason = "superseded" if state is CertificateState.REVOKED else ""
        revocation._set(rt, connection, found, state, reason)

    rt.db.run(unit)


def serials(found: listed.Listed) -> list[str]:
    """What its parts list, by the library."""
    from lachan.der import integer, sequence, signed
    from pki.crl_signing import crl_body
    from pki.profiles import ECDSA_SHA256
    from pki.setup import make_root

    now = clock.now()
    authority = authorities.Authority("issuing", make_root().certificate)
    body = crl_body(authority, found.parts(), number=1, this_update=now, next_update=now + timedelta(days=1))
    parsed = x509.load_der_x509_crl(signed(b"".join(body), ECDSA_SHA256, sequence(integer(1), integer(1))))
    return sorted(f"{one.serial_number:x}" for one in parsed)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pages of ten rows; gives the list that every page read is counted in."""
    read: list[int] = []
    original = listed._rows

    def counted(*words: object) -> list[tuple[str, str, str]]:
        found = original(*words)  # type: ignore[arg-type]
        read.append(len(found))
        return found

    monkeypatch.setattr(listed, "PAGE", 10)
    monkeypatch.setattr(listed, "_rows", counted)
    return read


def test_pages_follow_every_change(rt: Runtime, small_pages: list[int]) -> None:
    """After each of many changes the kept pages say what a whole reading says, and little was read for it."""
    made = rows(95) + rows(40, state=CertificateState.VALID)
    insert(rt.db, made)
    kept = listed.Listed("issuing")
    kept.refresh(rt.db)
    wanted = {row["serial_number"] for row in made[:95]}
    assert serials(kept) == sorted(wanted)
    assert sum(small_pages) == 95

    valid = sorted(row["serial_number"] for row in made[95:])
    ordered = sorted(wanted)
    steps = [
        (valid[:1], CertificateState.REVOKED),
        (valid[1:40], CertificateState.REVOKED),  # pages are split
        (ordered[:25], CertificateState.VALID),  # the first pages become empty
        (ordered[50:70], CertificateState.VALID),
        (ordered[:1] + ordered[60:61], CertificateState.REVOKED),
        (ordered[25:95] + ordered[:1] + valid, CertificateState.VALID),  # nothing is left
        (valid[7:8], CertificateState.REVOKED),
    ]
    for changed, state in steps:
        change(rt, changed, state)
        wanted = wanted | set(changed) if state is CertificateState.REVOKED else wanted - set(changed)
        small_pages.clear()
        kept.refresh(rt.db)
        assert serials(kept) == sorted(wanted)
        if len(changed) == 1:
            assert len(small_pages) <= 3
        whole = listed.Listed("issuing")
        whole.refresh(rt.db)
        assert b"".join(sorted(whole.parts())) or wanted == set()
        assert serials(whole) == sorted(wanted)
    small_pages.clear()
    kept.refresh(rt.db)
    assert small_pages == [], "nothing changed, nothing is read"


def test_an_entry_stays_until_a_regular_crl_after_the_end(
    rt: Runtime, small_pages: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 5280 3.3."""
    monkeypatch.setattr(listed, "WHOLE", timedelta(days=1000))
    insert(rt.db, rows(30) + rows(1, days=3))
    kept = listed.Listed("issuing")
    kept.refresh(rt.db)
    assert len(serials(kept)) == 31
    with clock.travel(timedelta(days=3, hours=1)):
        kept.refresh(rt.db)
        assert len(serials(kept)) == 31, "it ended an hour ago"
    small_pages.clear()
    with clock.travel(timedelta(days=5, hours=1)):
        kept.refresh(rt.db)
        assert len(serials(kept)) == 30
        assert sum(small_pages) < 30, "only its page was read"


def test_a_database_that_went_back_is_read_whole(rt: Runtime, small_pages: list[int]) -> None:
    made = rows(30)
    insert(rt.db, made)
    kept = listed.Listed("issuing")
    change(rt, [made[0]["serial_number"]], CertificateState.REVOKED)
    kept.refresh(rt.db)
    with rt.db.write() as connection:  # a backup was restored
        connection.execute(certificates.delete().where(certificates.c.id == made[1]["id"]))
        connection.execute(revocation.revisions.update().values(revision=0))
    kept.refresh(rt.db)
    assert len(serials(kept)) == 29


def test_no_question_walks_over_certificates_in_force(rt: Runtime) -> None:
    """What is asked at every CRL and every minute goes by the partial indexes."""
    if rt.db.dialect != "sqlite":
        pytest.skip("EXPLAIN QUERY PLAN is SQLite's")
    made = rows(300)
    insert(rt.db, made + rows(3000, state=CertificateState.VALID))
    with rt.db.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    plans: list[str] = []

    def explain(connection, cursor, statement, parameters, *_rest):  # type: ignore[no-untyped-def]
        if statement.startswith("SELECT") and not statement.startswith("SELECT 1"):
            found = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in found.fetchall())

    kept = listed.Listed("issuing")
    sa.event.listen(rt.db.engine, "before_cursor_execute", explain)
    try:
        kept.refresh(rt.db)
        change(rt, [made[0]["serial_number"]], CertificateState.VALID)
        plans_of_change = len(plans)
        with clock.travel(timedelta(hours=1)):
            kept.refresh(rt.db)
        crl._forget_attempts(rt)
    finally:
        sa.event.remove(rt.db.engine, "before_cursor_execute", explain)
    assert plans_of_change < len(plans)
    assert not [plan for plan in plans if plan.startswith("SCAN")], plans
    for index in ("listed", "changed", "ended"):
        assert [plan for plan in plans if f"ix_pki_certificates_{index}" in plan], (index, sorted(set(plans)))
    assert [plan for plan in plans if "COVERING INDEX ix_pki_certificates_listed" in plan], (
        "no row itself is read for a list"
    )
    assert [plan for plan in plans if "ix_pki_attempts_window_start" in plan]


def test_attempts_are_forgotten_by_pages(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crl, "FORGET_AT_ONCE", 3)
    old = clock.now() - timedelta(days=2)
    values = [{"who": f"name:{n}", "window_start": old if n < 7 else clock.now(), "failures": 1} for n in range(9)]
    with rt.db.write() as connection:
        connection.execute(attempts.insert(), values)
    crl._forget_attempts(rt)
    with rt.db.read() as connection:
        assert sorted(connection.execute(sa.select(attempts.c.who)).scalars()) == ["name:7", "name:8"]


def test_a_crl_larger_than_a_frame_is_published_and_served(signer_rt: Runtime, tmp_path: Path) -> None:
    """10^5 entries are more than the 4 MiB that a message of the signer may have."""
    insert(signer_rt.db, rows(100_000))
    found = crl.publish(signer_rt)
    assert found.size > 4 << 20
    assert list(authorities.folder(signer_rt.settings).parent.glob("tmp*")) == [], "its file has no name there"
    with (
        open_doors(signer_rt, tmp_path / "c") as doors,
        httpx.Client(base_url=doors.url("status"), timeout=60) as client,
    ):
        answer = client.get("/crl/issuing.crl")
        assert int(answer.headers["Content-Length"]) == len(answer.content) == found.size
        parsed = x509.load_der_x509_crl(answer.content)
        assert parsed.is_signature_valid(service.hierarchy(signer_rt.db).issuing.public_key())  # type: ignore[arg-type]
        assert len(parsed) == 100_000
        tag = answer.headers["ETag"]
        for known in (tag, f'"x", W/{tag}', "*"):
            again = client.get("/crl/issuing.crl", headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert client.get("/crl/issuing.crl", headers={"If-None-Match": '"issuing-7"'}).status_code == 200
        crl.publish(signer_rt)
        assert client.get("/crl/issuing.crl", headers={"If-None-Match": tag}).status_code == 200

        path = crl.store(signer_rt).local_path(crl.latest(signer_rt, "issuing").blob)
        assert path is not None
        path.unlink()
        assert client.get("/crl/issuing.crl").status_code == 503
        assert "is not there" in next(iter(crl.health(signer_rt))).what
        crl.refresh(signer_rt)
        assert client.get("/crl/issuing.crl").status_code == 200
        assert list(crl.health(signer_rt)) == []


def test_files_of_old_crls_go(signer_rt: Runtime) -> None:
    store = crl.store(signer_rt)
    store.put("issuing/1-left-by-a-crash.crl", b"")
    for _ in range(4):
        crl.publish(signer_rt)
    with signer_rt.db.read() as connection:
        named = set(connection.execute(sa.select(crls.c.file).where(crls.c.authority == "issuing")).scalars())
    assert set(store.names("issuing/")) == named
    assert len(named) == crl.KEEP


def test_a_crl_that_lost_the_race_is_thrown_away(signer_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two publish at once: the signer gives both the same number, and only one is ever seen."""
    original, inside = crl._put_in_force, []

    def overtaken(connection: sa.Connection, row: dict) -> bool:
        if not inside:
            inside.append(1)
            other = {**row, "file": "issuing/1-other.crl"}
            assert original(connection, other)
        return original(connection, row)

    monkeypatch.setattr(crl, "_put_in_force", overtaken)
    crl.store(signer_rt).put("issuing/1-other.crl", b"x")
    assert crl.publish(signer_rt).blob == "issuing/1-other.crl"
    assert list(crl.store(signer_rt).names("issuing/")) == ["issuing/1-other.crl"]


def test_health_tells_of_a_crl_that_is_late_or_over(signer_rt: Runtime) -> None:
    def said() -> list[str]:
        return [problem.what for problem in crl.health(signer_rt)]

    assert said() == ["The authority issuing has no CRL."]
    crl.publish(signer_rt)
    assert said() == []
    change(
        signer_rt, [f"{camera(signer_rt).enrol(signer_rt, csr()).certificate.serial_number:x}"], CertificateState.HELD
    )
    assert said() == [], "the next CRL is about to be made"
    with clock.travel(timedelta(minutes=6)):
        assert "are in no CRL of issuing" in said()[0]
        (row,) = [row for row in doctor._installation(signer_rt) if row[0] == "crl"]
        assert row[1] == "missing"
    crl.publish(signer_rt)
    for hours, word in ((13, None), (19, "should have been renewed"), (25, "ended at")):
        with clock.travel(timedelta(hours=hours)):
            assert said() == [] if word is None else word in said()[0]


def test_what_was_published_while_the_clock_was_ahead_is_made_anew(signer_rt: Runtime) -> None:
    """Whoever checks a certificate refuses a CRL that is not in force yet, and an answer of a responder that is not valid yet."""
    with clock.travel(timedelta(days=36)):
        crl.refresh(signer_rt)
    (told,) = [problem.what for problem in crl.health(signer_rt)]
    assert "is in force from" in told
    before = crl.latest(signer_rt, "issuing").number
    crl.refresh(signer_rt)
    assert list(crl.health(signer_rt)) == []
    assert crl.latest(signer_rt, "issuing").number == before + 1
    responder = authorities.service_certificate(signer_rt.db, "ocsp-responder")
    assert responder.not_valid_before_utc <= clock.now()


def test_what_was_signed_and_never_recorded_is_revoked_everywhere(signer_rt: Runtime) -> None:
    issuing = authorities.get(signer_rt.db, "issuing")
    serial = (1 << 126) + 4711
    crl.publish(signer_rt)

    def asked() -> str:
        name, key = issuing.hashes["sha256"]
        builder = library.OCSPRequestBuilder().add_certificate_by_hash(name, key, serial, hashes.SHA256())
        answer = ocsp.answer(signer_rt, builder.build().public_bytes(Encoding.DER)).content
        return library.load_der_ocsp_response(answer).certificate_status.name

    def close(serial_number: str) -> bool:
        return signer_rt.db.run(
            lambda connection: service.close_unrecorded(
                signer_rt, connection, authority="issuing", serial_number=serial_number
            )
        )

    assert asked() == "UNKNOWN"
    assert close(f"{serial:X}") is True
    assert close(f"{serial:x}") is False
    Worker(signer_rt, kinds=["pki.crl"]).run_due()
    parsed = x509.load_der_x509_crl(crl.content(signer_rt, crl.latest(signer_rt, "issuing")))
    assert [one.serial_number for one in parsed] == [serial]
    assert asked() == "REVOKED"
    with signer_rt.db.read() as connection:
        assert revocation.is_closed(connection, authority="issuing", serial_number=f"{serial:x}")
        assert not revocation.is_closed(connection, authority="issuing", serial_number="5a")
    recorded = camera(signer_rt).enrol(signer_rt, csr()).certificate
    assert close(f"{recorded.serial_number:x}") is False, "it is in the books"
    with clock.travel(issuing.certificate.not_valid_after_utc - clock.now() + timedelta(days=3)):
        kept = listed.Listed("issuing")
        kept.refresh(signer_rt.db)
        assert kept.parts() == []


def test_a_crl_in_the_making_keeps_nobody_waiting(signer_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signer stands in the middle of a CRL's rows, and issues certificates and answers OCSP all the same."""
    original, standing, go_on = listed._rows, threading.Event(), threading.Event()

    def slow(*words: object) -> list[tuple[str, str, str]]:
        standing.set()
        assert go_on.wait(60)
        return original(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(listed, "_rows", slow)
    cam = camera(signer_rt)
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(crl.publish, signer_rt)
        try:
            assert standing.wait(60)
            certificate = cam.enrol(signer_rt, csr()).certificate
            builder = library.OCSPRequestBuilder().add_certificate(
                certificate, service.hierarchy(signer_rt.db).issuing, hashes.SHA256()
            )
            question = builder.build().public_bytes(Encoding.DER)
            assert ocsp.answer(signer_rt, question).status is ocsp.Status.SUCCESSFUL
            assert not publishing.done()
        finally:
            go_on.set()
        assert publishing.result().number == 1


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_entry(reason: Reason) -> None:
    entry = listed.encode([("4" + "0" * 31, "2026-07-01 00:00:00", str(reason))])
    assert (len(entry) == 35) == (reason is Reason.UNSPECIFIED)


def test_a_window_that_began_while_the_clock_was_ahead_is_over(rt: Runtime) -> None:
    """Else a device that guessed wrongly then would wait for 36 days."""
    from pki import attempts as counted

    with clock.travel(timedelta(days=36)), rt.db.write() as connection:
        assert [counted.count(connection, "name:x") for _ in range(3)] == [1, 2, 3]
    with rt.db.write() as connection:
        assert counted.count(connection, "name:x") == 1
