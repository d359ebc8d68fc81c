"""The fleet: which devices are not as they should be? What is not allowed stands first; filters live in the address."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from api.people.access import may, runtime
from api.people.console import decisions, pages
from lachan import clock
from lachan.devices import Criticality, Device, DeviceState, devices, search
from lachan.identity import Permission, Principal, scope
from lachan.runtime import Runtime
from lachan.trust import Answer
from pki.models import certificates
from posture.evaluate import Result
from posture.models import verdicts
from soar_playbooks.models import containments, runs

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
Reader = Annotated[Principal, Depends(may(Permission.DEVICES_READ))]
Open = Annotated[Runtime, Depends(runtime)]
PAGE = 50
_WARDS = 100
_FRESH = 5.0  # seconds that the counts by ward and decision may be old; a pass over 10^5 devices costs 60 ms
_FILTERS = ("vendor", "model", "ward", "site", "state", "criticality")
_Text = Annotated[str, Query(max_length=100)]


@dataclass(frozen=True)
class FleetRow:
    """A device as the table shows it; None is unknown."""

    device: Device
    decision: str
    expires: datetime | None
    verdicts: dict[str, int] | None


@router.get("/fleet")
def fleet_page(
    request: Request,
    caller: Reader,
    rt: Open,
    q: _Text = "",
    vendor: _Text = "",
    model: _Text = "",
    ward: _Text = "",
    site: _Text = "",
    state: _Text = "",
    criticality: _Text = "",
    decision: _Text = "",
    after: Annotated[str, Query(max_length=80)] = "",
) -> Response:
    """The table of devices, with counts by ward."""
    asked = {"vendor": vendor, "model": model, "ward": ward, "site": site, "state": state, "criticality": criticality}
    filters = {name: value for name, value in asked.items() if value}
    with rt.db.read() as connection:
        found = _devices(connection, caller, filters=filters, q=q, decision=decision, after=after)
        rows = described(connection, caller, found[:PAGE])
        wards, totals = rt.keep(Counts, Counts).of(connection, caller)
    return pages.render(
        request, "fleet.html", rows=rows, wards=wards, totals=totals, filters={**asked, "q": q, "decision": decision},
        following=_key(rows[-1]) if len(found) > PAGE else "", answers=[*map(str, Answer), decisions.UNKNOWN],
        states=list(DeviceState), criticalities=list(Criticality), after=after,
    )  # fmt: skip


@router.get("/search")
def search_page(request: Request, caller: Reader, rt: Open, q: _Text = "") -> Response:
    """Lead to what a number, an address, a name, a ward, a run or a containment names; else to the filtered fleet."""
    wanted = q.strip()
    with rt.db.read() as connection:
        place = _place(connection, caller, wanted) if wanted else "/fleet"
    target = place or str(request.url.replace(scheme="", netloc="", path="/fleet").include_query_params(q=wanted))
    return RedirectResponse(target, status_code=303, headers=pages.HEADERS)


def _place(connection: sa.Connection, caller: Principal, wanted: str) -> str:
    for table, path, permission in (
        (runs, "/runs", Permission.RUNS_READ), (containments, "/containments", Permission.RUNS_READ),
    ):  # fmt: skip
        query = scope(caller, sa.select(table.c.id).where(table.c.id == wanted), table.c.vendor)
        if caller.may(permission) and connection.execute(query).first():
            return f"{path}/{wanted}"
    serial = wanted.replace(":", "").lower()
    named = sa.or_(devices.c.id == wanted, devices.c.name == wanted, devices.c.serial_number == wanted)
    by_serial = sa.select(certificates.c.device_id).where(certificates.c.serial_number == serial)
    query = sa.select(devices.c.id).where(sa.or_(named, devices.c.id.in_(by_serial))).limit(2)
    found = connection.execute(scope(caller, query, devices.c.vendor)).scalars().all()
    return f"/devices/{found[0]}" if len(found) == 1 else ""


def _devices(
    connection: sa.Connection, caller: Principal, *, filters: dict[str, str], q: str, decision: str, after: str
) -> list[Device]:
    """One page and one more: those that a signal speaks against first, worst first, then the others, each by name."""
    worst = decisions.worst(clock.now())
    rank, _, name = after.partition("~")
    place = int(rank) if rank.isdigit() else len(Answer)
    found: list[Device] = []
    if place > 0 and decision not in (str(Answer.ALLOW), decisions.UNKNOWN):
        query = sa.select(devices).join(worst, worst.c.device_id == devices.c.id).where(worst.c.rank > 0)
        later = sa.or_(worst.c.rank < place, sa.and_(worst.c.rank == place, devices.c.name > name))
        query = query.where(later)
        if decision:
            query = query.where(worst.c.rank == _rank(decision))
        found = _read(connection, caller, query, filters, q, PAGE + 1, worst.c.rank.desc())
    if len(found) <= PAGE and decision in ("", str(Answer.ALLOW), decisions.UNKNOWN):
        calm = devices.c.id.not_in(sa.select(worst.c.device_id).where(worst.c.rank > 0))
        query = sa.select(devices).where(calm, devices.c.name > (name if rank == "0" else ""))
        if decision:
            new = devices.c.state == DeviceState.REGISTERED
            query = query.where(new if decision == decisions.UNKNOWN else sa.not_(new))
        found += _read(connection, caller, query, filters, q, PAGE + 1 - len(found))
    return found


def _rank(decision: str) -> int:
    return Answer(decision).rank if decision in list(Answer) else -1


def _read(
    connection: sa.Connection,
    caller: Principal,
    query: sa.Select[Any],
    filters: dict[str, str],
    q: str,
    limit: int,
    *first: sa.ColumnElement[Any],
) -> list[Device]:
    for column in _FILTERS:
        query = query.where(devices.c[column] == filters[column]) if column in filters else query
    query = search.narrowed(connection, query, devices, q, *first)
    rows = connection.execute(scope(caller, query, devices.c.vendor).limit(limit)).mappings()
    return [_device(row) for row in rows]


def _device(row: Any) -> Device:
    columns = {name: row[name] for name in Device.__dataclass_fields__}
    return Device(**{**columns, "criticality": Criticality(row["criticality"]), "state": DeviceState(row["state"])})


def described(connection: sa.Connection, caller: Principal, found: list[Device]) -> list[FleetRow]:
    """Give the devices of a page with what the other rooms know of them."""
    ids = [device.id for device in found]
    answers = decisions.of_many(connection, found)
    expiry = _expiry(connection, ids) if caller.may(Permission.PKI_READ) else {}
    judged = _verdicts(connection, ids) if caller.may(Permission.POSTURE_READ) else {}
    return [FleetRow(d, answers[d.id], expiry.get(d.id), judged.get(d.id)) for d in found]


def _expiry(connection: sa.Connection, ids: list[str]) -> dict[str, datetime]:
    """When each device's newest certificate that is not revoked expires."""
    query = (
        sa.select(certificates.c.device_id, sa.func.max(certificates.c.not_after).label("until"))
        .where(certificates.c.device_id.in_(ids), certificates.c.state != "revoked")
        .group_by(certificates.c.device_id)
    )
    return {row.device_id: row.until for row in connection.execute(query)}


