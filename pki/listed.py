"""What a CRL lists: the entries of one authority, encoded, kept in pages by serial number inside the signer.

The first CRL after the signer's start, and one every `WHOLE`, reads all rows that are not in force, by the index of just
those, `PAGE` at a time on the driver's cursor. Between them only the pages are read anew in which a certificate changed
(its `revision`) or ended (its `not_after`), so that a revocation costs the same among a million as among ten. Every page
is read from the rows by the signer itself. Limits: one octet string of about 45 bytes an entry stays in memory (45 MB for
10^6); a row changed behind `pki.revocation`'s back is seen with the next whole reading.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from lachan import clock, der
from lachan.database import Database
from pki.models import certificates, revisions, unrecorded
from pki.states import NUMBERS, CertificateState, Reason

PAGE = 2000
WHOLE = timedelta(hours=6)
KEEP_EXPIRED = timedelta(days=2)  # an entry stays until a regular CRL after the certificate's end had it (RFC 5280 3.3)
BREATH = 0.0002  # seconds after each page in which the signer's other threads get the interpreter
_HELD = "certificate_hold"
_CODES = {**{str(reason): number for reason, number in NUMBERS.items()}, _HELD: 6}
_NOT_IN_FORCE = sa.text("state <> 'valid'")  # the words of the index, see pki.models


def _reason_extension(number: int) -> bytes:
    """crlEntryExtensions; reason 0 is left out (RFC 5280 5.3.1)."""
    return der.sequence(der.extension("2.5.29.21", der.enumerated(number))) if number else b""


_REASONS = {text: _reason_extension(number) for text, number in _CODES.items()}
_UNSPECIFIED = _REASONS[Reason.UNSPECIFIED]


def entry(serial: int, since: datetime, reason: bytes) -> bytes:
    """Give a revokedCertificates element (RFC 5280 5.1) of any serial number."""
    return der.sequence(der.integer(serial), der.moment(since), reason)


def encode(rows: Iterable[Sequence[str]]) -> bytes:
    """Revoked certificates one after the other.

    Args:
        rows: serial number (hex), since when (``YYYY-MM-DD HH:MM:SS…`` in UTC), reason; a reason that nobody knows is
            left out, the certificate never.
    """
    out: list[bytes] = []
    from_hex = bytes.fromhex
    for serial, since, reason in rows:
        why = _REASONS.get(reason, _UNSPECIFIED)
        if (
            len(serial) == 32 and "0" < serial[0] < "8" and since < "2050"
        ):  # ours: 16 octets, UTCTime; lengths are known
            digits = since[2:4] + since[5:7] + since[8:10] + since[11:13] + since[14:16] + since[17:19]
            front = b"\x30\x2f\x02\x10" if why else b"\x30\x21\x02\x10"
            out.append(front + from_hex(serial) + b"\x17\x0d" + digits.encode() + b"Z" + why)
        else:
            when = datetime.strptime(since[:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            out.append(entry(int(serial, 16), when, why))
    return b"".join(out)


@dataclass(frozen=True)
class _Seen:
    """Up to where the pages know the rows."""

    revision: int
    horizon: datetime
    whole_at: datetime


class Listed:
    """The entries of one authority; `lock` it around `refresh` and reading."""

    def __init__(self, authority: str) -> None:
        self.authority = authority
        self.lock = threading.Lock()
        self._starts: list[str] = [""]  # page i holds the serial numbers from starts[i] to before starts[i + 1]
        self._pages: list[bytes] = [b""]
        self._unrecorded = b""
        self._seen: _Seen | None = None

    def refresh(self, db: Database) -> None:
        """Bring the pages up to the committed rows."""
        now = clock.now()
        horizon = now - KEEP_EXPIRED
        with db.read() as connection:
            counted = sa.select(revisions.c.revision).where(revisions.c.authority == self.authority)
            revision = connection.execute(counted).scalar() or 0
        seen = self._seen
        if seen is None or revision < seen.revision or horizon < seen.horizon or now - seen.whole_at > WHOLE:
            pages = list(self._read(db, horizon, "", None))
            self._starts, self._pages = [start for start, _ in pages], [page for _, page in pages]
            seen = _Seen(revision, horizon, now)
        elif revision > seen.revision or horizon > seen.horizon:
            for index in sorted(self._touched(db, seen, horizon), reverse=True):
                self._replace(db, horizon, index)
        self._unrecorded = self._read_unrecorded(db, horizon)
        self._seen = _Seen(revision, horizon, seen.whole_at)

    def parts(self) -> list[bytes]:
        """Give the entries in pieces, in no order."""
        return [part for part in (*self._pages, self._unrecorded) if part]

    def _touched(self, db: Database, seen: _Seen, horizon: datetime) -> set[int]:
        """Give the pages in which something changed."""
        c = certificates.c
        mine = c.authority == self.authority
        changed = sa.select(c.serial_number).where(mine, sa.text("revision > 0"), c.revision > seen.revision)
        ended = sa.select(c.serial_number).where(mine, _NOT_IN_FORCE)
        ended = ended.where(c.not_after > seen.horizon, c.not_after <= horizon)
        with db.read() as connection:
            serials = [*connection.execute(changed).scalars(), *connection.execute(ended).scalars()]
        return {bisect_right(self._starts, serial) - 1 for serial in serials}

    def _replace(self, db: Database, horizon: datetime, index: int) -> None:
        end = self._starts[index + 1] if index + 1 < len(self._starts) else None
        pages = list(self._read(db, horizon, self._starts[index], end))
        self._starts[index : index + 1] = [start for start, _ in pages]
        self._pages[index : index + 1] = [page for _, page in pages]

    def _read(self, db: Database, horizon: datetime, start: str, end: str | None) -> Iterator[tuple[str, bytes]]:
        """Pages of the rows with serial numbers from ``start`` to before ``end``; at least one, which may be empty."""
        after = certificates.c.serial_number >= start
        while True:
            rows = _rows(db, self.authority, horizon, after, end)
            yield start, encode(rows)
            if len(rows) < PAGE:
                return
            time.sleep(BREATH)
            after = certificates.c.serial_number > rows[-1][0]
            start = rows[-1][0] + "0"  # the smallest that can follow

    def _read_unrecorded(self, db: Database, horizon: datetime) -> bytes:
        u = unrecorded.c
        query = sa.select(u.serial_number, u.since, u.reason).where(
            u.authority == self.authority, u.not_after > horizon
        )
        with db.read() as connection:
            found = connection.execute(query).all()
        return b"".join(
            entry(int(row.serial_number, 16), row.since, _REASONS.get(row.reason, _UNSPECIFIED)) for row in found
        )


def _rows(
    db: Database, authority: str, horizon: datetime, after: sa.ColumnElement[bool], end: str | None
) -> list[tuple[str, str, str]]:
    """One page of serial number, moment and reason as texts, straight from the driver."""
    c = certificates.c
    if db.dialect == "sqlite":
        since: sa.ColumnElement[Any] = sa.type_coerce(c.state_since, sa.String)  # kept as such a text
    else:
        since = sa.func.to_char(sa.func.timezone("UTC", c.state_since), "YYYY-MM-DD HH24:MI:SS")
    reason = sa.case((c.state == CertificateState.HELD, _HELD), else_=c.reason)
    query = sa.select(c.serial_number, since, reason).where(
        c.authority == authority, _NOT_IN_FORCE, after, c.not_after > horizon
    )
    if end is not None:
        query = query.where(c.serial_number < end)
    with db.read() as connection:
        cursor = connection.execute(query.order_by(c.serial_number).limit(PAGE)).cursor
        assert cursor is not None
        return list(cursor.fetchall())
