"""Signals in, one explained decision per device out (design section 1). It decides; it moves nothing.

Rooms set and clear signals in their own transactions; `decide` is a pure function of them: the worst answer wins and
every reason is listed. Each change leaves a row of keys in `trust_changes`, in the same transaction; the doors follow these
(`lachan.trust_view`, ADR 0031). Certificates that must be refused although their signature holds stand beside the signals,
named by what only their issuer could write (`CertificateKeys`): ECDSA signatures are malleable, so the hash of the whole
names one of many.
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
from lachan.database import BigSerial, Database, UtcDateTime, insert_ignore, metadata
from lachan.statements import Call, Done, Statement, among, insert_or_replace, later, pipeline


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


_CONTAINED = sa.text("answer IN ('quarantine', 'deny')")
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
    sa.Index("ix_trust_signals_contained", "device_id", "until", sqlite_where=_CONTAINED, postgresql_where=_CONTAINED),
)
trust_refused_certificates = sa.Table(
    "trust_refused_certificates",
    metadata,
    sa.Column("tbs_sha256", sa.String(64), primary_key=True),
    sa.Column("issuer_serial", sa.String(64), nullable=False, index=True),
    sa.Column("device_id", sa.String(36), nullable=False, index=True),
    sa.Column("reason", sa.String(20), nullable=False),
    sa.Column("until", UtcDateTime, nullable=False),
)
# What changed, keys only: a device, one of its certificates, or (all empty) whom the doors believe. Pruned by `prune`.
trust_changes = sa.Table(
    "trust_changes",
    metadata,
    sa.Column("id", BigSerial, primary_key=True, autoincrement=True),
    sa.Column("txid", sa.BigInteger, nullable=False, server_default="0"),  # PostgreSQL's; 0 on SQLite
    sa.Column("device_id", sa.String(36), index=True),
    sa.Column("tbs_sha256", sa.String(64)),
    sa.Column("issuer_serial", sa.String(64)),
    sa.Index("ix_trust_changes_txid", "txid", "id"),
    sqlite_autoincrement=True,
)
# One row: up to which number changes were pruned, and up to which the next turn may.
trust_pruned = sa.Table(
    "trust_pruned",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("next", sa.BigInteger, nullable=False),
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
        since: when it was set, for people; it holds at once, whatever the clock of who set it said.
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
class Horizon:
    """Which changes somebody has seen: PostgreSQL's snapshot; on SQLite, whose changes commit in their order, a number.

    A change's *number* is its transaction's on PostgreSQL and its own on SQLite.

    Attributes:
        below: numbers from here on were not seen.
        open: numbers below it that were not seen either: their transactions were open.
    """

    below: int
    open: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Horizon":
        """Read what `str` wrote, or PostgreSQL's ``pg_snapshot``: lowest, below, open ones."""
        _, below, opened = text.split(":")
        return cls(int(below), frozenset(map(int, opened.split(","))) if opened else frozenset())

    def __str__(self) -> str:
        """Write it as PostgreSQL writes a ``pg_snapshot``."""
        opened = sorted(self.open)
        return f"{opened[0] if opened else self.below}:{self.below}:{','.join(map(str, opened))}"

    def covers(self, number: int) -> bool:
        """Tell whether changes of this number were seen."""
        return number < self.below and number not in self.open


def decide(device_id: str, signals: Iterable[Signal], *, at: datetime) -> Decision:
    """Give the worst answer among the signals in force at ``at``, with all of them as reasons."""
    live = [s for s in signals if s.until is None or at < s.until]  # of whatever date: whose clock was ahead meant now
    live.sort(key=lambda s: (-s.answer.rank, s.since, s.source, s.ref))
    return Decision(device_id, live[0].answer if live else Answer.ALLOW, tuple(live))


def set_signal(connection: sa.Connection, signal: Signal) -> None:
    """Set or replace a signal, in the caller's transaction."""
    later(connection, signal_calls(signal))


def signal_calls(signal: Signal) -> list[Call]:
    """Make ready the statements of `set_signal`, for those who run them with others of their own."""
    gone = {"device_id_": signal.device_id, "source_": signal.source, "ref_": signal.ref}
    return [
        (_DELETE, gone),
        (_INSERT, {**signal.__dict__, "answer": str(signal.answer)}),
        change_call(signal.device_id),
    ]


