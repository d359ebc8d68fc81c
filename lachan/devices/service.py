"""The registry's verbs: register, read, find, retire; every other room refers to a device by its id and reads the rest here."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from lachan import clock, trust
from lachan.devices import contested, search
from lachan.devices.models import Criticality, Device, DeviceState, NewDevice, devices
from lachan.errors import Conflict, Forbidden, Invalid, NotFound
from lachan.events import DeviceChanged, DeviceRegistered, DeviceRetired
from lachan.identity import Permission, Principal, require, scope
from lachan.ids import new_id
from lachan.statements import Call, Done, Statement, pipeline
from lachan.work import outbox


class AlreadyRegistered(Conflict):
    """The name, or the vendor's serial number, is taken."""

    title, hint = "Device already registered", "Use another name, or read the registered device first."


def parse_new(fields: dict[str, Any]) -> NewDevice:
    """Check the fields of a new device.

    Raises:
        Invalid: one of them does not hold; ``field`` names it.
    """
    try:
        return NewDevice.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise Invalid(f"{name}: {first['msg']}", field=name) from error


def get(connection: sa.Connection, device_id: str, *, principal: Principal | None = None) -> Device:
    """One device by id; with ``principal`` only if they may see its vendor.

    Raises:
        NotFound: there is none, or it is another vendor's.
    """
    return _visible(_BY_ID.first(connection, id_=device_id), device_id, principal)


def locked(connection: sa.Connection, device_id: str, *, principal: Principal | None = None) -> Device:
    """One device by id, its row locked as by `lock`; the rest as in `get`."""
    return locked_and(connection, device_id, (), principal=principal)[0]


def locked_and(
    connection: sa.Connection, device_id: str, calls: Sequence[Call], *, principal: Principal | None = None
) -> tuple[Device, list[Done]]:
    """Do `locked`, and run statements that need the lock with it, on PostgreSQL in the same flush."""
    first, *others = pipeline(connection, [(_BY_ID_LOCKED, {"id_": device_id}), *calls])
    return _visible(first.rows[0] if first.rows else None, device_id, principal), others


def by_name(connection: sa.Connection, name: str, *, principal: Principal | None = None) -> Device:
    """One device by name; the rest as in `get`."""
    return _one(connection, devices.c.name == name, name, principal)


def find(
    connection: sa.Connection,
    *,
    principal: Principal,
    after: str = "",
    limit: int = 100,
    filters: dict[str, str] | None = None,
) -> list[Device]:
    """Devices by name, after a given one, that the principal may see.

    Args:
        connection: an open connection.
        principal: who asks.
        after: the last name of the page before.
        limit: most devices to return.
        filters: column name → wanted value; ``q`` is searched in `lachan.devices.search.FIELDS`.
    """
    query = sa.select(*_COLUMNS).where(devices.c.name > after).limit(limit)
    asked = {"q": ""} | (filters or {})
    query = search.narrowed(connection, query, devices, asked.pop("q"))
    for column, value in asked.items():
        query = query.where(devices.c[column] == value)
    rows = connection.execute(scope(principal, query, devices.c.vendor)).mappings()
    return [_device(row) for row in rows]


def register(
    connection: sa.Connection,
    new: NewDevice,
    *,
    actor: Principal,
    criticality: Criticality = Criticality.UNKNOWN,
    record: bool = True,
) -> Device:
    """Make a device known, in the caller's transaction.

    Raises:
        NotFound: a manufacturer registers another vendor's device.
        AlreadyRegistered: the name, or the vendor's serial number, is taken.
    """
    require(actor, Permission.DEVICES_WRITE, vendor=new.vendor)
    if criticality is not Criticality.UNKNOWN:
        require(actor, Permission.CRITICALITY_WRITE)
    same = sa.or_(
        devices.c.name == new.name,
        sa.and_(devices.c.vendor == new.vendor, devices.c.serial_number == new.serial_number),
    )
    if connection.execute(sa.select(devices.c.id).where(same)).first():
        raise AlreadyRegistered(f"{new.name} or serial number {new.serial_number} of {new.vendor} is registered.")
    device_id = new_id()
    values = {**new.model_dump(), "id": device_id, "state": DeviceState.REGISTERED, "created_at": clock.now()}
    values["vouched"] = actor.vendor is None
    connection.execute(devices.insert().values(**values, criticality=criticality))
    if record:
        event = DeviceRegistered(
            device_id=device_id, name=new.name, vendor=new.vendor, model=new.model, serial=new.serial_number,
            criticality=criticality,
        )  # fmt: skip
        outbox.append(connection, event, actor=actor)
    contested.tell(connection, [(device_id, new.address, new.site)], actor=actor)
    return get(connection, device_id)


