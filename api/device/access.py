"""Who may speak at the device door: from a TLS connection to `Verified`, or to a refusal.

Steps, at every request (a resumed session is a new request): take the chain (of the TLS connection, or of RFC 9440
headers when a listed proxy sends them) → judge it against the anchors → tie the connection to device and certificate
(`Bonds`), so that every change of either from now on finds it → look up the device and, if our own authority issued the
certificate, its row → ask the view of trust about certificate and device. What a chain proves is kept with its connection
and judged again when the anchors change or a minute passes, its rows are looked up again when something about them changed
or two seconds pass; **validity and the trust decision itself are asked every time**, and after the rows were read, so that
what changed since then still refuses.

A certificate of ours is admitted because its row of exactly these bytes is valid, never because nothing forbids it; when that
is the first time that somebody is let in with it, what it replaces is superseded before anything is answered
(`pki.replacing`). One of a vendor's authority has no row yet; it and ours are refused by `trust.CertificateKeys`, which no
stranger can vary.

Fails closed: no view, no certificate, no row or a stale view each refuse. A route never sees a chain.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import sqlalchemy as sa
from cryptography import x509
from fastapi import Request
from starlette.types import Scope

from api.device import routes
from api.device.certificates import Anchor, Judged, check_validity, judge, refused
from api.device.errors import CertificateMissing, CertificateRefused, DeviceContained, DeviceLimited, TrustUnknown
from api.device.trustwatch import Belief, TrustWatch
from api.tls import TlsProtocol
from lachan import clock, devices, metrics
from lachan.addresses import written
from lachan.errors import LachanError, Unavailable
from lachan.identity import Principal, PrincipalKind, Role, system
from lachan.runtime import Runtime
from lachan.statements import Statement
from lachan.trust import Answer, CertificateKeys
from lachan.trust_view import Changes, View
from pki import service
from pki.states import CertificateState, Reason

_NEVER = (datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC))
_KEEP = 2.0  # seconds that a registry row may be remembered
_KEEP_CHAIN = 60.0  # seconds that a chain's signatures need not be verified again on the same connection
_SUPERSEDED = "superseded"
_DOOR = system("device-door")
_d = devices.devices.c
_DEVICE = Statement(
    sa.select(_d.id, _d.name, _d.vendor, _d.site, _d.model, _d.firmware_version, _d.state).where(
        _d.id == sa.bindparam("id")
    )
)


@dataclass(frozen=True)
class Verified:
    """A device that proved its identity and may speak now.

    Attributes:
        device_id: Its id in the registry.
        name: Its unique name.
        vendor: Its manufacturer.
        site: Where it belongs.
        model: What it is.
        firmware_version: What it runs, as far as it told; None before.
        certificate: The certificate that it used.
        keys: By what a refusal would name that certificate.
        unshown: The row of that certificate if it was never shown before; empty otherwise.
    """

    device_id: str
    name: str
    vendor: str
    site: str
    model: str
    firmware_version: str | None
    certificate: x509.Certificate
    keys: CertificateKeys
    unshown: str = ""


@dataclass(eq=False)
class Bond:
    """What a live connection stands for.

    Attributes:
        connection: It.
        judged: What its chain proved.
        anchors: Under which it did.
        judged_until: Monotonic seconds until which that is believed.
        device: Who was let in on it; None before anybody was.
        valid: From when to when its certificate is.
        until: Monotonic seconds until which the rows are remembered.
        changed: Something about device or certificate changed since its rows were asked for.
    """

    connection: TlsProtocol
    judged: Judged
    anchors: tuple[Anchor, ...]
    judged_until: float
    device: Verified | None = None
    valid: tuple[datetime, datetime] = _NEVER
    until: float = float("-inf")
    changed: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Under what a change finds it."""
        return (self.judged.device_id, self.judged.keys.tbs_sha256, self.judged.keys.issuer_serial)


class Bonds:
    """All bonds by device and certificate: a change costs those that it is about. On the event loop only."""

    def __init__(self) -> None:
        self._found: dict[str, set[Bond]] = {}

    def tie(self, bond: Bond) -> Bond:
        """Keep a bond with its connection, in place of an earlier one, and have changes find it from now on."""
        self.gone(bond.connection)
        if not bond.connection.raw.is_closing():
            bond.connection.identity = bond
            for name in bond.names:
                self._found.setdefault(name, set()).add(bond)
        return bond

    def gone(self, connection: TlsProtocol) -> None:
        """Forget a connection's bond."""
        bond, connection.identity = connection.identity, None
        for name in bond.names if isinstance(bond, Bond) else ():
            if (left := self._found.get(name)) is not None:
                left.discard(cast(Bond, bond))
                if not left:
                    del self._found[name]

    def of(self, changes: Changes | None) -> set[Bond]:
        """Give those that changes are about; None is about all."""
        if changes is None:
            return {bond for bonds in self._found.values() for bond in bonds}
        names = (*changes.devices, *changes.certificates)
        return {bond for name in names for bond in self._found.get(name, ())}


