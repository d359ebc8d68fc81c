"""Assess a device: look within an engagement, judge, and record it in one transaction.

An assessment is one event (`PostureAssessed`) that carries the Merkle root over its verdicts; `VerdictChanged` follows
for those that changed. Its rows are kept as the canonical JSON texts that were hashed, with the catalogue's hash and
the day it was judged for, so that it can be judged again. A blocking fail becomes a trust signal (`limited`).

Limits: one assessment of a device at a time counts (the one that began last); raw evidence is capped and redacted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import rfc8785
import sqlalchemy as sa

from lachan import clock, devices
from lachan.database import for_update, insert_ignore
from lachan.devices import Device
from lachan.errors import NotFound
from lachan.events import PostureAssessed, VerdictChanged
from lachan.identity import Permission, Principal, require
from lachan.ids import new_id
from lachan.ledger import merkle
from lachan.work import outbox
from posture import declarations, engagements, signals
from posture.catalogue import catalogue
from posture.engagements import Engagement
from posture.errors import AssessmentNotFound, Superseded
from posture.evaluate import Basis, Declaration, Result, Verdict, evaluate, legal_day
from posture.models import assessments, catalogues, verdicts
from posture.probes import process
from posture.probes.observation import Observation
from posture.probes.target import ProbeTarget

if TYPE_CHECKING:
    from lachan.runtime import Runtime

TIME_BOX = 25.0  # seconds for one device; shorter than a job's lease


@dataclass(frozen=True)
class Assessment:
    """A recorded assessment; ``rows`` are the verdicts as hashed, in the order of the tree's leaves."""

    id: str
    device_id: str
    engagement_id: str | None
    as_of: date
    started_at: datetime
    assessed_at: datetime
    catalogue: str
    merkle_root: str
    counts: Mapping[str, int]
    rows: tuple[str, ...]
    observations: tuple[Observation, ...]


@dataclass(frozen=True)
class _Basis:
    """What an assessment starts from."""

    device: Device
    engagement: Engagement | None
    declaration: Declaration | None
    observations: tuple[Observation, ...] = ()


@dataclass(frozen=True)
class _When:
    """The day judged for, when the run began, and when it was judged."""

    day: date
    started_at: datetime
    at: datetime


def assess(
    rt: Runtime,
    device_id: str,
    *,
    actor: Principal,
    engagement_id: str | None = None,
    as_of: date | None = None,
    run_id: str | None = None,
) -> Assessment:
    """Look at a device and record the verdicts.

    Args:
        rt: the installation.
        device_id: the device.
        actor: who asks; a permission to run is needed, the engagement gives the right to look.
        engagement_id: the approved engagement; without one nothing is sent, and what an earlier run saw is judged anew.
        as_of: the day whose instruments are asked; today in Hà Nội by default.
        run_id: id to record it under; an assessment of that id is returned instead of made twice.

    Raises:
        Forbidden: the actor may not run assessments.
        NotFound: there is no such device or engagement.
        NotApproved: the engagement is not approved, was changed, or does not name the device.
        SocketRefused: the engagement's window is closed, or it was stopped.
        Superseded: a newer assessment was recorded meanwhile.
    """
    require(actor, Permission.POSTURE_RUN)
    run_id = run_id or new_id()
    started_at = clock.now()
    with rt.db.read() as connection:
        with contextlib.suppress(AssessmentNotFound):
            return get(connection, run_id)
        basis = _basis(connection, device_id, engagement_id, actor)
    observations = _look(rt, basis) if basis.engagement else basis.observations
    at = clock.now()
    day = as_of or legal_day(at)
    judged = evaluate(catalogue(), observations, basis.declaration, as_of=day, at=at)
    found = partial(_record, basis=basis, judged=judged, observations=observations, actor=actor, run_id=run_id)
    return rt.db.run(partial(found, when=_When(day=day, started_at=started_at, at=at)))


def get(connection: sa.Connection, assessment_id: str) -> Assessment:
    """One assessment by id.

    Raises:
        AssessmentNotFound: there is none.
    """
    return _one(connection, assessments.c.id == assessment_id)


