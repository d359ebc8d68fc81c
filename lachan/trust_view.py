"""What a door keeps in memory of trust, and how it follows what changes (design decision 21, ADR 0031).

Steps: `View.load` reads all that stands, a page at a time, beside whatever else its caller does meanwhile → `View.look`, many
times a second, asks for the changes that the last look could not see yet (`lachan.trust.Horizon`), reads what these
devices and certificates are now, in one snapshot, and puts it in place: first what refuses, then what lets in. Signals that
begin or end with time lie in a heap and are read again when it is time. A look costs what changed, never what exists.

Limits: one thread looks; any thread may ask. A refusal of a certificate is forgotten by the day after the certificate's end.
A view that was pruned past is `behind`: it goes on being brought up to date, but does not know all any more.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.statements import Statement, among, listed
from lachan.trust import (
    SNAPSHOT,
    Answer,
    CertificateKeys,
    Horizon,
    trust_changes,
    trust_pruned,
    trust_refused_certificates,
    trust_signals,
)

SLICE = 500  # changes that are applied at once
PAGE = 2000  # rows of a page while everything is read
BACK = 1.0  # seconds that the wall clock may step back before what ended meanwhile is read again
_DAY = 86400.0
_RANK = {str(answer): answer.rank for answer in Answer}
Kind = tuple[str, str, str]  # answer, source, reason: few, and shared


@dataclass(frozen=True)
class Against:
    """One signal that speaks against a device, without its words."""

    answer: Answer
    source: str
    reason: str
    ref: str


@dataclass(frozen=True)
class Standing:
    """What a view knows of a device that is not plainly allowed; worst reason first."""

    answer: Answer
    reasons: tuple[Against, ...]


@dataclass(frozen=True)
class Changes:
    """Whom one slice was about.

    Attributes:
        devices: ids.
        certificates: keys of either kind, hex.
        anchors: whom the doors believe may have changed.
        position: of the view, with the last slice of a look; before that, some changes up to it are not in place.
    """

    devices: frozenset[str]
    certificates: frozenset[str]
    anchors: bool
    position: Horizon | None


@dataclass(frozen=True)
class _Page:
    """Rows of changes, and where their snapshot stands."""

    position: Horizon
    behind: bool
    rows: list[Any]


class View:
    """What is not plainly allowed: which devices, for which reasons, and which certificates.

    Attributes:
        position: the changes that it has seen.
        version: of the youngest of them.
        behind: changes were pruned before it saw them.
    """

    def __init__(self) -> None:
        self.position, self.version, self.behind = Horizon(0), 0, False
        self._against: dict[str, tuple[Any, ...]] = {}  # kind, ref, kind, ref …
        self._refused: dict[bytes, str] = {}
        self._kinds: dict[Kind, Kind] = {}
        self._ends: dict[str, float] = {}  # when a device must be read again
        self._heap: list[tuple[float, str]] = []
        self._last_day: defaultdict[int, list[bytes]] = defaultdict(list)  # of refused keys
        self._ended: set[bytes] = set()  # keys whose last day is over: read once more, then forgotten
        self._today = 0
        self._wall = float("-inf")

    def standing(self, device_id: str) -> Standing | None:
        """Tell what speaks against a device; None if it is plainly allowed."""
        known = self._against.get(device_id)
        if known is None:
            return None
        reasons = tuple(Against(Answer(kind[0]), kind[1], kind[2], ref) for kind, ref in _pairs(known))
        return Standing(reasons[0].answer, reasons)

    def refusal(self, keys: CertificateKeys) -> str | None:
        """Tell why a certificate is refused, by whichever key it is known; None if it is not."""
        return self._refused.get(bytes.fromhex(keys.tbs_sha256)) or self._refused.get(bytes.fromhex(keys.issuer_serial))

    def __len__(self) -> int:
        """How many devices and keys of certificates are kept out or held down."""
        return len(self._against) + len(self._refused)

    # -- all of it ---------------------------------------------------------------------------------------------------

    def load(self, connection: sa.Connection) -> Iterator[None]:
        """Read all that stands, a page a step; the look that must follow brings what changed meanwhile.

        Args:
            connection: of `Database.glances`.
        """
        now = clock.now()
        self.position = _now(connection)
        self.version = _NEWEST.scalar(connection) or 0
        self._wall = now.timestamp()
        held: list[Any] = []  # the signals of the page's last device: the next page may have more
        after = ("", "", "")
        while page := _SIGNALS.all(connection, d=after[0], s=after[1], r=after[2]):
            after = tuple(page[-1][:3])
            held = self._put_devices([*held, *page], now)
            yield
        self._settle({row.device_id for row in held}, held, now)
        last = ""
        while page := _REFUSED.all(connection, after=last, now=now):
            last = page[-1].tbs_sha256
            for row in page:
                self._refuse(row.tbs_sha256, row.issuer_serial, row.reason, row.until)
            yield

    def _put_devices(self, rows: list[Any], now: datetime) -> list[Any]:
        last = rows[-1].device_id
        whole = [row for row in rows if row.device_id != last]
        self._settle({row.device_id for row in whole}, whole, now)
        return [row for row in rows if row.device_id == last]

    # -- what changed ------------------------------------------------------------------------------------------------

    def look(self, connection: sa.Connection, applied: Callable[[Changes], None] = lambda _: None) -> None:
        """Bring the view up to date.

        Args:
            connection: of `Database.glances`.
            applied: told of each slice, once it is in place.
        """
        before, after, told = self.position, (0, 0), False
        whole: Horizon | None = None
        while True:
            page = _page(connection, before, after)
            if whole is None or connection.dialect.name == "sqlite":
                whole = page.position  # on PostgreSQL of the first page: what it could not see is asked for again
            self.behind |= page.behind
            due = self._due() if len(page.rows) < SLICE else set[str]()
            last = len(page.rows) < SLICE and len(due) < SLICE
            if page.rows or due or self._ended or told:
                changes = self._apply(connection, page.rows, due, whole if last else None)
                applied(changes)
                told = True
            if last:
                self.position = whole
                return
            if page.rows:
                after = (page.rows[-1].txid, page.rows[-1].id)

    def went_back(self) -> bool:
        """Tell whether the wall clock was put back since the last look: what ended meanwhile may be in force again."""
        now, before = clock.now().timestamp(), self._wall
        self._wall = now
        return now < before - BACK

    def _due(self) -> set[str]:
        """Take the devices from the heap whose time has come; once a day also the certificates that have ended."""
        now, due = clock.now().timestamp(), set[str]()
        if (today := int(now // _DAY)) != self._today:
            self._today = today
            for day in [day for day in self._last_day if day < today]:
                self._ended.update(self._last_day.pop(day))
        while self._heap and self._heap[0][0] <= now and len(due) < SLICE:
            moment, device_id = heapq.heappop(self._heap)
            if self._ends.get(device_id) == moment:
                del self._ends[device_id]
                due.add(device_id)
        return due

    def _apply(
        self, connection: sa.Connection, rows: Sequence[Any], due: set[str], position: Horizon | None
    ) -> Changes:
        devices = {*(row.device_id for row in rows if row.device_id is not None), *due}
        named = {key for row in rows if row.tbs_sha256 for key in (row.tbs_sha256, row.issuer_serial)}
        anchors = any(row.device_id is None and row.tbs_sha256 is None for row in rows)
        keys, dialect = named | {key.hex() for key in self._ended}, connection.dialect.name
        # One statement, so that what it finds is of one moment: a signal that took a refusal's place is not missed.
        asked = {"devices": listed(dialect, devices), "keys": listed(dialect, keys), "now": clock.now()}
        state = _STATE.all(connection, **asked) if devices or keys else []
        refused = [row for row in state if row.kind]
        for row in refused:
            self._refuse(row.b, row.c, row.reason, row.until)
        # By the time after the reading: what was set while we read began before it.
        self._settle(devices, [_signal(row) for row in state if not row.kind], clock.now())
        for key in keys - {key for row in refused for key in (row.b, row.c)}:
            self._refused.pop(bytes.fromhex(key), None)
        self._ended.clear()
        self.version = max([self.version, *(row.id for row in rows)])
        return Changes(frozenset(devices), frozenset(named), anchors, position)

    def _refuse(self, tbs_sha256: str, issuer_serial: str, reason: str, until: datetime) -> None:
        keys = [bytes.fromhex(tbs_sha256), bytes.fromhex(issuer_serial)]
        (reason, *_), day = self._kind((reason, "", "")), int(until.timestamp() // _DAY)
        for key in keys:
            if key not in self._refused or key in self._ended:
                self._last_day[day].append(key)
            self._refused[key] = reason

    def _settle(self, devices: set[str], rows: Iterable[Any], now: datetime) -> None:
        """Put in place what stands for these devices: who is refused more than before first, the others after them."""
        found: dict[str, list[Any]] = {}
        for row in rows:
            found.setdefault(row.device_id, []).append(row)
        better = []
        for device_id in devices:
            standing = self._judged(device_id, found.get(device_id, ()), now)
            if standing and _rank(standing) >= _rank(self._against.get(device_id, ())):
                self._against[device_id] = standing
            else:
                better.append((device_id, standing))
        for device_id, standing in better:
            if standing:
                self._against[device_id] = standing
            else:
                self._against.pop(device_id, None)

    def _judged(self, device_id: str, rows: Sequence[Any], now: datetime) -> tuple[Any, ...]:
        moments = [at for row in rows for at in (row.since, row.until) if at is not None and at > now]
        self._remind(device_id, min(moments).timestamp() if moments else None)
        live = [row for row in rows if row.since <= now and (row.until is None or now < row.until)]
        live.sort(key=lambda row: (-_RANK[row.answer], row.since, row.source, row.ref))
        if not live or not _RANK[live[0].answer]:
            return ()
        return tuple(item for row in live for item in (self._kind((row.answer, row.source, row.reason)), row.ref))

    def _kind(self, kind: Kind) -> Kind:
        return self._kinds.setdefault(kind, kind)

    def _remind(self, device_id: str, moment: float | None) -> None:
        if moment is None:
            self._ends.pop(device_id, None)
        elif self._ends.get(device_id) != moment:
            self._ends[device_id] = moment
            heapq.heappush(self._heap, (moment, device_id))
            if len(self._heap) > 2 * len(self._ends) + SLICE:
                self._heap = [(at, device) for device, at in self._ends.items()]
                heapq.heapify(self._heap)


def _pairs(flat: tuple[Any, ...]) -> Iterator[tuple[Kind, str]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _rank(flat: tuple[Any, ...]) -> int:
    return _RANK[flat[0][0]] if flat else 0


@dataclass(frozen=True)
class _Signal:
    """A row of `_STATE` that is a signal, under the names of its table."""

    device_id: str
    source: str
    ref: str
    answer: str
    reason: str
    since: datetime
    until: datetime | None


def _signal(row: Any) -> _Signal:
    return _Signal(row.device_id, row.b, row.c, row.answer, row.reason, row.since, row.until)


def _page(connection: sa.Connection, seen: Horizon, after: tuple[int, int]) -> _Page:
    """Read a slice of the changes that a position does not cover, in the order of their numbers."""
    if connection.dialect.name == "sqlite":
        rows = _CHANGES.all(connection, below=max(seen.below, after[1] + 1))
        position = Horizon(max(rows[-1].id if rows else 0, after[1], seen.below - 1) + 1)
        return _Page(position, bool(rows) and (rows[0].pruned or 0) >= seen.below, rows)
    rows = _CHANGES.all(connection, below=seen.below, open=sorted(seen.open), number=after[0], id=after[1])
    position, pruned = Horizon.parse(rows[0].position), rows[0].pruned
    # A number that this cluster has not reached was pruned in another one, from which the database was restored.
    behind = pruned is not None and pruned < position.below and not seen.covers(pruned)
    return _Page(position, behind, [row for row in rows if row.id is not None])


def _now(connection: sa.Connection) -> Horizon:
    """Give the position of somebody who has seen all that is committed."""
    if connection.dialect.name == "sqlite":
        return Horizon((_NEWEST.scalar(connection) or 0) + 1)
    return Horizon.parse(SNAPSHOT.scalar(connection))


def _changes(dialect: str) -> sa.Select[Any]:
    """Give the changes behind a position, which on PostgreSQL is read with them: one statement, one snapshot."""
    columns = (_C.id, _C.device_id, _C.tbs_sha256, _C.issuer_serial)
    pruned = sa.select(trust_pruned.c.number).scalar_subquery().label("pruned")
    if dialect == "sqlite":
        found = sa.select(_C.txid, *columns, pruned).where(_C.id >= sa.bindparam("below"))
        return found.order_by(_C.id).limit(SLICE)
    from sqlalchemy.dialects.postgresql import ARRAY

    numbers = sa.bindparam("number", type_=sa.BigInteger), sa.bindparam("id", type_=sa.BigInteger)
    here = _C.txid < sa.literal_column("pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    ways = (
        _C.txid >= sa.bindparam("below", type_=sa.BigInteger),
        _C.txid == sa.any_(sa.bindparam("open", type_=ARRAY(sa.BigInteger))),
    )
    pages = [
        sa.select(_C.txid, *columns)
        .where(way, here, sa.tuple_(_C.txid, _C.id) > sa.tuple_(*numbers))
        .order_by(_C.txid, _C.id)
        .limit(SLICE)
        .subquery()
        for way in ways
    ]
    both = sa.union_all(*(sa.select(page) for page in pages)).subquery()
    always = sa.select(sa.literal_column("1").label("one")).subquery()
    snapshot = sa.literal_column("pg_current_snapshot()::text", sa.String).label("position")
    found = sa.select(snapshot, pruned, both).select_from(always.outerjoin(both, sa.true()))
    return found.order_by(both.c.txid, both.c.id).limit(SLICE)


def _state(dialect: str) -> sa.CompoundSelect[Any]:
    """Tell what devices and certificates are now: their signals, and their refusals by device and by either key."""
    text = sa.literal_column("''", sa.String)
    signals = sa.select(
        sa.literal_column("0", sa.Integer).label("kind"), _S.device_id, _S.source.label("b"), _S.ref.label("c"),
        _S.answer, _S.reason, _S.since, _S.until,
    ).where(among(dialect, _S.device_id, "devices"))  # fmt: skip
    refused = [
        sa.select(
            sa.literal_column("1", sa.Integer), _R.device_id, _R.tbs_sha256, _R.issuer_serial, text, _R.reason,
            _R.until, _R.until,
        ).where(among(dialect, column, name), _R.until > sa.bindparam("now", type_=_R.until.type))
        for column, name in ((_R.device_id, "devices"), (_R.tbs_sha256, "keys"), (_R.issuer_serial, "keys"))
    ]  # fmt: skip
    return sa.union_all(signals, *refused)


_S, _R, _C = trust_signals.c, trust_refused_certificates.c, trust_changes.c
_NEWEST = Statement(sa.select(sa.func.max(_C.id)))
_CHANGES = Statement(_changes)
_STATE = Statement(_state)
_SIGNALS = Statement(
    sa.select(_S.device_id, _S.source, _S.ref, _S.answer, _S.reason, _S.since, _S.until)
    .where(
        sa.tuple_(_S.device_id, _S.source, _S.ref)
        > sa.tuple_(*(sa.bindparam(name, type_=sa.String) for name in ("d", "s", "r")))
    )
    .order_by(_S.device_id, _S.source, _S.ref)
    .limit(PAGE)
)
_REFUSED = Statement(
    sa.select(_R.tbs_sha256, _R.issuer_serial, _R.reason, _R.until)
    .where(_R.tbs_sha256 > sa.bindparam("after"), _R.until > sa.bindparam("now", type_=_R.until.type))
    .order_by(_R.tbs_sha256)
    .limit(PAGE)
)