def clear_signal(connection: sa.Connection, *, device_id: str, source: str, ref: str) -> None:
    """Take a signal back, in the caller's transaction; none there is no error."""
    if _drop(connection, device_id, source, ref):
        later(connection, [change_call(device_id)])


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
    first, *others = pipeline(connection, [signals_of(device_id), *calls])
    return decided(device_id, first), others


def signals_of(device_id: str) -> Call:
    """Give the statement that reads what speaks against a device, for who runs it among others."""
    return _OF_DEVICE, {"device_id_": device_id}


def decided(device_id: str, done: Done) -> Decision:
    """Give the present decision by what came of `signals_of`."""
    return decide(device_id, [_signal(row._asdict()) for row in done.rows], at=clock.now())


def of_columns(values: Sequence[Any]) -> Signal:
    """Give the signal that a row of `trust_signals` is, its values in the table's own order."""
    found = dict(zip(trust_signals.c.keys(), values, strict=True))
    return Signal(**{**found, "answer": Answer(found["answer"])})


def refuse_certificate(
    connection: sa.Connection, *, keys: CertificateKeys, device_id: str, reason: str, until: datetime
) -> None:
    """Have the doors refuse a certificate until it expires; ``reason`` is suspended, revoked or superseded."""
    refused = {**keys.__dict__, "device_id": device_id, "reason": reason, "until": until}
    later(connection, [(_REFUSE, refused), change_call(device_id, keys)])


def accept_certificate(connection: sa.Connection, *, keys: CertificateKeys, device_id: str) -> None:
    """Stop refusing a certificate (a hold was lifted)."""
    later(connection, [(_ACCEPT, {"tbs_sha256_": keys.tbs_sha256}), change_call(device_id, keys)])


def touch(connection: sa.Connection, device_id: str | None = None, *, then: Sequence[Call] = ()) -> None:
    """Have the doors look again, with the caller's transaction, and run ``then``, which may use `own_number`.

    Args:
        connection: an open transaction.
        device_id: at this device, its certificates and its row; at whom they believe, without one.
        then: statements that follow.
    """
    later(connection, [change_call(device_id), *then])


def change_call(device_id: str | None, keys: CertificateKeys | None = None) -> Call:
    """Make ready the row that tells of a change: one statement, which waits for nobody's lock."""
    named = {"tbs_sha256": None, "issuer_serial": None} if keys is None else keys.__dict__
    return _CHANGE, {"device_id": device_id, **named}


def own_number(dialect: str) -> sa.ColumnElement[int]:
    """Give the SQL of the number that changes of the present transaction bear, once it has one (`touch`)."""
    if dialect == "postgresql":
        return sa.literal_column("pg_current_xact_id()::text::bigint", sa.BigInteger)
    return sa.select(sa.func.max(trust_changes.c.id)).scalar_subquery()


def last_number(connection: sa.Connection, device_id: str) -> int:
    """Give the number of a device's latest change; 0 if it has none that a running door may not have seen."""
    return _LAST.scalar(connection, device_id_=device_id) or 0


def answers(connection: sa.Connection, devices: Any) -> dict[str, Answer]:
    """Give the answers of now of those of some devices that any signal speaks of; ``devices`` as of `statements.listed`."""
    found: dict[str, list[Signal]] = {}
    for row in _OF_DEVICES.all(connection, devices=devices):
        found.setdefault(row.device_id, []).append(_signal(row._asdict()))
    now = clock.now()
    return {device_id: decide(device_id, signals, at=now).answer for device_id, signals in found.items()}


def reached(connection: sa.Connection, number: int) -> bool:
    """Tell whether the database has counted up to a number, which one that was restored into a new cluster may not have."""
    if connection.dialect.name == "sqlite":
        return number <= version(connection)
    return number < Horizon.parse(SNAPSHOT.scalar(connection)).below


def version(connection: sa.Connection) -> int:
    """Give how many changes were ever begun; grows with each."""
    return _VERSION.scalar(connection) or 0


def contained(connection: sa.Connection) -> int:
    """Tell how many devices some signal that stands now puts into quarantine or denies."""
    c = trust_signals.c
    standing = sa.and_(_CONTAINED, sa.or_(c.until.is_(None), c.until > clock.now()))  # the words of the index
    return connection.execute(sa.select(sa.func.count(c.device_id.distinct())).where(standing)).scalar_one()


def prune(db: Database) -> None:
    """Forget the changes that were there at the last turn already.

    A door that looked since the last turn has seen them; one that did not finds that it is behind, and loads anew. By
    turns and not by age, so that a moved clock forgets nothing early.
    """
    for page in (_prune_page, _prune_foreign):
        while db.run(page) >= _PAGE:
            pass
    db.run(_next_turn)


