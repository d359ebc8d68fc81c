"""Whether a release may be signed: read again from the database, believing no column that can be checked.

`verify` is what the signer process runs before every signature (docs/adr/0016). Steps: the statement is made anew
from the release's row and its digest computed; the artifact's row must agree; each approval must cover that digest,
belong to an active person with the approver's permission who is not the proposer, to a session of that person that
was alive then, and to the event of the outbox that recorded it; and there must be as many as the statement says.
Limits: someone who rewrites all of this consistently — rows, sessions and events — is found by the ledger, not here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from lachan.events import FirmwareApproved
from lachan.identity import Permission, Role, humans
from lachan.identity.models import people, sessions
from lachan.identity.permissions import ROLE_PERMISSIONS
from lachan.work.outbox import events
from ota_signing.errors import ReleaseRefused
from ota_signing.models import approvals, artifacts, releases
from ota_signing.statement import ReleaseStatement

FACTS = tuple(
    releases.c[name]
    for name in (
        "id", "vendor", "model", "version", "sha256", "length", "approvals_needed", "proposer", "proposer_id", "downgrade",
        "artifact_id", "target_path", "slot",
    )
)  # fmt: skip
"""What a release's row must have for `check`: times and signatures are left where they are."""
_WORDS = tuple(approvals.c[name] for name in ("release_id", "person_id", "person", "digest", "event_id"))


@dataclass(frozen=True, kw_only=True)
class ApprovalEvidence:
    """What the database says of one release: its row, its artifact's, its approvals', and the events that these name."""

    row: sa.RowMapping
    artifact: tuple[str, str, int] | None
    approvals: Sequence[sa.RowMapping]
    events: Mapping[str, sa.RowMapping]


def verify(
    connection: sa.Connection, release_id: str, *, minimum: int, shell_persons: Mapping[str, str]
) -> ReleaseStatement:
    """Make sure that enough people approved exactly what stands in the database now, and that they may (before signing).

    Args:
        connection: an open connection.
        release_id: the release.
        minimum: fewest approvals by the signer's own settings, whatever the row says.
        shell_persons: of the signer's own settings; a person approves nothing that their shell or their token proposed.

    Returns:
        The statement that may be signed for.

    Raises:
        ReleaseRefused: something does not hold; ``fields['reason']`` is ``no-release``, ``person-unknown``,
            ``session-unknown``, or one of those of `check`.
    """
    row = connection.execute(sa.select(*FACTS).where(releases.c.id == release_id)).mappings().first()
    if row is None:
        raise _refused("no-release", release_id, "There is no such release.")
    (found,) = evidence(connection, [row])
    statement = check(found, minimum=minimum)
    proposers = humans.behind(connection, row["proposer_id"], shell_persons)
    for approval in connection.execute(sa.select(approvals).where(approvals.c.release_id == release_id)).mappings():
        if approval["person_id"] in proposers:
            raise _refused("proposer-approved", release_id, f"{approval['person']} proposed it and approved it.")
        _verify_person(connection, release_id, approval)
    return statement


def evidence(connection: sa.Connection, rows: Sequence[sa.RowMapping]) -> Iterator[ApprovalEvidence]:
    """Read what some releases need to be checked, with one query for each table."""
    ids = [row["id"] for row in rows]
    table = artifacts.c
    query: sa.Select[Any] = sa.select(table.id, table.vendor, table.sha256, table.length)
    query = query.where(table.id.in_({row["artifact_id"] for row in rows}))
    named = {row.id: (row.vendor, row.sha256, row.length) for row in connection.execute(query).all()}
    given: dict[str, list[sa.RowMapping]] = {release_id: [] for release_id in ids}
    words = sa.select(*_WORDS).where(approvals.c.release_id.in_(ids))
    for approval in connection.execute(words).mappings().all():
        given[approval["release_id"]].append(approval)
    told = {approval["event_id"] for found in given.values() for approval in found}
    stored = sa.select(events.c.id, events.c.name, events.c.actor, events.c.body).where(events.c.id.in_(told))
    recorded = {event["id"]: event for event in connection.execute(stored).mappings().all()}
    for row in rows:
        artifact = named.get(row["artifact_id"])
        yield ApprovalEvidence(row=row, artifact=artifact, approvals=given[row["id"]], events=recorded)


