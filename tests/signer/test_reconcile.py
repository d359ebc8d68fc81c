"""The signer's log against the database: a signature that the books do not know becomes an event, once, after the grace."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection

from lachan import clock, events
from lachan.identity.principal import system
from lachan.ledger import sealer
from lachan.ledger.models import checkpoints
from lachan.runtime import Runtime
from lachan.signer import reconcile, siglog
from lachan.signer.siglog import SignatureLog, SignatureOutcome
from lachan.wiring import Signing
from lachan.work import outbox


def found(rt: Runtime) -> list[tuple[str, str]]:
    with rt.db.read() as connection:
        stored = outbox.read(connection, names=("SignerDiscrepancy",))
        return [(s.event.kind, s.event.subject) for s in stored]


def seal_one(rt: Runtime) -> int:
    with rt.db.write() as connection:
        outbox.append(connection, events.SignedIn(user="an"), actor=system("test"))
    return sealer.seal_now(rt)


def test_a_signature_beside_the_books_is_found_once(ledger_rt: Runtime):
    rt = ledger_rt
    seal_one(rt)
    lost = seal_one(rt)
    with rt.db.write() as connection:  # somebody used the key and kept the books clean of it
        connection.execute(checkpoints.delete().where(checkpoints.c.size == lost))
    reconcile.reconcile(rt)
    assert found(rt) == [], "a row may follow its signature within the grace"
    with clock.travel(reconcile.GRACE + timedelta(seconds=1)):
        for _ in range(3):
            reconcile.reconcile(rt)
        assert found(rt) == [("checkpoint", str(lost))]
        seal_one(rt)
        reconcile.reconcile(rt)
        assert found(rt) == [("checkpoint", str(lost))]


def test_what_was_signed_while_the_clock_was_ahead_is_compared_too(ledger_rt: Runtime):
    """And nothing that comes after it is passed over."""
    rt = ledger_rt
    seal_one(rt)
    with clock.travel(timedelta(days=36)):
        ahead = seal_one(rt)
    lost = seal_one(rt)
    with rt.db.write() as connection:
        connection.execute(checkpoints.delete().where(checkpoints.c.size.in_([ahead, lost])))
    with clock.travel(reconcile.GRACE + timedelta(seconds=1)):
        reconcile.reconcile(rt)
    assert found(rt) == [("checkpoint", str(ahead)), ("checkpoint", str(lost))]


def test_many_lines_are_compared_in_pieces(ledger_rt: Runtime, monkeypatch: pytest.MonkeyPatch):
    rt = ledger_rt
    path = rt.settings.signer_home / "signatures.log"
    lines = [{"subject": str(i), "digest": "0" * 64, "outcome": SignatureOutcome.SIGNED} for i in range(4000)]
    log = SignatureLog(path)
    log.append("toy", lines)
    log.append("crl", lines[:1])  # a kind without a finder is not compared
    log.append("toy", [{**lines[7], "outcome": SignatureOutcome.REFUSED, "reason": "no"}])
    log.close()
    assert path.stat().st_size > 1 << 19, "more than one answer of the signer"
    monkeypatch.setitem(rt.wiring.signing, "toy", Signing("", 1, f"{__name__}:in_the_books"))
    with clock.travel(reconcile.GRACE + timedelta(seconds=1)):
        reconcile.reconcile(rt)
    assert found(rt) == [("toy", "1234"), ("toy", "3999")]


def in_the_books(connection: Connection, subject: str) -> bool:
    return subject not in {"1234", "3999"}


def test_a_log_that_became_shorter_is_told_once(ledger_rt: Runtime):
    rt = ledger_rt
    seal_one(rt)
    with clock.travel(reconcile.GRACE + timedelta(seconds=1)):
        reconcile.reconcile(rt)
        (rt.settings.signer_home / "signatures.log").write_bytes(b"")
        for _ in range(3):
            reconcile.reconcile(rt)
    ((kind, subject),) = found(rt)
    assert kind == "log"
    assert "shorter" in subject


def test_without_a_signer_nothing_breaks(rt: Runtime):
    reconcile.reconcile(rt)
    assert found(rt) == []
    assert list(siglog.read(rt.settings.signer_home / "signatures.log")) == []