def _prune_page(connection: sa.Connection) -> int:
    number, p = _number(connection.dialect.name), trust_pruned.c
    gone = _removed(connection, number < sa.select(p.next).scalar_subquery())
    connection.execute(trust_pruned.update().where(p.number < max(gone, default=0)).values(number=max(gone, default=0)))
    return len(gone)


def _prune_foreign(connection: sa.Connection) -> int:
    """Remove what was written in another cluster, from which this database was restored: its numbers mean nothing here."""
    if connection.dialect.name != "postgresql":
        return 0
    reached = sa.literal_column("pg_snapshot_xmax(pg_current_snapshot())::text::bigint", sa.BigInteger)
    return len(_removed(connection, trust_changes.c.txid >= reached))


def _removed(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[int]:
    """Remove a page of changes, but never the newest (`version` never goes back), and give their numbers."""
    c, number = trust_changes.c, _number(connection.dialect.name)
    newest = sa.select(sa.func.max(c.id)).scalar_subquery()
    page = sa.select(c.id).where(which, c.id < newest).order_by(number).limit(_PAGE)
    found: sa.ColumnElement[bool] = c.id.in_(page)
    if connection.dialect.name == "postgresql":  # by place: joined by key, the table would be read whole
        place = sa.literal_column("trust_changes.ctid", sa.String)
        found = place == sa.any_(sa.func.array(page.with_only_columns(place).scalar_subquery()))
    return list(connection.execute(trust_changes.delete().where(found).returning(number)).scalars())


def _next_turn(connection: sa.Connection) -> None:
    insert_ignore(connection, trust_pruned, {"id": 1, "number": 0, "next": 0}, index=("id",))
    if connection.dialect.name == "postgresql":
        bound: Any = sa.text("pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    else:
        bound = sa.select(sa.func.coalesce(sa.func.max(trust_changes.c.id), 0) + 1).scalar_subquery()
    connection.execute(trust_pruned.update().values(next=bound))


def _number(dialect: str) -> sa.ColumnElement[int]:
    return trust_changes.c.txid if dialect == "postgresql" else trust_changes.c.id


_PAGE = 2000  # changes that one unit prunes
_CHANGED = ("device_id", "tbs_sha256", "issuer_serial")
_OWN_TXID = sa.text("pg_current_xact_id()::text::bigint")
SNAPSHOT = Statement(sa.select(sa.literal_column("pg_current_snapshot()::text", sa.String)))
_CHANGE = Statement(
    lambda dialect: trust_changes.insert().values(txid=_OWN_TXID if dialect == "postgresql" else 0), columns=_CHANGED
)
_REFUSED = trust_refused_certificates.c
_REFUSE = insert_or_replace(trust_refused_certificates, *_REFUSED.keys(), index=("tbs_sha256",))
_ACCEPT = Statement(trust_refused_certificates.delete().where(_REFUSED.tbs_sha256 == sa.bindparam("tbs_sha256_")))
_LAST = Statement(
    lambda dialect: sa.select(sa.func.max(_number(dialect))).where(
        trust_changes.c.device_id == sa.bindparam("device_id_")
    )
)
LASTS = Statement(
    lambda dialect: (
        sa.select(trust_changes.c.device_id, sa.func.max(_number(dialect)).label("number"))
        .where(among(dialect, trust_changes.c.device_id, "devices"))
        .group_by(trust_changes.c.device_id)
    )
)
_OF_DEVICES = Statement(
    lambda dialect: sa.select(trust_signals).where(among(dialect, trust_signals.c.device_id, "devices"))
)
_INSERT = Statement(trust_signals.insert(), columns=trust_signals.c.keys())
_OF_DEVICE = Statement(sa.select(trust_signals).where(trust_signals.c.device_id == sa.bindparam("device_id_")))
_DELETE = Statement(
    trust_signals.delete().where(
        trust_signals.c.device_id == sa.bindparam("device_id_"),
        trust_signals.c.source == sa.bindparam("source_"),
        trust_signals.c.ref == sa.bindparam("ref_"),
    )
)
_VERSION = Statement(sa.select(sa.func.max(trust_changes.c.id)))


def _drop(connection: sa.Connection, device_id: str, source: str, ref: str) -> bool:
    return _DELETE.execute(connection, device_id_=device_id, source_=source, ref_=ref) > 0


def _signal(row: Any) -> Signal:
    return Signal(**{**row, "answer": Answer(row["answer"])})