def place(
    connection: sa.Connection, device_id: str, *, actor: Principal, address: str | None = None, site: str | None = None
) -> Device:
    """Say as an operator where a device is, in the caller's transaction: from then on it binds evidence.

    Args:
        connection: an open `Database.write`.
        device_id: whose place.
        actor: who says so; a manufacturer's word is none.
        address: its address; the one that is registered by default.
        site: its site; the one that is registered by default.

    Raises:
        Forbidden: the actor may not register devices of every vendor.
        NotFound: there is no such device.
        Invalid: address or site is no such thing.
    """
    before = locked(connection, device_id, principal=actor)
    require(actor, Permission.DEVICES_WRITE, vendor=before.vendor)
    if actor.vendor is not None:
        raise Forbidden("Where a device is, an operator says: a manufacturer's word is a hint.")
    fields = {name: getattr(before, name) for name in NewDevice.model_fields}
    new = parse_new({**fields, "address": address or before.address, "site": site or before.site})
    changed = {name: value for name in ("address", "site") if (value := getattr(new, name)) != getattr(before, name)}
    values = {**changed, "folded": search.folded(new.model_dump()), "vouched": True}
    connection.execute(devices.update().where(devices.c.id == device_id).values(values))
    for name, value in changed.items():
        event = DeviceChanged(
            device_id=device_id, field_name=name, before=str(getattr(before, name) or ""), after=value
        )
        outbox.append(connection, event, actor=actor)
    if not before.vouched:
        event = DeviceChanged(device_id=device_id, field_name="vouched", before="manufacturer", after="operator")
        outbox.append(connection, event, actor=actor)
    contested.tell(connection, [(device_id, new.address, new.site)], actor=actor)
    return get(connection, device_id)


def set_criticality(connection: sa.Connection, device_id: str, value: Criticality, *, actor: Principal) -> Device:
    """Say how much depends on a device; administrators only, and in the ledger (design decision 10).

    Raises:
        Forbidden: the actor is no administrator.
        NotFound: there is no such device.
    """
    require(actor, Permission.CRITICALITY_WRITE)
    before = get(connection, device_id)
    connection.execute(devices.update().where(devices.c.id == device_id).values(criticality=value))
    if before.criticality is not value:
        event = DeviceChanged(device_id=device_id, field_name="criticality", before=before.criticality, after=value)
        outbox.append(connection, event, actor=actor)
    return get(connection, device_id)


def retire(connection: sa.Connection, device_id: str, reason: str, *, actor: Principal) -> None:
    """End a device's life; it can never enrol again.

    Raises:
        NotFound: there is no such device, or it is another vendor's.
    """
    device = get(connection, device_id, principal=actor)
    require(actor, Permission.DEVICES_WRITE, vendor=device.vendor)
    connection.execute(devices.update().where(devices.c.id == device_id).values(state=DeviceState.RETIRED))
    signal = trust.Signal(
        device_id=device_id, source="registry", answer=trust.Answer.DENY, reason="retired", detail=reason,
        ref=device_id, since=clock.now(),
    )  # fmt: skip
    trust.set_signal(connection, signal)
    outbox.append(connection, DeviceRetired(device_id=device_id, reason=reason), actor=actor)


def lock(connection: sa.Connection, device_ids: Iterable[str]) -> None:
    """Lock the rows of devices until the transaction ends: the first locks of every unit that decides on devices.

    Lock order (ADR 0021): device rows by id, kill switch (shared), budgets sorted, containment; `FOR NO KEY UPDATE` (a
    foreign-key insert passes it), `FOR UPDATE` only where a unique column of `devices` changes; background pages use
    SKIP LOCKED. Whoever gives a device a certificate and whoever contains it meet here, so each sees
    what the other committed. SQLite's writer has the whole file already; unknown ids lock nothing.
    """
    if connection.dialect.name == "postgresql":
        for device_id in sorted(set(device_ids)):
            _LOCK.scalar(connection, id_=device_id)


_TOUCH = (
    devices.update()
    .where(devices.c.id == sa.bindparam("device"))
    .values(
        last_seen=sa.bindparam("moment"),
        seen_address=sa.func.coalesce(sa.bindparam("from", type_=sa.String), devices.c.seen_address),
    )
)


def touch_seen(connection: sa.Connection, seen: Mapping[str, tuple[datetime, str | None]]) -> set[str]:
    """Write down when and from where devices were last seen (coalesced by the doors; no event); return of whom it is written.

    It waits for nobody: on PostgreSQL a device that somebody has locked is left for the next time.
    """
    free = set(seen)
    if connection.dialect.name == "postgresql":
        query = sa.select(devices.c.id).where(devices.c.id.in_(sorted(seen))).order_by(devices.c.id)
        free = set(connection.execute(query.with_for_update(key_share=True, skip_locked=True)).scalars())
    rows = [{"device": one, "moment": seen[one][0], "from": seen[one][1]} for one in sorted(free)]
    if rows:
        connection.execute(_TOUCH, rows)
    return free


def _one(connection: sa.Connection, where: Any, what: str, principal: Principal | None) -> Device:
    query = sa.select(devices).where(where)
    if principal is not None:
        query = scope(principal, query, devices.c.vendor)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"No device {what}.")
    return _device(row)


def _visible(row: Any, device_id: str, principal: Principal | None) -> Device:
    if row is None or (principal is not None and principal.vendor not in {None, row.vendor}):
        raise NotFound(f"No device {device_id}.")
    return _device(row._asdict())


_BY_ID_LOCKED = Statement(sa.select(devices).where(devices.c.id == sa.bindparam("id_")).with_for_update(key_share=True))
_LOCK = Statement(sa.select(devices.c.id).where(devices.c.id == sa.bindparam("id_")).with_for_update(key_share=True))
_BY_ID = Statement(sa.select(devices).where(devices.c.id == sa.bindparam("id_")))


def _device(row: Any) -> Device:
    known = {name: row[name] for name in _FIELDS}
    return Device(**{**known, "criticality": Criticality(row["criticality"]), "state": DeviceState(row["state"])})


_FIELDS = tuple(Device.__dataclass_fields__)
_COLUMNS = tuple(devices.c[name] for name in _FIELDS)