async def runtime(request: Request) -> Runtime:
    """Give the open installation, for routes of any door."""
    return cast(Runtime, request.app.state.rt)


async def verified(request: Request) -> Verified:
    """Let a device through that may speak, and tell who it is.

    Raises:
        CertificateMissing: If no certificate came.
        CertificateRefused: If the certificate does not hold; ``reason`` says why.
        DeviceContained: If the trust decision is quarantine or deny and the route is no remedy.
        DeviceLimited: If the decision is limited and the route is withheld then.
        TrustUnknown: If the trust decisions are not known.
    """
    before = request.scope.get("lachan.verified")
    if before is not None:
        return cast(Verified, before)
    try:
        device = await _identify(request)
        _let_in(request, device)
        if device.unshown:
            device = await _shown(request, device)
            _let_in(request, device)
    except (CertificateMissing, CertificateRefused, DeviceContained, DeviceLimited, TrustUnknown) as error:
        metrics.refused.labels(str(error.fields.get("reason", error.code))).inc()
        raise
    request.scope["lachan.verified"] = device
    request.app.state.seen.note(device.device_id, _seen_at(request.scope))
    return device


def _let_in(request: Request, device: Verified) -> None:
    """Ask what may have changed while there was waiting: validity, and the youngest view that there is."""
    belief = cast(TrustWatch, request.app.state.trust).current()
    check_validity(device.certificate, at=clock.now())
    check_trust(belief.view, device, operation=_operation(request))


def known(scope: Scope, state: Any) -> Verified | None:
    """Do what `verified` does where nobody has to wait for it, for machine routes; None where `verified` must be asked.

    Raises:
        CertificateRefused, DeviceContained, DeviceLimited, TrustUnknown: as `verified`, which must tell it.
    """
    belief = cast(TrustWatch, state.trust).current()
    bond = scope["extensions"]["lachan.connection"].identity
    if "lachan.forwarded_chain" in scope or not _holds(bond, belief, time.monotonic()):
        return None
    device = cast(Verified, bond.device)
    if device.unshown or not bond.valid[0] <= clock.now() <= bond.valid[1]:
        return None
    check_trust(belief.view, device, operation=scope["route"].operation)
    state.seen.note(device.device_id, _seen_at(scope))
    return device


def _seen_at(scope: Scope) -> str | None:
    """Give where a request comes from; None when a proxy speaks for the device."""
    client = scope.get("client")
    return None if client is None or "lachan.forwarded_chain" in scope else written(str(client[0]))[:45]


def principal(device: Verified) -> Principal:
    """Give a device as a Principal: it may speak of itself."""
    return Principal(
        kind=PrincipalKind.DEVICE,
        id=device.device_id,
        name=device.name,
        roles=frozenset({Role.DEVICE}),
        vendor=device.vendor,
        site=device.site,
    )


async def guard(request: Request) -> None:
    """Stand before every route of the door: only those in ``routes.OPEN`` are reached without a certificate."""
    if _operation(request) not in routes.OPEN:
        await verified(request)


def _operation(request: Request) -> str:
    return f"{request.method} {request.scope['route'].path}"


async def _identify(request: Request) -> Verified:
    state, extensions = request.app.state, request.scope.get("extensions", {})
    belief = cast(TrustWatch, state.trust).current()
    proxied = request.scope.get("lachan.forwarded_chain")
    connection = cast("TlsProtocol | None", extensions.get("lachan.connection")) if proxied is None else None
    bond = connection.identity if connection is not None else None
    now, address = time.monotonic(), request.client.host if request.client else ""
    if not isinstance(bond, Bond) or now >= bond.judged_until or bond.anchors is not belief.anchors:
        chain = proxied if proxied is not None else extensions.get("lachan.tls", {}).get("chain", [])
        judged = judge(chain, belief.anchors, at=clock.now())
        if connection is None:
            return await _looked_up(state, chain[0], judged, address)
        bond = cast(Bonds, state.bonds).tie(Bond(connection, judged, belief.anchors, now + _KEEP_CHAIN))
    elif _holds(bond, belief, now):
        return cast(Verified, bond.device)
    bond.changed = False  # before the rows are read: what changes from here on sets it again
    bond.device = None
    bond.device = await _looked_up(state, bond.judged.octets, bond.judged, address)
    bond.valid = (bond.device.certificate.not_valid_before_utc, bond.device.certificate.not_valid_after_utc)
    bond.until = now + _KEEP
    return bond.device


def _holds(bond: object, belief: Belief, now: float) -> bool:
    """Tell whether what a connection's chain and rows proved is still believed without looking again."""
    return (
        isinstance(bond, Bond)
        and now < bond.judged_until
        and bond.anchors is belief.anchors
        and bond.device is not None
        and not bond.changed
        and now < bond.until
    )


