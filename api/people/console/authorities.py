"""Authorities: what expires when? Certificates by week and by manufacturer, the authorities' own, the revocation lists."""

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from api.people.access import may, runtime
from api.people.console import pages
from lachan import clock
from lachan.devices import devices
from lachan.errors import LachanError
from lachan.identity import Permission, Principal, scope
from lachan.runtime import Runtime
from pki import service as pki
from pki.models import certificates, crls

router = APIRouter(include_in_schema=False, route_class=pages.Pages)
WEEKS = 13
_SOON = timedelta(days=30)


@dataclass(frozen=True)
class AuthorityRow:
    """An authority's own certificate."""

    name: str
    subject: str
    until: datetime


@router.get("/authorities")
def authorities_page(
    request: Request,
    caller: Annotated[Principal, Depends(may(Permission.PKI_READ))],
    rt: Annotated[Runtime, Depends(runtime)],
) -> Response:
    """Expiry by week and manufacturer, authorities, revocation lists, and how many certificates were issued."""
    now = clock.now()
    with rt.db.read() as connection:
        weeks = _weeks(connection, caller, now)
        groups = _by_vendor(connection, caller, now)
        issued = _issued(connection, caller, now)
        lists = _lists(connection)
    return pages.render(
        request,
        "authorities.html",
        weeks=weeks,
        groups=groups,
        issued=issued,
        lists=lists,
        authorities=_authorities(rt),
    )


def _of_devices(*columns: Any) -> sa.Select[Any]:
    """Certificates of devices that are not revoked."""
    joined = certificates.join(devices, devices.c.id == certificates.c.device_id)
    query: sa.Select[Any] = sa.select(*columns)
    return query.select_from(joined).where(certificates.c.state != "revoked", devices.c.state != "retired")


def _weeks(connection: sa.Connection, caller: Principal, now: datetime) -> list[tuple[datetime, int]]:
    """Tell how many certificates expire in each of the coming weeks, the present one first."""
    edges = [now + timedelta(weeks=week) for week in range(WEEKS + 1)]
    until = certificates.c.not_after
    sums = [
        sa.func.coalesce(sa.func.sum(sa.case((sa.and_(until >= begin, until < end), 1), else_=0)), 0)
        for begin, end in itertools.pairwise(edges)
    ]
    row = connection.execute(scope(caller, _of_devices(*sums), devices.c.vendor)).one()
    return list(zip(edges, map(int, row), strict=False))


def _by_vendor(connection: sa.Connection, caller: Principal, now: datetime) -> list[Any]:
    """Manufacturers with certificates in force, soon expiring and expired ones; most urgent first."""
    until = certificates.c.not_after

    def counted(where: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
        return sa.func.sum(sa.case((where, 1), else_=0))

    soon = counted(sa.and_(until > now, until <= now + _SOON))
    query = _of_devices(
        devices.c.vendor,
        counted(until > now).label("valid"),
        soon.label("soon"),
        counted(until <= now).label("expired"),
    )
    query = query.group_by(devices.c.vendor).order_by(soon.desc(), devices.c.vendor).limit(200)
    return list(connection.execute(scope(caller, query, devices.c.vendor)))


def _issued(connection: sa.Connection, caller: Principal, now: datetime) -> dict[str, int]:
    """Certificates issued in the last hour and day."""
    at = certificates.c.issued_at
    sums = [
        sa.func.coalesce(sa.func.sum(sa.case((at > now - timedelta(hours=hours), 1), else_=0)), 0) for hours in (1, 24)
    ]
    hour, last_day = connection.execute(scope(caller, _of_devices(*sums), devices.c.vendor)).one()
    return {"hour": int(hour), "day": int(last_day)}


def _lists(connection: sa.Connection) -> list[Any]:
    """Give the newest revocation list of each authority."""
    newest = (
        sa.select(crls.c.authority, sa.func.max(crls.c.number).label("number")).group_by(crls.c.authority).subquery()
    )
    same = sa.and_(crls.c.authority == newest.c.authority, crls.c.number == newest.c.number)
    query = sa.select(crls.c.authority, crls.c.number, crls.c.this_update, crls.c.next_update).join(newest, same)
    return list(connection.execute(query.order_by(crls.c.authority)))


def _authorities(rt: Runtime) -> list[AuthorityRow]:
    try:
        found = pki.hierarchy(rt.db)
    except LachanError:
        return []
    named = (("root", found.root), *((authority.name, authority.certificate) for authority in found.authorities))
    return [AuthorityRow(name, made.subject.rfc4514_string(), made.not_valid_after_utc) for name, made in named]
