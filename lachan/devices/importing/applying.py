"""Apply a staged import, a chunk at a time: each is one unit of work with one fact, and due work of its own.

A chunk's unit registers its rows, records `DevicesImported` with the Merkle root over them, moves the import on and makes
the next chunk due, all or nothing; the last one closes the import with the root over the chunks' roots. Whoever dies leaves
the import at a chunk's border, and whoever goes on begins there: a chunk that is applied already changes nothing.

The hashing (RFC 9162 2.1): a leaf of a chunk is the canonical JSON of a registered row's fields, in the file's order; a leaf
of the closing tree is a chunk's root.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import sqlalchemy as sa

from lachan import clock, merkle
from lachan.blobs import BlobStore, NoSuchBlob
from lachan.database import UtcDateTime, for_update
from lachan.devices import contested, search
from lachan.devices.importing.checking import BadRow
from lachan.devices.importing.models import REFUSED, ROWS, Import, ImportState, imports, refusals, store
from lachan.devices.models import Criticality, DeviceState, NewDevice, devices
from lachan.errors import NotFound
from lachan.events import DevicesImported
from lachan.identity import Principal, scope
from lachan.ids import new_id
from lachan.statements import Statement
from lachan.work import jobs, outbox

if TYPE_CHECKING:
    from lachan.runtime import Runtime

CHUNK = 500  # rows of one unit of work: some 10 ms of the write lock
KEEP = timedelta(days=90)  # what became of an import can be read so long after its end
ORPHANED = timedelta(days=1)  # blobs without a row are left alone so long: somebody may still be validating
PAGE = 200  # imports of one step of the sweep
JOB = "devices.import"


class _Row(NamedTuple):
    """A row to apply: the line that it begins at, the device's id to be, its fields in canonical JSON, its folded text in JSON."""

    number: int
    id: str
    fields: bytes
    folded: bytes


@dataclass(frozen=True)
class _Chunk:
    """Rows to apply at one moment, where they are said to be, the Merkle root over them, and where the next chunk begins."""

    rows: tuple[_Row, ...]
    places: tuple[contested.Row, ...]
    root: bytes
    now: datetime
    end: int
    last: bool


@dataclass(frozen=True)
class _Importer:
    """Who sent the file, as the ledger names them."""

    label: str


def get(connection: sa.Connection, import_id: str, *, principal: Principal | None = None) -> Import:
    """One import; with ``principal`` only if they may see it.

    Raises:
        NotFound: there is none, or it is another vendor's.
    """
    query = sa.select(imports).where(imports.c.id == import_id)
    if principal is not None:
        query = scope(principal, query, imports.c.vendor)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"No import {import_id}.")
    return Import.of(row)


def find(connection: sa.Connection, *, principal: Principal, before: str = "", limit: int = 100) -> list[Import]:
    """Give imports that the principal may see, the newest first, older than a given one."""
    query = scope(principal, sa.select(imports), imports.c.vendor).order_by(imports.c.id.desc()).limit(limit)
    if before:
        query = query.where(imports.c.id < before)
    return [Import.of(row) for row in connection.execute(query).mappings()]


def run_job(rt: "Runtime", job: jobs.Job) -> None:
    """Apply the chunk that fell due; the next one is made due with it."""
    apply(rt, job.payload["import"], due=True)


def apply(rt: "Runtime", import_id: str, *, due: bool = False) -> Import:
    """Apply the next chunk of an import.

    Args:
        rt: the open installation.
        import_id: the import; one that is done stays as it is.
        due: make the chunk after it due work.

    Raises:
        NotFound: there is no such import.
        NoSuchBlob: its rows are gone from the store.
    """
    with rt.db.read() as connection:
        before = get(connection, import_id)
    if before.state is ImportState.APPLYING:
        try:
            chunk = _read(store(rt.settings), before)
        except NoSuchBlob:  # another worker applied the last chunk meanwhile, and removed it
            with rt.db.read() as connection:
                now = get(connection, import_id)
            if now.state is ImportState.APPLYING:
                raise
            return now
        before = rt.db.run(lambda connection: _apply(connection, before, chunk, due=due))
    if before.state is ImportState.DONE:
        forget(rt, import_id)
    return before


