"""Engagements: who allowed which probes on what, when and how fast; no packet leaves without one (design decision 14).

Steps: somebody who may run assessments requests one; a *person in a session*, not the requester, approves exactly what
stands there (the approval keeps its digest, so a row changed afterwards opens nothing); anybody who may run or approve
stops it, at once, also for a probe that is under way. `scope_of` turns an approved one into the key of
`lachan.net.sockets`. Limits: a device's address is taken when the engagement is requested; a device that moves needs a new
one. A device known by name only must resolve into a network that the engagement names.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import rfc8785
import sqlalchemy as sa

from lachan import clock, devices
from lachan.database import for_update
from lachan.errors import Forbidden
from lachan.events import EngagementApproved, EngagementRequested, EngagementStopped
from lachan.identity import Permission, Principal, require
from lachan.identity.humans import stands_behind
from lachan.ids import new_id
from lachan.net.sockets import Refusal, Scope, ScopeEntry, SocketRefused, is_own, special
from lachan.work import outbox
from posture.errors import EngagementDecided, EngagementInvalid, EngagementNotFound, NotApproved, OwnApproval
from posture.models import engagements
from posture.probes.target import CONNECT

if TYPE_CHECKING:
    from lachan.runtime import Runtime

LONGEST = timedelta(days=31)
MOST_TARGETS, MOST_PORTS, MOST_ADDRESSES = 10_000, 100, 65_536
_SIGNED = (
    "id", "reason", "targets", "networks", "ports", "methods", "rate", "burst", "loopback", "lockout", "requested_by",
)  # fmt: skip


class Method(StrEnum):
    """What an engagement can approve."""

    TLS = "tls"
    HTTP = "http"
    DEFAULT_LOGIN = "default-login"
    BANNER = "banner"


class EngagementState(StrEnum):
    """Where an engagement stands."""

    REQUESTED = "requested"
    APPROVED = "approved"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class EngagementWanted:
    """What is asked for.

    Attributes:
        reason: why, for the approver.
        device_ids: devices to look at.
        networks: CIDRs in scope besides, for devices known by name.
        ports: TCP ports.
        methods: what may be done.
        not_before: start of the window.
        not_after: its end, at most `LONGEST` later.
        rate: connections a second and device.
        burst: connections at once before the rate bites.
        loopback: whether addresses of this very machine are meant.
        lockout: whether logins may be tried on devices that lock themselves.
    """

    reason: str
    device_ids: tuple[str, ...]
    ports: tuple[int, ...]
    methods: tuple[Method, ...]
    not_before: datetime
    not_after: datetime
    networks: tuple[str, ...] = ()
    rate: float = 5.0
    burst: int = 5
    loopback: bool = False
    lockout: bool = False


@dataclass(frozen=True)
class Engagement:
    """A stored engagement; fields as in `EngagementWanted`, and what became of it."""

    id: str
    state: EngagementState
    reason: str
    targets: tuple[Mapping[str, str], ...]
    networks: tuple[str, ...]
    ports: tuple[int, ...]
    methods: tuple[Method, ...]
    not_before: datetime
    not_after: datetime
    rate: float
    burst: int
    loopback: bool
    lockout: bool
    digest: str
    requested_by: str
    requester_id: str
    requested_at: datetime
    approved_by: str | None
    approved_digest: str | None
    approved_at: datetime | None
    stopped_by: str | None
    stopped_at: datetime | None
    stop_reason: str | None

    def address_of(self, device_id: str) -> str:
        """Give the approved address of a device.

        Raises:
            NotApproved: the engagement does not name the device.
        """
        for target in self.targets:
            if target["device_id"] == device_id:
                return target["address"]
        raise NotApproved(f"Engagement {self.id} does not name this device.", engagement_id=self.id)


def request(connection: sa.Connection, wanted: EngagementWanted, *, actor: Principal) -> Engagement:
    """Ask for an engagement; nothing is allowed yet.

    Raises:
        Forbidden: the actor may not run assessments.
        EngagementInvalid: empty, too wide, or it means this machine without saying so.
        NotFound: a device does not exist, or is another vendor's.
    """
    require(actor, Permission.POSTURE_RUN)
    _check(wanted)
    targets = [{"device_id": d, "address": _address(connection, d, actor)} for d in dict.fromkeys(wanted.device_ids)]
    networks = [str(_network(text)) for text in wanted.networks]
    _check_addresses([*(t["address"] for t in targets), *networks], networks, loopback=wanted.loopback)
    _check_targets([t["address"] for t in targets], networks, loopback=wanted.loopback)
    values: dict[str, Any] = {
        "id": new_id(), "reason": wanted.reason, "targets": targets, "networks": networks,
        "ports": sorted(set(wanted.ports)), "methods": sorted({str(m) for m in wanted.methods}),
        "not_before": wanted.not_before, "not_after": wanted.not_after, "rate": float(wanted.rate),
        "burst": wanted.burst, "loopback": wanted.loopback, "lockout": wanted.lockout, "requested_by": actor.label,
    }  # fmt: skip
    more = {
        "digest": _digest(values),
        "requester_id": actor.id,
        "state": EngagementState.REQUESTED,
        "requested_at": clock.now(),
    }
    connection.execute(engagements.insert().values(**values, **more))
    event = EngagementRequested(engagement_id=values["id"], methods=tuple(values["methods"]))
    outbox.append(connection, event, actor=actor)
    return get(connection, values["id"])


def approve(connection: sa.Connection, engagement_id: str, *, actor: Principal) -> Engagement:
    """Allow exactly what stands in an engagement.

    Raises:
        PersonNeeded: the actor has no person's session.
        Forbidden: the actor may not approve.
        OwnApproval: the actor requested it.
        EngagementDecided: it was approved or stopped before, or its window has passed.
        EngagementNotFound: there is none.
    """
    require(actor, Permission.ENGAGEMENT_APPROVE)
    found = get(connection, engagement_id, lock=True)
    if found.requested_by == actor.label or stands_behind(connection, actor, found.requester_id):
        raise OwnApproval(f"{actor.name} requested this engagement.")
    if found.state is not EngagementState.REQUESTED:
        raise EngagementDecided(f"It is {found.state}.")
    if found.not_after <= clock.now():
        raise EngagementDecided("Its window has passed.")
    _check_digest(found, found.digest)
    connection.execute(
        engagements.update()
        .where(engagements.c.id == engagement_id)
        .values(
            state=EngagementState.APPROVED,
            approved_by=actor.label,
            approved_at=clock.now(),
            approved_digest=found.digest,
        )
    )
    event = EngagementApproved(engagement_id=engagement_id, approver=actor.label, digest=found.digest)
    outbox.append(connection, event, actor=actor)
    return get(connection, engagement_id)


def stop(connection: sa.Connection, engagement_id: str, *, actor: Principal, reason: str) -> Engagement:
    """End an engagement at once; probes under way open no further socket.

    Raises:
        Forbidden: the actor may neither run nor approve.
        EngagementDecided: it is stopped already.
        EngagementNotFound: there is none.
    """
    if not (actor.may(Permission.POSTURE_RUN) or actor.may(Permission.ENGAGEMENT_APPROVE)):
        raise Forbidden(f"{actor.label} may neither run nor approve engagements.")
    found = get(connection, engagement_id, lock=True)
    if found.state is EngagementState.STOPPED:
        raise EngagementDecided("It is stopped already.")
    values = {
        "state": EngagementState.STOPPED,
        "stopped_by": actor.label,
        "stopped_at": clock.now(),
        "stop_reason": reason,
    }
    connection.execute(engagements.update().where(engagements.c.id == engagement_id).values(**values))
    outbox.append(connection, EngagementStopped(engagement_id=engagement_id, reason=reason), actor=actor)
    return get(connection, engagement_id)


def get(connection: sa.Connection, engagement_id: str, *, lock: bool = False) -> Engagement:
    """One engagement.

    Raises:
        EngagementNotFound: there is none.
    """
    query = sa.select(engagements).where(engagements.c.id == engagement_id)
    row = connection.execute(for_update(query, connection) if lock else query).mappings().first()
    if row is None:
        raise EngagementNotFound(f"No engagement {engagement_id}.")
    return _engagement(row)


def visible(connection: sa.Connection, engagement_id: str, *, principal: Principal) -> Engagement:
    """One engagement, if the principal may see it; a manufacturer sees none.

    Raises:
        EngagementNotFound: there is none, or a manufacturer asks.
    """
    if principal.vendor is not None:
        raise EngagementNotFound(f"No engagement {engagement_id}.")
    return get(connection, engagement_id)


def find(connection: sa.Connection, *, principal: Principal, after: str = "", limit: int = 100) -> list[Engagement]:
    """Engagements newest first, before the id ``after``; no manufacturer's: they name other vendors' devices."""
    if principal.vendor is not None:
        return []
    query = sa.select(engagements).order_by(engagements.c.id.desc()).limit(limit)
    if after:
        query = query.where(engagements.c.id < after)
    return [_engagement(row) for row in connection.execute(query).mappings()]


def scope_of(rt: Runtime, found: Engagement) -> Scope:
    """Give the socket factory's key for an approved engagement.

    Raises:
        NotApproved: it is not approved, or the row is not what was approved.
    """
    if found.state is not EngagementState.APPROVED or found.approved_digest is None:
        raise NotApproved(f"Engagement {found.id} is {found.state}.", engagement_id=found.id)
    _check_digest(found, found.approved_digest)
    literal = [target["address"] for target in found.targets if _literal(target["address"])]
    networks = [_network(text) for text in (*literal, *found.networks)]

    def standing() -> None:
        with rt.db.read() as connection:
            state = connection.execute(sa.select(engagements.c.state).where(engagements.c.id == found.id)).scalar()
        if state != EngagementState.APPROVED:
            raise SocketRefused(f"engagement {found.id} is {state}", reason=Refusal.STOPPED, scope=found.id)

    return Scope(
        name=found.id, entries=tuple(ScopeEntry(network=network) for network in networks),
        methods=frozenset({CONNECT, *map(str, found.methods)}), ports=frozenset(found.ports),
        not_before=found.not_before, not_after=found.not_after, rate=found.rate, burst=found.burst, standing=standing,
    )  # fmt: skip


def _check(wanted: EngagementWanted) -> None:
    problem = ""
    if not wanted.reason.strip():
        problem = "a reason is needed"
    elif not wanted.device_ids or len(wanted.device_ids) > MOST_TARGETS:
        problem = f"1 to {MOST_TARGETS} devices are needed"
    elif not wanted.methods:
        problem = "at least one method is needed"
    elif not 0 < len(wanted.ports) <= MOST_PORTS or not all(0 < port < 65_536 for port in wanted.ports):
        problem = f"1 to {MOST_PORTS} ports between 1 and 65535 are needed"
    elif not wanted.not_before < wanted.not_after <= wanted.not_before + LONGEST:
        problem = f"the window must end after it begins, at most {LONGEST.days} days later"
    elif not 0 < wanted.rate <= 1000 or not 0 < wanted.burst <= 1000:
        problem = "rate and burst must lie between 0 and 1000"
    if problem:
        raise EngagementInvalid(problem[0].upper() + problem[1:] + ".")


def _address(connection: sa.Connection, device_id: str, actor: Principal) -> str:
    device = devices.get(connection, device_id, principal=actor)
    if not device.address:
        raise EngagementInvalid(f"{device.name} has no address in the registry.", device_id=device_id)
    return device.address


def _check_addresses(addresses: list[str], networks: list[str], *, loopback: bool) -> None:
    """Loopback only when said; names only with a network they must resolve into; nothing immense."""
    for text in addresses:
        if not _literal(text):
            if not networks:
                raise EngagementInvalid(f"{text} is a name: say which network it must lie in.", address=text)
            continue
        network = _network(text)
        if network.num_addresses > MOST_ADDRESSES:
            raise EngagementInvalid(f"{text} covers more than {MOST_ADDRESSES} addresses.", address=text)
        if network.is_loopback and not loopback:
            raise EngagementInvalid(f"{text} is this machine itself: ask for loopback explicitly.", address=text)


def _check_targets(addresses: list[str], networks: list[str], *, loopback: bool) -> None:
    """Give a device's address is what its manufacturer registered: it names nothing special and not this machine by itself."""
    named = [_network(text) for text in networks]
    for text in filter(_literal, addresses):
        address = _network(text).network_address
        if address.is_loopback:
            continue  # asked for explicitly
        meant = any(address.version == net.version and address in net and special(net[0]) for net in named)
        if address.is_unspecified or (special(address) and not meant):
            raise EngagementInvalid(f"{text} is no address of a device: name its network if it is.", address=text)
        if is_own(address) and not loopback:
            raise EngagementInvalid(f"{text} is this machine itself: ask for loopback explicitly.", address=text)


def _literal(text: str) -> bool:
    try:
        ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return False
    return True


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError as error:
        raise EngagementInvalid(f"{text} is no network.", network=text) from error


def _digest(values: Mapping[str, Any]) -> str:
    body = {name: values[name] for name in _SIGNED}
    body |= {name: clock.iso(values[name]) for name in ("not_before", "not_after")}
    return hashlib.sha256(rfc8785.dumps(body)).hexdigest()


def _check_digest(found: Engagement, expected: str) -> None:
    values = {**found.__dict__, "targets": [dict(t) for t in found.targets]}
    values |= {name: list(values[name]) for name in ("networks", "ports")}
    values["methods"] = [str(m) for m in found.methods]
    if _digest(values) != expected:
        raise NotApproved(f"Engagement {found.id} is not what was asked for and approved.", engagement_id=found.id)


def _engagement(row: Any) -> Engagement:
    values = {**row, "state": EngagementState(row["state"]), "methods": tuple(Method(m) for m in row["methods"])}
    values |= {name: tuple(row[name]) for name in ("targets", "networks", "ports")}
    return Engagement(**values)