def visible(connection: sa.Connection, assessment_id: str, *, principal: Principal) -> Assessment:
    """One assessment, if the principal may see its device.

    Raises:
        AssessmentNotFound: there is none, or it is of another vendor's device.
    """
    found = get(connection, assessment_id)
    try:
        devices.get(connection, found.device_id, principal=principal)
    except NotFound as error:
        raise AssessmentNotFound from error
    return found


def latest(connection: sa.Connection, device_id: str) -> Assessment:
    """Give the newest assessment of a device.

    Raises:
        AssessmentNotFound: it was never assessed.
    """
    return _one(connection, assessments.c.device_id == device_id)


def current(connection: sa.Connection, device_id: str) -> list[tuple[Verdict, datetime, str]]:
    """Give the present verdicts of a device with since when and from which assessment; expired ones are unknown by now."""
    query = sa.select(verdicts).where(verdicts.c.device_id == device_id)
    rows = {row["criterion"]: row for row in connection.execute(query).mappings()}
    now = clock.now()
    order = [row.id for row in catalogue().device_criteria() if row.id in rows]
    return [(_verdict(rows[key]).at(now), rows[key]["since"], rows[key]["assessment_id"]) for key in order]


def proof(assessment: Assessment, criterion: str) -> dict[str, Any]:
    """Proof that one verdict is under the root that the ledger's ``PostureAssessed`` carries (RFC 9162 2.1.3).

    Raises:
        AssessmentNotFound: the assessment has no such criterion.
    """
    leaves = [merkle.leaf_hash(row.encode()) for row in assessment.rows]
    for index, row in enumerate(assessment.rows):
        if json.loads(row)["criterion"] == criterion:
            nodes = _nodes(leaves)
            path = merkle.inclusion_path(index, len(leaves), nodes)
            return {
                "row": row, "index": index, "size": len(leaves), "root": assessment.merkle_root,
                "path": [step.hex() for step in path],
            }  # fmt: skip
    raise AssessmentNotFound(f"Assessment {assessment.id} has no {criterion}.")


def _nodes(leaves: Sequence[bytes]) -> merkle.Nodes:
    def node(level: int, index: int) -> bytes:
        if level == 0:
            return leaves[index]
        return merkle.node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))

    return node


def _basis(connection: sa.Connection, device_id: str, engagement_id: str | None, actor: Principal) -> _Basis:
    device = devices.get(connection, device_id, principal=actor)
    declaration = declarations.current(connection, vendor=device.vendor, model=device.model)
    if engagement_id is not None:
        return _Basis(device, engagements.get(connection, engagement_id), declaration)
    try:
        return _Basis(device, None, declaration, latest(connection, device_id).observations)
    except AssessmentNotFound:
        return _Basis(device, None, declaration)


def _look(rt: Runtime, basis: _Basis) -> tuple[Observation, ...]:
    """Run the probes; the first check of scope and window happens before anything else.

    Raises:
        NotApproved, SocketRefused: as for `assess`.
    """
    assert basis.engagement is not None
    document = basis.declaration.document if basis.declaration else {}
    scope = engagements.scope_of(rt, basis.engagement)
    scope.check_standing()
    target = ProbeTarget(
        host=basis.engagement.address_of(basis.device.id), scope=scope, ports=basis.engagement.ports,
        deadline=time.monotonic() + TIME_BOX, vendor=basis.device.vendor, try_lockout=basis.engagement.lockout,
        lockout="lockout" in document.get("authentication", {}),
    )  # fmt: skip
    return process.look(target, paths=catalogue().paths, pairs=catalogue().pairs)


def _record(
    connection: sa.Connection,
    basis: _Basis,
    judged: Sequence[Verdict],
    observations: Sequence[Observation],
    *,
    actor: Principal,
    run_id: str,
    when: _When,
) -> Assessment:
    device_id = basis.device.id
    _refuse_older(connection, device_id, when.started_at)
    rows = [_row(device_id, verdict, when.day) for verdict in judged]
    root = merkle.root(merkle.leaf_hash(row.encode()) for row in rows).hex()
    counts = {str(result): 0 for result in Result} | dict(Counter(str(v.result) for v in judged))
    insert_ignore(
        connection, catalogues,
        {"hash": catalogue().hash, "document": dict(catalogue().document), "first_used_at": when.at}, index=("hash",),
    )  # fmt: skip
    connection.execute(
        assessments.insert().values(
            id=run_id, device_id=device_id, engagement_id=basis.engagement.id if basis.engagement else None,
            declaration_id=basis.declaration.id if basis.declaration else None, actor=actor.label, as_of=when.day,
            started_at=when.started_at, assessed_at=when.at, catalogue=catalogue().hash, merkle_root=root, counts=counts,
            rows=rows, observations=[o.body() for o in observations],
        )
    )  # fmt: skip
    event = PostureAssessed(
        device_id=device_id, run_id=run_id, merkle_root=root, counts=counts, catalogue=catalogue().hash
    )
    outbox.append(connection, event, actor=actor)
    _replace(connection, device_id, judged, run_id=run_id, at=when.at, actor=actor)
    return get(connection, run_id)


