"""Signals in, one explained decision per device out (design section 1). It decides; it moves nothing.

Rooms set and clear signals in their own transactions; `decide` is a pure function of them: the worst answer wins and
every reason is listed. The doors poll `version` (one row, bumped in the same transaction, `touch`) and load a `snapshot`
when it changed. Certificates that must be refused although their signature holds stand beside the signals, named by what only
their issuer could write (`CertificateKeys`): ECDSA signatures are malleable, so the hash of the whole names one of many.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from lachan import clock
from lachan.database import UtcDateTime, insert_ignore, metadata
from lachan.statements import Call, Done, Statement, later, pipeline


class Answer(StrEnum):
    """What a door does with a device, best first."""

    ALLOW = "allow"
    LIMITED = "limited"
    QUARANTINE = "quarantine"
    DENY = "deny"

    @property
    def rank(self) -> int:
        """0 for the best answer, 3 for the worst."""
        return list(Answer).index(self)


trust_signals = sa.Table(
    "trust_signals",
    metadata,
    sa.Column("device_id", sa.String(36), primary_key=True),
    sa.Column("source", sa.String(40), primary_key=True),
    sa.Column("ref", sa.String(80), primary_key=True),
    sa.Column("answer", sa.String(12), nullable=False),
    sa.Column("reason", sa.String(60), nullable=False),
    sa.Column("detail", sa.Text, nullable=False, server_default=""),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("until", UtcDateTime),
)
trust_refused_certificates = sa.Table(
    "trust_refused_certificates",
    metadata,
    sa.Column("tbs_sha256", sa.String(64), primary_key=True),
    sa.Column("issuer_serial", sa.String(64), nullable=False),
    sa.Column("device_id", sa.String(36), nullable=False),
    sa.Column("reason", sa.String(20), nullable=False),
    sa.Column("until", UtcDateTime, nullable=False),
)
trust_version = sa.Table(
    "trust_version",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Something that speaks against a device.

    Attributes:
        device_id: whom it speaks of.
        source: the room that says so (``containment``, ``posture`` …).
        answer: the best answer that is still right while this holds.
        reason: stable code.
        detail: one sentence for people.
        ref: id of what explains it (containment, assessment …); one signal per device, source and ref.
        since: from when.
        until: to when; None means until cleared.
    """

    device_id: str
    source: str
    answer: Answer
    reason: str
    ref: str
    since: datetime
    detail: str = ""
    until: datetime | None = None


@dataclass(frozen=True)
class Decision:
    """The answer for one device, with every signal that led to it, worst first; no signal means allow."""

    device_id: str
    answer: Answer
    reasons: tuple[Signal, ...]


@dataclass(frozen=True)
class CertificateKeys:
    """What a refusal names a certificate by: nothing that anybody but its issuer can vary.

    Attributes:
        tbs_sha256: SHA-256 of tbsCertificate, the part that is signed, hex.
        issuer_serial: SHA-256 of the issuer's name (DER) and the serial number, hex (RFC 5280 4.1.2.2: unique together).
    """

    tbs_sha256: str
    issuer_serial: str

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "CertificateKeys":
        """Compute the keys of a certificate."""
        named = certificate.issuer.public_bytes() + f"{certificate.serial_number:x}".encode()
        return cls(
            hashlib.sha256(certificate.tbs_certificate_bytes).hexdigest(),
            hashlib.sha256(named).hexdigest(),
        )


@dataclass(frozen=True)
class Snapshot:
    """What a door keeps in memory: only what is not plainly allowed.

    Attributes:
        version: of the database when it was taken.
        at: when it was taken.
        decisions: device id → decision, for those that are not ``allow``.
        refused_certificates: either of a certificate's keys → reason (suspended, revoked, superseded).
    """

    version: int
    at: datetime
    decisions: dict[str, Decision]
    refused_certificates: dict[str, str]

    def refusal(self, keys: CertificateKeys) -> str | None:
        """Tell why a certificate is refused, by whichever key it is known; None if it is not."""
        return self.refused_certificates.get(keys.tbs_sha256) or self.refused_certificates.get(keys.issuer_serial)


def decide(device_id: str, signals: Iterable[Signal], *, at: datetime) -> Decision:
    """Give the worst answer among the signals in force at ``at``, with all of them as reasons."""
    live = [s for s in signals if s.since <= at and (s.until is None or at < s.until)]
    live.sort(key=lambda s: (-s.answer.rank, s.since, s.source, s.ref))
    return Decision(device_id, live[0].answer if live else Answer.ALLOW, tuple(live))


def set_signal(connection: sa.Connection, signal: Signal) -> None:
    """Set or replace a signal, in the caller's transaction."""
    later(connection, signal_calls(signal))
    touch(connection)


def signal_calls(signal: Signal) -> list[tuple[Statement, dict[str, Any]]]:
    """Make ready the statements of `set_signal`, for those who run them with others of their own; they `touch` as well."""
    gone = {"device_id_": signal.device_id, "source_": signal.source, "ref_": signal.ref}
    return [(_DELETE, gone), (_INSERT, {**signal.__dict__, "answer": str(signal.answer)})]


def clear_signal(connection: sa.Connection, *, device_id: str, source: str, ref: str) -> None:
    """Take a signal back, in the caller's transaction; none there is no error."""
    if _drop(connection, device_id, source, ref):
        touch(connection)