async def _looked_up(state: Any, certificate: bytes, judged: Judged, address: str) -> Verified:
    issuing = cast(service.OnLoop, state.issuing)
    try:
        return await issuing.look(partial(_look_up, certificate, judged))
    except CertificateRefused as error:
        if error.fields["reason"] == _SUPERSEDED:
            state.seen.cloned(hashlib.sha256(certificate).hexdigest(), address)
        raise


async def _shown(request: Request, device: Verified) -> Verified:
    """Supersede what a certificate replaces when somebody is let in with it for the first time."""
    state = request.app.state
    first = partial(_first_shown, state.rt, device_id=device.device_id, certificate_id=device.unshown)
    connection = request.scope.get("extensions", {}).get("lachan.connection")
    bond = connection.identity if connection is not None else None
    mine = bond if isinstance(bond, Bond) and bond.device is device else None
    if mine is not None:
        mine.device = None  # not let in yet: what changes now is answered by the check that follows, not by a cut
    try:
        with suppress(Unavailable):  # what cannot be written is no reason to refuse what holds; it is tried again
            await cast(service.OnLoop, state.issuing).record(first)
            device = replace(device, unshown="")
    finally:
        if mine is not None and mine.device is None:
            mine.device = device
    return device


def _first_shown(rt: Runtime, connection: sa.Connection, **of: str) -> None:
    service.first_shown(rt, connection, _DOOR, **of)


def _look_up(certificate: bytes, judged: Judged, connection: sa.Connection) -> Verified:
    row = _DEVICE.first(connection, id=judged.device_id)
    if row is None:
        raise refused("unknown-device", "The certificate names a device that is not registered.")
    ours = None in judged.vendors
    known = service.registered(connection, certificate, device_id=row.id) if ours else None
    if not ours and row.vendor not in judged.vendors:
        raise refused("other-vendor", "The authority may not speak for devices of this vendor.")
    if row.state == devices.DeviceState.RETIRED:
        raise refused("retired", "The device is retired.")
    if ours and known is None:
        raise refused("unregistered", "The certificate is not, octet for octet, one that was issued to this device.")
    if known is not None and known.state != CertificateState.VALID:
        ended = _SUPERSEDED if known.reason == Reason.SUPERSEDED else "revoked"
        why = "suspended" if known.state == CertificateState.HELD else ended
        raise refused(why, f"The certificate is {why}.")
    return Verified(
        row.id, row.name, row.vendor, row.site, row.model, row.firmware_version, judged.certificate, judged.keys,
        known.id if known is not None and known.shown_at is None else "",
    )  # fmt: skip


def check_trust(view: View, device: Verified, *, operation: str) -> None:
    """Ask the view whether a verified device may do this now.

    Args:
        view: The present view.
        device: Who asks.
        operation: ``METHOD /path`` as the route is written.

    Raises:
        CertificateRefused: If the certificate is suspended, revoked or superseded.
        DeviceContained: If the decision is quarantine or deny, and the operation is no remedy.
        DeviceLimited: If the decision is limited, and the operation is withheld then.
    """
    why = view.refusal(device.keys)
    if why is not None:
        raise refused(why, f"The certificate is {why}.")
    decision = view.standing(device.device_id)
    if decision is None:
        return
    reasons = [{"source": item.source, "reason": item.reason, "ref": item.ref} for item in decision.reasons]
    if decision.answer is Answer.LIMITED:
        if operation in routes.WITHHELD_WHEN_LIMITED:
            raise DeviceLimited(reason="limited", reasons=reasons)
    elif decision.answer is Answer.DENY or operation not in routes.REMEDIES:
        raise DeviceContained(f"The decision is {decision.answer}.", reason=str(decision.answer), reasons=reasons)


def must_close(view: View, bond: Bond) -> str | None:
    """Give the id of the device whose live connection must be closed under this view; None to leave it open."""
    if bond.device is None:
        return None  # nobody was let in on it yet; its next request is judged
    try:
        check_trust(view, bond.device, operation="")
    except LachanError:
        return bond.device.device_id
    return None


def forwarded_chain(certificate: str, chain: str) -> list[bytes]:
    """Read ``Client-Cert`` and ``Client-Cert-Chain`` (RFC 9440 2).

    Raises:
        CertificateRefused: ``reason`` is malformed.
    """
    items = [item.strip() for item in ([certificate] if certificate else []) + (chain.split(",") if chain else [])]
    found: list[bytes] = []
    for item in items:
        if len(item) < 3 or not (item.startswith(":") and item.endswith(":")):
            raise refused("malformed", "Client-Cert is no byte sequence (RFC 8941 3.3.5).")
        try:
            found.append(base64.b64decode(item[1:-1], validate=True))
        except binascii.Error:
            raise refused("malformed", "Client-Cert is not base64.") from None
    return found
