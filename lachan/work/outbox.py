"""The append-only event table: outbox, audit trail and timeline at once (design decision 2).

`append` writes a fact in the transaction of the change that it tells of, with one due job per subscribed handler. The
bytes that the ledger hashes are stored as bytes: canonical JSON (RFC 8785) with a random salt, so that a body may later be
erased while its leaf hash stays and reveals nothing. Rows are never updated otherwise. The order of ``seq`` is not the
order of commit on PostgreSQL; the sealer (`lachan.ledger`) takes care of that with ``txid``.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import orjson
import rfc8785
import sqlalchemy as sa

from lachan import clock, wiring
from lachan.database import BigSerial, UtcDateTime, metadata
from lachan.errors import NotFound
from lachan.events import Event
from lachan.ids import new_id, random_octets
from lachan.statements import Statement, later
from lachan.wiring import Work
from lachan.work import jobs
from lachan.work.jobs import Gravity, Whose

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", BigSerial, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(36), nullable=False, unique=True),
    sa.Column("name", sa.String(60), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("device_id", sa.String(36), index=True),
    sa.Column("vendor", sa.String(100), index=True),
    sa.Column("happened_at", UtcDateTime, nullable=False),
    sa.Column("recorded_at", UtcDateTime, nullable=False),
    sa.Column("body", sa.LargeBinary),
    sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
    sa.Column("txid", sa.BigInteger, nullable=False, server_default="0", index=True),
    sqlite_autoincrement=True,
)
_COLUMNS = (
    "id", "name", "actor", "device_id", "vendor", "happened_at", "recorded_at", "body", "leaf_hash",
)  # fmt: skip
_OWN_TXID = sa.text("pg_current_xact_id()::text::bigint")
_SAFE = 1 << 53  # whole numbers below it are exact in every JSON reader (RFC 7493 2.2)
_INSERT = {
    "sqlite": Statement(events.insert().values(txid=0), columns=_COLUMNS),
    "postgresql": Statement(events.insert().values(txid=_OWN_TXID), columns=_COLUMNS),
}


class Actor(Protocol):
    """Who decided something, as the ledger names them (`lachan.identity.Principal`)."""

    @property
    def label(self) -> str:
        """The name under which it is recorded."""


@dataclass(frozen=True)
class StoredEvent:
    """A fact as it was sealed: who, whom, when and what are the words of its body, whatever the row's columns say.

    ``event`` is None when the body was erased, or cannot be read; then the others are the columns' words, which nothing proves.
    """

    seq: int
    id: str
    name: str
    event: Any
    actor: str
    device_id: str | None
    vendor: str | None
    happened_at: datetime
    recorded_at: datetime


def append(
    connection: sa.Connection,
    event: Event,
    *,
    actor: Actor,
    happened_at: datetime | None = None,
    vendor: str | None = None,
    sender: str | None = None,
) -> str:
    """Record a fact and make its handlers due, in the caller's transaction.

    Args:
        connection: an open `Database.write`.
        event: the fact.
        actor: who decided it.
        happened_at: when it happened; now by default. When we learnt of it is recorded besides.
        vendor: of the event's device, if the caller knows it; looked up otherwise.
        sender: whose turn its handlers take in their lane: the principal of the deciding line; else the first that the
            fact names, else the actor.

    Returns:
        The event's id.
    """
    vendor = getattr(event, "vendor", None) or vendor or vendor_of(connection, event.device_id)
    dialect = connection.dialect.name
    event_id, made = calls(event, actor=actor, vendor=vendor, dialect=dialect, happened_at=happened_at, sender=sender)
    later(connection, made)
    return event_id


def calls(
    event: Event,
    *,
    actor: Actor,
    vendor: str | None,
    dialect: str,
    happened_at: datetime | None = None,
    sender: str | None = None,
) -> tuple[str, list[tuple[Statement, dict[str, Any]]]]:
    """Make ready the statements with which `append` records a fact, for those who run them with others of their own.

    Args:
        event: the fact.
        actor: who decided it.
        vendor: of its device, if it is about one.
        dialect: of the database.
        happened_at: as in `append`.
        sender: as in `append`.

    Returns:
        The event's id and the statements.
    """
    name, now, event_id = type(event).__name__, clock.now(), new_id()
    happened, recorded_at = happened_at or now, clock.iso(now)
    body = canonical(
        {
            "id": event_id, "name": name, "actor": actor.label, "device_id": event.device_id, "vendor": vendor,
            "happened_at": clock.iso(happened) if happened_at else recorded_at, "recorded_at": recorded_at, "data": event.body(),
            "salt": random_octets(16).hex(),
        }
    )  # fmt: skip
    values = {
        "id": event_id, "name": name, "actor": actor.label, "device_id": event.device_id, "vendor": vendor,
        "happened_at": happened, "recorded_at": now, "body": body, "leaf_hash": hashlib.sha256(b"\0" + body).digest(),
    }  # fmt: skip
    handlers = wiring.load().handlers.get(name, ())
    turn = sender or next(iter(getattr(event, "senders", ())), actor.label)
    return event_id, [(_INSERT[dialect], values), *_due(event, event_id, handlers, vendor=vendor, sender=turn)]


def _due(
    event: Event, event_id: str, handlers: Iterable[Work], *, vendor: str | None, sender: str
) -> list[tuple[Statement, dict[str, Any]]]:
    """Make a fact's handlers due, and what it begins, as grave as the fact says it is."""
    whose = Whose(
        sender=sender, vendor=vendor, site=getattr(event, "site", None), severity=Gravity.of(getattr(event, "severity", None))
    )  # fmt: skip
    payload, names = {"event": event_id}, [work.function for work in handlers]
    made = [jobs.row(f"event:{name}", payload, key=f"{event_id}:{name}", **whose) for name in names]
    for begin in wiring.load().begins.get(type(event).__name__, ()):
        if begin.wants(event):
            carried = {"event": event_id, "fact": {"device_id": event.device_id, **event.body()}}
            key = f"{begin.kind}:{event.device_id or ''}:{event_id}"
            made.append(jobs.row(begin.kind, carried, key=key, **whose))
    return [(jobs.INSERT, row) for row in made]