def _read(blobs: BlobStore, found: Import) -> _Chunk:
    """Read the next chunk's rows and prepare all that needs no database."""
    name = found.id + ROWS
    size, text = blobs.size(name), b""
    for piece in blobs.open(name, start=found.position):
        text += piece
        if text.count(b"\n") >= CHUNK:
            break
    rows, places, end = list[_Row](), list[contested.Row](), found.position
    for line in text.splitlines(keepends=True)[:CHUNK]:
        number, _, fields = line.rstrip(b"\n").partition(b"\t")
        said = orjson.loads(fields)
        rows.append(_Row(int(number), new_id(), fields, orjson.dumps(search.folded(said))))
        places.append((rows[-1].id, said.get("address"), said["site"]))
        end += len(line)
    root = merkle.root(merkle.leaf_hash(row.fields) for row in rows)
    return _Chunk(tuple(rows), tuple(places), root, clock.now(), end, last=end >= size)


def _apply(connection: sa.Connection, before: Import, chunk: _Chunk, *, due: bool) -> Import:
    query = for_update(sa.select(imports).where(imports.c.id == before.id), connection)
    found = Import.of(connection.execute(query).mappings().one())
    if (found.state, found.chunk) != (before.state, before.chunk):
        return found  # somebody else applied it
    root, bad = chunk.root, _register(connection, chunk, vouched=found.vendor is None)
    contested.tell(connection, chunk.places, actor=_Importer(found.actor))
    if bad:
        connection.execute(refusals.insert(), [{**asdict(one), "import_id": found.id} for one in bad])
        late = {one.row for one in bad}
        root = merkle.root(merkle.leaf_hash(row.fields) for row in chunk.rows if row.number not in late)
    accepted = len(chunk.rows) - len(bad)
    fact = DevicesImported(
        accepted=accepted, rejected=len(bad), merkle_root=root.hex(), import_id=found.id, chunk=found.chunk
    )
    outbox.append(connection, fact, actor=_Importer(found.actor))
    frontier = _frontier(found)
    frontier.append(merkle.leaf_hash(root))
    after = replace(
        found, accepted=found.accepted + accepted, rejected=found.rejected + len(bad), chunk=found.chunk + 1,
        position=chunk.end, peaks=b"".join(frontier.peaks),
    )  # fmt: skip
    if chunk.last:
        return close(connection, after)
    _write(connection, after)
    if due:
        make_due(connection, after)
    return after


def close(connection: sa.Connection, found: Import) -> Import:
    """End an import whose rows are all applied, with the fact that holds the root over its chunks; in the caller's unit."""
    root = _frontier(found).root().hex()
    done = replace(found, state=ImportState.DONE, merkle_root=root, finished_at=clock.now())
    _write(connection, done, open_key=None)
    fact = DevicesImported(
        accepted=done.accepted, rejected=done.rejected, merkle_root=root, import_id=done.id, chunks=done.chunk,
        file_sha256=done.sha256,
    )  # fmt: skip
    outbox.append(connection, fact, actor=_Importer(done.actor))
    return done


def make_due(connection: sa.Connection, found: Import) -> None:
    """Make an import's next chunk due work, in the caller's unit."""
    jobs.enqueue(connection, JOB, {"import": found.id}, key=f"import:{found.id}:{found.chunk}")


def forget(rt: "Runtime", import_id: str, *, all_of_it: bool = False) -> None:
    """Remove the blob of good rows of an import that is done, or both of its blobs."""
    for blob in (ROWS, REFUSED) if all_of_it else (ROWS,):
        store(rt.settings).delete(import_id + blob)


def sweep(rt: "Runtime") -> None:
    """Remove imports that ended long ago, and blobs that nobody will read: recurring work, in pages."""
    while rt.db.run(_remove_old) == PAGE:
        pass
    ids = sorted({name.partition(".")[0] for name in store(rt.settings).names()})
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        with rt.db.read() as connection:
            rows = connection.execute(sa.select(imports.c.id, imports.c.state).where(imports.c.id.in_(page)))
            states = {row.id: row.state for row in rows}
        for import_id in page:
            if states.get(import_id) == ImportState.DONE:
                forget(rt, import_id)
            elif import_id not in states and _age(import_id) > ORPHANED:
                forget(rt, import_id, all_of_it=True)


