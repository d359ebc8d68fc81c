"""Enforcement point ``certificate-hold``: suspends a contained device's certificates, and lifts only that.

Holding is for those who verify certificates themselves (broker, RADIUS, firewall); lachan's own doors refuse by the trust
decision already. From ``quarantine`` on everything the device has is held, in the containment's own transaction (`join`);
evidence there is the rows, which our OCSP responder reads at every question. `verify` asks the responder, too. Limits: a peer that reads CRLs only learns of it with its next CRL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from cryptography.x509 import ocsp as x509_ocsp

from lachan import clock
from lachan.enforcement import Evidence, Level, PointLook, Target
from lachan.errors import LachanError
from lachan.identity import system
from lachan.runtime import Runtime
from lachan.statements import Statement, among, listed, pipeline
from pki import authorities, ocsp, revocation
from pki.models import certificates, holds
from pki.states import CertificateState, Holder

ACTOR = system("certificate-hold")


class CertificateHold:
    """The enforcement point; see the module."""

    name = "certificate-hold"

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt

    def plan(self, rt: Runtime, target: Target, level: Level) -> list[str]:
        """One line per certificate that `apply` would hold."""
        if level.rank < Level.QUARANTINE.rank:
            return []
        return [
            f"hold certificate {row.serial_number}" for row in _live(rt, target) if row.state == CertificateState.VALID
        ]

    def apply(self, rt: Runtime, target: Target, level: Level, *, intent: str) -> Evidence:
        """Hold all live certificates from ``quarantine`` on; below, lift what this point holds."""
        if level.rank < Level.QUARANTINE.rank:
            return self.release(rt, target, intent=intent)
        if len(_held_here(rt, target)) == len(
            [row for row in _live(rt, target) if row.state != CertificateState.REVOKED]
        ):
            return self.verify(rt, target, level)  # nothing to write, so no door must read anew
        rt.db.run(
            lambda connection: revocation.suspend(
                rt, connection, ACTOR, device_id=target.device_id, reason=f"containment, intent {intent}",
                holder=Holder.CONTAINMENT,
            ),
            urgent=True,
        )  # fmt: skip
        return self.verify(rt, target, level)

    def join(
        self, rt: Runtime, connection: sa.Connection, target: Target, level: Level | None, *, intent: str
    ) -> Evidence:
        """Hold, or lift, in the caller's unit; settled by the rows."""
        wanted = level is not None and level.rank >= Level.QUARANTINE.rank
        change, reason = (revocation.suspend, "containment") if wanted else (revocation.release, "containment ended")
        change(
            rt, connection, ACTOR, device_id=target.device_id, reason=f"{reason}, intent {intent}",
            holder=Holder.CONTAINMENT,
        )  # fmt: skip
        mine = {"device_id_": target.device_id, "now_": clock.now()}
        live, holding = pipeline(connection, [(_LIVE, mine), (_HOLDING, mine)])
        held = [row.serial_number for row in holding.rows]
        seen = {row.serial_number: {"state": row.state} for row in live.rows}
        settled = not held if not wanted else all(row.state != CertificateState.VALID for row in live.rows)
        detail = {"certificates": seen, "held": held, "nothing": not seen}
        return Evidence(settled=settled, detail=detail, observed_at=clock.now())

    def verify_all(self, rt: Runtime, wanted: list[tuple[Target, Level | None]]) -> list[Evidence]:
        """PointLook at each, as `verify` does."""
        return [self.verify(rt, target, level or Level.OBSERVE) for target, level in wanted]

    def verify(self, rt: Runtime, target: Target, level: Level) -> Evidence:
        """Settled when rows and OCSP agree: from ``quarantine`` on no certificate of the device is good."""
        wanted = level.rank >= Level.QUARANTINE.rank
        rows, seen = _live(rt, target), {}
        for row in rows:
            seen[row.serial_number] = {"state": row.state, "ocsp": _ocsp_status(rt, row.authority, row.serial_number)}
        held = _held_here(rt, target)
        if wanted:
            settled = all(s["state"] != CertificateState.VALID and s["ocsp"] == "revoked" for s in seen.values())
        else:
            agree = all((s["state"] == CertificateState.VALID) == (s["ocsp"] == "good") for s in seen.values())
            settled = agree and not held
        return Evidence(settled=settled, detail={"certificates": seen, "held": held}, observed_at=clock.now())

    def release(self, rt: Runtime, target: Target, *, intent: str) -> Evidence:
        """Lift the holds of containment; a person's suspension and a revocation stay."""
        if not _held_here(rt, target):
            return self.verify(rt, target, Level.OBSERVE)
        rt.db.run(
            lambda connection: revocation.release(
                rt, connection, ACTOR, device_id=target.device_id, reason=f"containment ended, intent {intent}",
                holder=Holder.CONTAINMENT,
            ),
            urgent=True,
        )  # fmt: skip
        return self.verify(rt, target, Level.OBSERVE)

    def look(self, rt: Runtime, wanted: Sequence[tuple[Target, Level | None]], *, cursor: str, most: int) -> PointLook:
        """Tell which of some devices have a certificate that this point holds, and those of the next holds."""
        now = clock.now()
        with rt.db.read() as connection:
            ids = listed(connection.dialect.name, [target.device_id for target, _ in wanted])
            mine, following = pipeline(
                connection,
                [(_HELD_OF, {"devices": ids, "now_": now}), (_HELD_AFTER, {"after_": cursor, "most_": most})],
            )
        found = {row.device_id for row in (*mine.rows, *following.rows) if row.device_id and row.not_after > now}
        last = following.rows[-1].id if len(following.rows) == most else ""
        return PointLook(dict.fromkeys(found, Level.QUARANTINE), last)

    def observe(self, rt: Runtime) -> dict[str, Level]:
        """Give the devices with at least one certificate that this point holds."""
        # From the holds to their certificates: of a join, SQLite makes a walk over all certificates.
        held = sa.select(holds.c.certificate_id).where(holds.c.holder == Holder.CONTAINMENT)
        query = sa.select(certificates.c.device_id).where(certificates.c.id.in_(held))
        with rt.db.read() as connection:
            found = connection.execute(query.where(certificates.c.not_after > clock.now())).scalars()
            return {device_id: Level.QUARANTINE for device_id in found if device_id}