def _refuse_older(connection: sa.Connection, device_id: str, started_at: datetime) -> None:
    """Let assessments of one device commit one after another, and none after one that began later."""
    lock = sa.select(devices.devices.c.id).where(devices.devices.c.id == device_id)
    connection.execute(for_update(lock, connection))
    newest = sa.select(sa.func.max(assessments.c.started_at)).where(assessments.c.device_id == device_id)
    present = connection.execute(newest).scalar()
    if present is not None and present > started_at:
        raise Superseded("An assessment that began later is recorded already.")


def _replace(
    connection: sa.Connection, device_id: str, judged: Sequence[Verdict], *, run_id: str, at: datetime, actor: Principal
) -> None:
    """Put the new verdicts in the place of the old ones, tell of changes, and set or clear trust signals."""
    query = sa.select(verdicts).where(verdicts.c.device_id == device_id)
    before = {row["criterion"]: row for row in connection.execute(query).mappings()}
    connection.execute(verdicts.delete().where(verdicts.c.device_id == device_id))
    values = []
    for verdict in judged:
        old = before.get(verdict.criterion)
        changed = old is None or (old["result"], old["reason"]) != (verdict.result, verdict.reason)
        since = at if changed or old is None else old["since"]
        values.append({
            "device_id": device_id, "criterion": verdict.criterion, "result": str(verdict.result),
            "reason": verdict.reason, "basis": str(verdict.basis), "detail": verdict.detail,
            "evidence": list(verdict.evidence), "valid_until": verdict.valid_until, "assessment_id": run_id,
            "since": since,
        })  # fmt: skip
        if old is not None and old["result"] != verdict.result:
            event = VerdictChanged(
                device_id=device_id, criterion=verdict.criterion, before=old["result"], after=str(verdict.result),
                reason=verdict.reason,
            )  # fmt: skip
            outbox.append(connection, event, actor=actor)
    connection.execute(verdicts.insert(), values)
    signals.update(connection, device_id, judged, at=at)


def _row(device_id: str, verdict: Verdict, day: date) -> str:
    """Give the canonical JSON text of a verdict (RFC 8785): a leaf of the assessment's tree."""
    body = {
        "device_id": device_id, "criterion": verdict.criterion, "result": str(verdict.result),
        "reason": verdict.reason, "basis": str(verdict.basis), "detail": verdict.detail,
        "evidence": list(verdict.evidence), "as_of": day.isoformat(), "catalogue": catalogue().hash,
        "valid_until": clock.iso(verdict.valid_until) if verdict.valid_until else None,
    }  # fmt: skip
    return rfc8785.dumps(body).decode()


def _one(connection: sa.Connection, where: sa.ColumnElement[bool]) -> Assessment:
    query = sa.select(assessments).where(where).order_by(assessments.c.started_at.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise AssessmentNotFound
    fields = Assessment.__dataclass_fields__
    values = {key: value for key, value in row.items() if key in fields}
    values |= {"rows": tuple(row["rows"]), "observations": tuple(Observation.load(o) for o in row["observations"])}
    return Assessment(**values)


def _verdict(row: Any) -> Verdict:
    return Verdict(
        row["criterion"], Result(row["result"]), row["reason"], Basis(row["basis"]), row["detail"],
        tuple(row["evidence"]), row["valid_until"],
    )  # fmt: skip


def rows_root(rows: Sequence[str]) -> str:
    """Give the Merkle root (hex) over rows as stored; an auditor compares it with the event's."""
    return merkle.root(hashlib.sha256(b"\0" + row.encode()).digest() for row in rows).hex()