def _remove_old(connection: sa.Connection) -> int:
    old = sa.select(imports.c.id).where(imports.c.finished_at < clock.now() - KEEP).limit(PAGE)
    found: int = connection.execute(imports.delete().where(imports.c.id.in_(old))).rowcount
    return found


def _age(import_id: str) -> timedelta:
    """Tell how long ago an id was made (UUIDv7 begins with the milliseconds); endless if it is none."""
    try:
        made = int(import_id.replace("-", "")[:12], 16) / 1000
    except ValueError:
        return timedelta.max
    return timedelta(seconds=clock.now().timestamp() - made)


def _register(connection: sa.Connection, chunk: _Chunk, *, vouched: bool) -> list[BadRow]:
    """Insert the rows; give those whose name or serial number somebody has registered since the file was validated."""
    text = b"[%s]" % b",".join(
        b'{"id":"%s","folded":%s,%s' % (row.id.encode(), row.folded, row.fields[1:]) for row in chunk.rows
    )
    count = _INSERT[connection.dialect.name]().execute(connection, rows=text.decode(), now=chunk.now, vouched=vouched)
    if count == len(chunk.rows):
        return []
    ids = [row.id for row in chunk.rows]
    there = set(connection.scalars(sa.select(devices.c.id).where(devices.c.id.in_(ids))))
    return [_late(row) for row in chunk.rows if row.id not in there]


def _late(row: _Row) -> BadRow:
    said = orjson.loads(row.fields)
    reason = f"{said['name']} or serial number {said['serial_number']} of {said['vendor']} was registered meanwhile."
    return BadRow(row.number, "name", f"name: {reason}", {key: value for key, value in said.items() if value})


@cache
def _insert_sqlite() -> Statement:
    """Insert rows that travel as they are staged, in one statement; what is registered already is left out.

    In one statement the search's index is written once; a statement for each row would write it for each.
    """
    from sqlalchemy.dialects.sqlite import insert

    taken = sa.func.json_each(sa.bindparam("rows", type_=sa.Text)).table_valued("value")
    chosen = sa.select(*(sa.func.json_extract(taken.c.value, f"$.{name}") for name in _TAKEN), *_fixed().values())
    chosen = chosen.where(sa.true())  # or ON CONFLICT would be read as a join's ON
    return Statement(insert(devices).from_select([*_TAKEN, *_fixed()], chosen).on_conflict_do_nothing())


@cache
def _insert_postgresql() -> Statement:
    """Do the same; the dialect is imported when needed."""
    from sqlalchemy.dialects.postgresql import insert

    text = sa.cast(sa.bindparam("rows", type_=sa.Text), sa.JSON)
    rows = sa.func.json_to_recordset(text).table_valued(*(sa.column(name, sa.Text) for name in _TAKEN))
    taken = rows.render_derived(name="taken", with_types=True)
    chosen = sa.select(*(taken.c[name] for name in _TAKEN), *_fixed().values())
    return Statement(insert(devices).from_select([*_TAKEN, *_fixed()], chosen).on_conflict_do_nothing())


def _fixed() -> dict[str, Any]:
    """Give what all rows have in common."""
    return {
        "state": sa.literal(str(DeviceState.REGISTERED)), "criticality": sa.literal(str(Criticality.UNKNOWN)),
        "created_at": sa.bindparam("now", type_=UtcDateTime), "vouched": sa.bindparam("vouched", type_=sa.Boolean),
    }  # fmt: skip


_TAKEN = ("id", "folded", *NewDevice.model_fields)  # columns that a staged row gives
_INSERT = {"sqlite": _insert_sqlite, "postgresql": _insert_postgresql}


def _write(connection: sa.Connection, found: Import, **more: Any) -> None:
    changed = ("state", "accepted", "rejected", "chunk", "position", "peaks", "merkle_root", "finished_at")
    values = {name: getattr(found, name) for name in changed} | more
    connection.execute(imports.update().where(imports.c.id == found.id).values(values))


def _frontier(found: Import) -> merkle.Frontier:
    size = merkle.HASH_SIZE
    peaks: Sequence[bytes] = [found.peaks[at : at + size] for at in range(0, len(found.peaks), size)]
    return merkle.Frontier(found.chunk, peaks)