def signals(connection: sa.Connection, device_id: str | None = None) -> list[Signal]:
    """Give the stored signals of one device, or of all."""
    if device_id is not None:
        return [_signal(row._asdict()) for row in _OF_DEVICE.all(connection, device_id_=device_id)]
    return [_signal(row) for row in connection.execute(sa.select(trust_signals)).mappings()]


def decision(connection: sa.Connection, device_id: str) -> Decision:
    """Give the present decision for one device, from the database."""
    return decision_and(connection, device_id, ())[0]


def decision_and(connection: sa.Connection, device_id: str, calls: Sequence[Call]) -> tuple[Decision, list[Done]]:
    """Do `decision`, and run other statements with it, on PostgreSQL in the same flush."""
    first, *others = pipeline(connection, [(_OF_DEVICE, {"device_id_": device_id}), *calls])
    return decide(device_id, [_signal(row._asdict()) for row in first.rows], at=clock.now()), others


def of_columns(values: Sequence[Any]) -> Signal:
    """Give the signal that a row of `trust_signals` is, its values in the table's own order."""
    found = dict(zip(trust_signals.c.keys(), values, strict=True))
    return Signal(**{**found, "answer": Answer(found["answer"])})


def refuse_certificate(
    connection: sa.Connection, *, keys: CertificateKeys, device_id: str, reason: str, until: datetime
) -> None:
    """Have the doors refuse a certificate until it expires; ``reason`` is suspended, revoked or superseded."""
    values = {**keys.__dict__, "device_id": device_id, "reason": reason, "until": until}
    if not insert_ignore(connection, trust_refused_certificates, values, index=("tbs_sha256",)):
        where = trust_refused_certificates.c.tbs_sha256 == keys.tbs_sha256
        connection.execute(trust_refused_certificates.update().where(where).values(reason=reason, until=until))
    touch(connection)


def accept_certificate(connection: sa.Connection, *, keys: CertificateKeys) -> None:
    """Stop refusing a certificate (a hold was lifted)."""
    gone = trust_refused_certificates.c.tbs_sha256 == keys.tbs_sha256
    connection.execute(trust_refused_certificates.delete().where(gone))
    touch(connection)


def touch(connection: sa.Connection, *, then: Sequence[Call] = ()) -> None:
    """Bump the version that the doors poll, with the caller's transaction, and run ``then``, which may read the new one.

    The version is one row that every change wants. On PostgreSQL a unit bumps it once, by its last statements before
    COMMIT, so its lock is held for the length of a commit and is in no lock order; numbers follow commits, and a
    door that has seen one has seen all before it. SQLite's writer is alone anyway: bumped at once.
    """
    later(connection, last=[(_BUMP, {}), *then])


def version(connection: sa.Connection) -> int:
    """Give the present version; 0 before anything was ever said."""
    return _VERSION.scalar(connection) or 0


def contained(connection: sa.Connection) -> int:
    """Tell how many devices some signal that stands now puts into quarantine or denies."""
    c = trust_signals.c
    standing = sa.and_(c.answer.in_([Answer.QUARANTINE, Answer.DENY]), sa.or_(c.until.is_(None), c.until > clock.now()))
    return connection.execute(sa.select(sa.func.count(c.device_id.distinct())).where(standing)).scalar_one()


def snapshot(connection: sa.Connection) -> Snapshot:
    """All that a door must know, consistent within one transaction."""
    at, number = clock.now(), version(connection)
    by_device: dict[str, list[Signal]] = {}
    for signal in signals(connection):
        by_device.setdefault(signal.device_id, []).append(signal)
    decisions = {device: decide(device, found, at=at) for device, found in by_device.items()}
    c = trust_refused_certificates.c
    refused: dict[str, str] = {}
    for row in connection.execute(sa.select(c.tbs_sha256, c.issuer_serial, c.reason).where(c.until > at)):
        refused[row.tbs_sha256] = refused[row.issuer_serial] = row.reason
    return Snapshot(
        number,
        at,
        {device: found for device, found in decisions.items() if found.answer is not Answer.ALLOW},
        refused,
    )


_INSERT = Statement(trust_signals.insert(), columns=tuple(column.name for column in trust_signals.c))
_OF_DEVICE = Statement(sa.select(trust_signals).where(trust_signals.c.device_id == sa.bindparam("device_id_")))
_DELETE = Statement(
    trust_signals.delete().where(
        trust_signals.c.device_id == sa.bindparam("device_id_"),
        trust_signals.c.source == sa.bindparam("source_"),
        trust_signals.c.ref == sa.bindparam("ref_"),
    )
)
_VERSION = Statement(sa.select(trust_version.c.version))


def _bump(name: str) -> sa.Insert:
    if name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    first = insert(trust_version).values(id=1, version=1)
    return first.on_conflict_do_update(index_elements=["id"], set_={"version": trust_version.c.version + 1})


_BUMP = Statement(_bump)


def _drop(connection: sa.Connection, device_id: str, source: str, ref: str) -> bool:
    return _DELETE.execute(connection, device_id_=device_id, source_=source, ref_=ref) > 0


def _signal(row: Any) -> Signal:
    return Signal(**{**row, "answer": Answer(row["answer"])})