def check(found: ApprovalEvidence, *, minimum: int) -> ReleaseStatement:
    """Make sure that the approvals of a release cover what its row says.

    Whether the approvers are active and had sessions is settled when the signature is made: somebody who leaves the
    city's service later takes no firmware with them.

    Args:
        found: what the database says.
        minimum: fewest approvals, whatever the row says; settled at the signature, too.

    Returns:
        The statement that was approved.

    Raises:
        ReleaseRefused: something does not hold; ``fields['reason']`` is one of ``artifact-changed``, ``path-changed``,
            ``proposer-approved``, ``digest-changed``, ``approval-unrecorded``, ``approvals-missing``, ``unreadable``.
    """
    row, release_id = found.row, str(found.row["id"])
    try:
        statement = ReleaseStatement.of(row)
        digest, path = statement.digest, statement.target_path
    except (TypeError, ValueError) as error:  # a row that nothing of ours writes
        raise _refused("unreadable", release_id, f"The release's row makes no statement: {error}") from error
    if found.artifact != (statement.vendor, statement.sha256, statement.length):
        raise _refused("artifact-changed", release_id, "The artifact's row is not what the release names.")
    if row["target_path"] != path:
        raise _refused("path-changed", release_id, "The release's target path is not its own.")
    for approval in found.approvals:
        if row["proposer_id"] == approval["person_id"] or statement.proposer == approval["person"]:
            raise _refused("proposer-approved", release_id, f"{approval['person']} proposed it and approved it.")
        _check_words(release_id, digest, approval, found.events.get(approval["event_id"]))
    needed = max(statement.approvals_needed, minimum, 1)
    if len(found.approvals) < needed:
        raise _refused("approvals-missing", release_id, f"{len(found.approvals)} of {needed} approvals are there.")
    return statement


def _check_words(release_id: str, digest: str, approval: sa.RowMapping, event: sa.RowMapping | None) -> None:
    who = approval["person"]
    if approval["digest"] != digest:
        raise _refused("digest-changed", release_id, f"{who} approved another digest than the release has now.")
    if event is None or event["actor"] != who or _told(event) != (release_id, who, digest):
        raise _refused("approval-unrecorded", release_id, f"No event records the approval of {who}.")


def _told(event: sa.RowMapping) -> tuple[str, str, str] | None:
    """Tell what a `lachan.events.FirmwareApproved` tells: release, approver, digest; None of anything else."""
    if event["name"] != FirmwareApproved.__name__ or event["body"] is None:
        return None
    try:
        data = orjson.loads(event["body"])["data"]
        return data["release_id"], data["approver"], data["digest"]
    except (ValueError, TypeError, KeyError):
        return None


def _verify_person(connection: sa.Connection, release_id: str, approval: sa.RowMapping) -> None:
    who, at = approval["person"], approval["approved_at"]
    person = connection.execute(sa.select(people).where(people.c.id == approval["person_id"])).mappings().first()
    allowed = person is not None and any(
        Permission.OTA_APPROVE in ROLE_PERMISSIONS[role] for role in Role if role.value in person["roles"]
    )
    if person is None or not person["active"] or not allowed or who != f"person:{person['name']}":
        raise _refused("person-unknown", release_id, f"{who} is no active person who may approve.")
    alive = sa.select(sessions.c.id).where(
        sessions.c.id == approval["session"],
        sessions.c.person_id == approval["person_id"],
        sessions.c.created_at <= at,
        sessions.c.expires_at > at,
        sa.or_(sessions.c.ended_at.is_(None), sessions.c.ended_at >= at),
    )
    if connection.execute(alive).first() is None:
        raise _refused("session-unknown", release_id, f"{who} had no session when approving.")


def _refused(reason: str, release_id: str, detail: str) -> ReleaseRefused:
    return ReleaseRefused(detail, reason=reason, release_id=release_id)
