"""Validate a whole file and stages it: nothing is applied before every row has been looked at.

Steps: the same file of the same sender that is still open, or the same Idempotency-Key, is the same import. Else each page
of rows is checked, good rows go to one blob and bad ones to another, and then one short unit writes the import's row and
makes its first chunk due. Who dies before that leaves blobs without a row, which `applying.sweep` removes.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING

import orjson
import sqlalchemy as sa

from lachan import clock
from lachan.devices.importing import applying
from lachan.devices.importing.checking import PAGE, Checker, Good
from lachan.devices.importing.models import REFUSED, ROWS, Import, ImportState, imports, store
from lachan.devices.importing.reading import rows as read_rows
from lachan.errors import Invalid
from lachan.identity import Principal
from lachan.ids import new_id

if TYPE_CHECKING:
    from lachan.runtime import Runtime

BLOCK = 1 << 18  # bytes read at once
Progress = Callable[[int], None]


class KeyReused(Invalid):
    """The same Idempotency-Key came with another file, or another request."""

    title, hint = "Idempotency-Key used for another request", "Use a new key for each new request."


@dataclass
class _Counts:
    rows: int = 0
    bad: int = 0


@dataclass(frozen=True)
class _Asked:
    """By what a file that was sent before is known: its digest, and the unique keys of its import's row."""

    digest: str
    open_key: str
    request_key: str | None

    @classmethod
    def of(cls, actor: Principal, digest: str, key: str) -> "_Asked":
        """Give the keys of one sender's file."""
        return cls(digest, _key(actor, "file", digest), _key(actor, "key", key) if key else None)

    def known(self, connection: sa.Connection) -> Import | None:
        """Give the import that this request already is.

        Raises:
            KeyReused: the key belongs to another file.
        """
        if self.request_key is not None:
            found = _one(connection, imports.c.request_key == self.request_key)
            if found is not None and found.sha256 != self.digest:
                raise KeyReused
            if found is not None:
                return found
        return _one(connection, imports.c.open_key == self.open_key)


def begin(
    rt: "Runtime",
    file: IO[bytes],
    *,
    actor: Principal,
    json_lines: bool | None = None,
    key: str = "",
    due: bool = True,
    progress: Progress = lambda _rows: None,
) -> tuple[Import, bool]:
    """Validate a file and make its import; or find the one that it already is.

    Args:
        rt: the open installation.
        file: its bytes; can seek.
        actor: who imports.
        json_lines: whether it has one JSON object per line; by default its first character tells.
        key: an Idempotency-Key: the same key and file give the same import, also when that is done.
        due: make the chunks due work; else the caller applies them (`applying.apply`).
        progress: is told now and then how many rows were validated.

    Returns:
        The import, and whether it is new.

    Raises:
        BadFile: it is no table.
        Forbidden: the actor may not register devices.
        KeyReused: the key belongs to another file.
    """
    with closing(Checker(rt.db, actor)) as checker:
        asked = _Asked.of(actor, _sha256(file), key)
        with rt.db.read() as connection:
            known = asked.known(connection)
        if known is not None:
            return known, False
        made = _stage(rt, file, asked.digest, checker, actor, json_lines=json_lines, progress=progress)
    found = _record(rt, made, asked, due=due)
    if found != made:  # done at once, or somebody was quicker
        applying.forget(rt, made.id, all_of_it=found.id != made.id)
    return found, found.id == made.id


def _record(rt: "Runtime", made: Import, asked: _Asked, *, due: bool) -> Import:
    """Write the import's row and make its first chunk due, unless somebody wrote it meanwhile; give what is there."""

    def unit(connection: sa.Connection) -> Import:
        there = asked.known(connection)
        if there is not None:
            return there
        values = {**asdict(made), "open_key": asked.open_key, "request_key": asked.request_key}
        connection.execute(imports.insert().values(values))
        if made.done == made.rows:
            return applying.close(connection, made)
        if due:
            applying.make_due(connection, made)
        return made

    try:
        return rt.db.run(unit)
    except sa.exc.IntegrityError:  # on PostgreSQL two who came at once: now the other's row can be seen
        return rt.db.run(unit)


def _stage(
    rt: "Runtime",
    file: IO[bytes],
    digest: str,
    checker: Checker,
    actor: Principal,
    *,
    json_lines: bool | None,
    progress: Progress,
) -> Import:
    """Write the blobs of good and of bad rows, a line each; give the import that they are of."""
    import_id, counts, blobs = new_id(), _Counts(), store(rt.settings)
    with tempfile.TemporaryFile(dir=rt.settings.data) as bad:
        file.seek(0)
        blobs.put(import_id + ROWS, _good_lines(file, counts, checker, bad, json_lines, progress))
        bad.seek(0)
        blobs.put(import_id + REFUSED, iter(lambda: bad.read(BLOCK), b""))
    return Import(
        id=import_id, actor=actor.label, vendor=actor.vendor, sha256=digest, state=ImportState.APPLYING, rows=counts.rows,
        accepted=0, rejected=counts.bad, chunk=0, position=0, peaks=b"", merkle_root=None, created_at=clock.now(),
        finished_at=None,
    )  # fmt: skip


def _good_lines(
    file: IO[bytes],
    counts: _Counts,
    checker: Checker,
    bad: IO[bytes],
    json_lines: bool | None,
    progress: Progress,
) -> Iterator[bytes]:
    incoming = read_rows(file, json_lines=json_lines)
    while page := list(islice(incoming, PAGE)):
        good, refused = checker.page(page)
        counts.rows += len(page)
        counts.bad += len(refused)
        bad.write(b"".join(orjson.dumps(asdict(one)) + b"\n" for one in refused))
        progress(counts.rows)
        yield b"".join(map(line, good))


def line(good: Good) -> bytes:
    """Give a good row as its blob keeps it."""
    return b"%d\t%s\n" % (good.row, good.fields)


def _one(connection: sa.Connection, where: sa.ColumnElement[bool]) -> Import | None:
    row = connection.execute(sa.select(imports).where(where)).mappings().first()
    return None if row is None else Import.of(row)


def _key(actor: Principal, kind: str, text: str) -> str:
    return hashlib.sha256(f"{actor.kind}:{actor.id}\n{kind}\n{text}".encode()).hexdigest()


def _sha256(file: IO[bytes]) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()