def _live(rt: Runtime, target: Target) -> list[Any]:
    with rt.db.read() as connection:
        return _LIVE.all(connection, device_id_=target.device_id, now_=clock.now())


def _held_here(rt: Runtime, target: Target) -> list[str]:
    with rt.db.read() as connection:
        rows = _HOLDING.all(connection, device_id_=target.device_id, now_=clock.now())
        return [row.serial_number for row in rows]


def _ocsp_status(rt: Runtime, authority: str, serial_number: str) -> str:
    """Tell what the responder says: good, revoked, unknown; or why it says nothing."""
    try:
        name, key = authorities.get(rt.db, authority).hashes["sha256"]
    except LachanError as error:
        return error.code
    number = int(serial_number, 16)
    content = number.to_bytes(number.bit_length() // 8 + 1, "big")
    found = ocsp.reply(rt, ocsp.Question((ocsp.CertId("sha256", name, key, content),), b""))
    if found.status is not ocsp.Status.SUCCESSFUL:
        return found.status.name.lower()
    return x509_ocsp.load_der_ocsp_response(found.content).certificate_status.name.lower()


_HELD = sa.and_(holds.c.certificate_id == certificates.c.id, holds.c.holder == str(Holder.CONTAINMENT))
_MINE = sa.and_(
    certificates.c.device_id == sa.bindparam("device_id_"),
    certificates.c.not_after > sa.bindparam("now_", type_=certificates.c.not_after.type),
)
_LIVE = Statement(
    sa.select(certificates.c.authority, certificates.c.serial_number, certificates.c.state)
    .where(_MINE)
    .order_by(certificates.c.id)
)
_HOLDING = Statement(
    sa.select(certificates.c.serial_number).join(holds, _HELD).where(_MINE).order_by(certificates.c.serial_number)
)
_HELD_OF = Statement(
    lambda dialect: (
        sa.select(certificates.c.device_id, certificates.c.not_after)
        .join(holds, _HELD)
        .where(
            among(dialect, certificates.c.device_id, "devices"),
            certificates.c.not_after > sa.bindparam("now_", type_=certificates.c.not_after.type),
        )
    )
)
_PAGE = (
    sa.select(holds.c.certificate_id)
    .where(holds.c.certificate_id > sa.bindparam("after_"), holds.c.holder == str(Holder.CONTAINMENT))
    .order_by(holds.c.certificate_id)
    .limit(sa.bindparam("most_", type_=sa.Integer))
)
_HELD_AFTER = Statement(
    sa.select(certificates.c.id, certificates.c.device_id, certificates.c.not_after)
    .where(certificates.c.id.in_(_PAGE))
    .order_by(certificates.c.id)
)