def _verdicts(connection: sa.Connection, ids: list[str]) -> dict[str, dict[str, int]]:
    """Verdict counts by device; expired evidence counts as unknown."""
    c = verdicts.c
    expired = sa.and_(c.valid_until.is_not(None), c.valid_until <= clock.now())
    result = sa.case((expired, str(Result.UNKNOWN)), else_=c.result).label("result")
    query = sa.select(c.device_id, result, sa.func.count()).where(c.device_id.in_(ids)).group_by(c.device_id, result)
    found: dict[str, dict[str, int]] = {}
    for device_id, code, number in connection.execute(query):
        found.setdefault(device_id, {})[code] = number
    return found


@dataclass
class Ward:
    """How many devices stand in a ward, and how many of them are not allowed."""

    ward: str
    devices: int = 0
    bad: int = 0


class Counts:
    """What `_counted` found, for the few seconds in which it need not be counted again; by vendor, so by who may see it."""

    def __init__(self) -> None:
        self._found: dict[str | None, tuple[float, tuple[list[Ward], dict[str, int]]]] = {}

    def of(self, connection: sa.Connection, caller: Principal) -> tuple[list[Ward], dict[str, int]]:
        """Give the counts that the caller may see, at most `_FRESH` seconds old; see `_counted`."""
        until, found = self._found.get(caller.vendor, (0.0, None))
        if found is None or time.monotonic() >= until:
            found = _counted(connection, caller)
            self._found[caller.vendor] = (time.monotonic() + _FRESH, found)
        return found

    def close(self) -> None:
        """Forget them."""
        self._found.clear()


def _counted(connection: sa.Connection, caller: Principal) -> tuple[list[Ward], dict[str, int]]:
    """Give the wards, those with most devices that are not allowed first; and how many devices each decision has.

    One pass over the registry, one over what signals speak against: a join of both would cost several times as much.
    """
    wards: dict[str, Ward] = {}
    totals: dict[str, int] = {}
    place, state, number = devices.c.ward, devices.c.state, sa.func.count()
    everything = sa.select(place, state, number).group_by(place, state)
    for ward, life, count in connection.execute(scope(caller, everything, devices.c.vendor)):
        name = decisions.UNKNOWN if life == DeviceState.REGISTERED else str(Answer.ALLOW)
        totals[name] = totals.get(name, 0) + count
        if life != DeviceState.RETIRED:
            wards.setdefault(ward, Ward(ward)).devices += count
    worst = decisions.worst(clock.now())
    query = sa.select(place, state, worst.c.rank, number).join(worst, worst.c.device_id == devices.c.id)
    query = query.where(worst.c.rank > 0).group_by(place, state, worst.c.rank)
    for ward, life, rank, count in connection.execute(scope(caller, query, devices.c.vendor)):
        totals[decisions.UNKNOWN if life == DeviceState.REGISTERED else str(Answer.ALLOW)] -= count
        answer = str(list(Answer)[rank])
        totals[answer] = totals.get(answer, 0) + count
        if life != DeviceState.RETIRED:
            wards[ward].bad += count
    return sorted(wards.values(), key=lambda one: (-one.bad, one.ward))[:_WARDS], totals


def _key(row: FleetRow) -> str:
    """Give the place after a row, for the next page."""
    known: Iterable[str] = [str(answer) for answer in Answer]
    rank = Answer(row.decision).rank if row.decision in known else 0
    return f"{rank}~{row.device.name}"