def canonical(value: Any) -> bytes:
    """Canonical JSON (RFC 8785); for what is nothing but ASCII-keyed objects, lists, text and whole numbers, quickly.

    Raises:
        Exception: the value is no JSON of the kind that RFC 8785 knows.
    """
    if _plain(value):
        with contextlib.suppress(TypeError):  # a lone surrogate
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return rfc8785.dumps(json.loads(json.dumps(value)))


def _plain(value: Any) -> bool:
    """Tell whether orjson writes it as RFC 8785 says: its numbers and the order of its keys differ elsewhere."""
    if value is None or type(value) is str or type(value) is bool:
        return True
    if type(value) is int:
        return -_SAFE < value < _SAFE
    if type(value) is dict:
        for key, item in value.items():
            if not (type(key) is str and key.isascii() and (type(item) is str or _plain(item))):
                return False
        return True
    return (type(value) is list or type(value) is tuple) and all(map(_plain, value))


def get(connection: sa.Connection, event_id: str) -> StoredEvent:
    """One fact by its id.

    Raises:
        NotFound: there is none.
    """
    row = _GET.first(connection, id_=event_id)
    if row is None:
        raise NotFound(f"No event {event_id}.")
    return stored(row._asdict())


def read(
    connection: sa.Connection,
    *,
    after: int = 0,
    limit: int = 100,
    device_id: str | None = None,
    vendor: str | None = None,
    names: tuple[str, ...] = (),
    newest_first: bool = False,
) -> list[StoredEvent]:
    """Facts in order of ``seq``, after a given one; narrowed to a device, a vendor, or some names."""
    query = sa.select(events).limit(limit)
    if newest_first:
        query = query.order_by(events.c.seq.desc())
        query = query.where(events.c.seq < after) if after else query
    else:
        query = query.where(events.c.seq > after).order_by(events.c.seq)
    if device_id is not None:
        query = query.where(events.c.device_id == device_id)
    if vendor is not None:
        query = query.where(events.c.vendor == vendor)
    if names:
        query = query.where(events.c.name.in_(names))
    return told(connection.execute(query).mappings(), device_id=device_id, vendor=vendor)


def told(rows: Iterable[Any], *, device_id: str | None, vendor: str | None) -> list[StoredEvent]:
    """Give rows as facts, without those whose sealed words are about another device, or of another vendor, than was asked for.

    Args:
        rows: of `events`.
        device_id: whom they must be about; None for anybody.
        vendor: whose they must be; None for anybody's.
    """
    found = [stored(row) for row in rows]
    return [
        fact
        for fact in found
        if (device_id is None or fact.device_id == device_id) and (vendor is None or fact.vendor == vendor)
    ]


def newest(connection: sa.Connection) -> int:
    """Give the highest number given to a fact so far; 0 before the first."""
    return connection.execute(sa.select(sa.func.max(events.c.seq))).scalar() or 0


def stored(row: Any) -> StoredEvent:
    """Give a row of `events` as the fact that it keeps; columns are copies, by which rows are found."""
    event, words, moments = None, row, (row["happened_at"], row["recorded_at"])
    if row["body"] is not None:
        with contextlib.suppress(
            ValueError, TypeError, KeyError
        ):  # somebody damaged it: `lachan ledger verify` names it
            body = json.loads(row["body"])
            moments = clock.parse(body["happened_at"]), clock.parse(body["recorded_at"])
            event, words = Event.load(body["name"], body["data"]), body
    return StoredEvent(
        row["seq"], words["id"], words["name"], event, words["actor"], words["device_id"], words["vendor"], *moments
    )


def vendor_of(connection: sa.Connection, device_id: str | None) -> str | None:
    """Give the vendor of a device; None for no device."""
    if device_id is None:
        return None
    found: str | None = _VENDOR.scalar(connection, id_=device_id)
    return found


def _vendor_of(_dialect: str) -> sa.Select[tuple[str]]:
    devices = metadata.tables["devices"]  # a room that imports this one
    return sa.select(devices.c.vendor).where(devices.c.id == sa.bindparam("id_"))


_GET = Statement(sa.select(events).where(events.c.id == sa.bindparam("id_")))
_VENDOR = Statement(_vendor_of)
