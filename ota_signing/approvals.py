"""Whether a release may be signed: read again from the database, believing no column that can be checked.

`verify` is what the signer process runs before every signature (docs/adr/0016). Steps: the statement is made anew
from the release's row and its digest computed; the artifact's row must agree; each approval must cover that digest,
belong to an active person with the approver's permission who is not the proposer, to a session of that person that
was alive then, and to the event of the outbox that recorded it; and there must be as many as the statement says.
Limits: someone who rewrites all of this consistently — rows, sessions and events — is found by the ledger, not here.
"""

import sqlalchemy as sa

from lachan.errors import NotFound
from lachan.events import FirmwareApproved
from lachan.identity import Permission, Role
from lachan.identity.models import people, sessions
from lachan.identity.permissions import ROLE_PERMISSIONS
from lachan.work import outbox
from ota_signing.errors import ReleaseRefused
from ota_signing.models import approvals, artifacts, releases
from ota_signing.statement import Statement


def verify(connection: sa.Connection, release_id: str, *, minimum: int, people_too: bool = True) -> Statement:
    """Make sure that enough people approved exactly what stands in the database now.

    Args:
        connection: an open connection.
        release_id: the release.
        minimum: fewest approvals by the signer's own settings, whatever the row says; settled at the signature, too.
        people_too: also ask whether the approvers are active and had sessions. That is settled when the signature is
            made: somebody who leaves the city's service later takes no firmware with them.

    Returns:
        The statement that may be signed for.

    Raises:
        ReleaseRefused: something does not hold; ``fields['reason']`` is one of ``no-release``, ``artifact-changed``,
            ``path-changed``, ``proposer-approved``, ``digest-changed``, ``person-unknown``, ``session-unknown``,
            ``approval-unrecorded``, ``approvals-missing``.
    """
    row = connection.execute(sa.select(releases).where(releases.c.id == release_id)).mappings().first()
    if row is None:
        raise _refused("no-release", release_id, "There is no such release.")
    statement = Statement.of(row)
    artifact = connection.execute(sa.select(artifacts).where(artifacts.c.id == row["artifact_id"])).mappings().first()
    named = (statement.vendor, statement.sha256, statement.length)
    if artifact is None or (artifact["vendor"], artifact["sha256"], artifact["length"]) != named:
        raise _refused("artifact-changed", release_id, "The artifact's row is not what the release names.")
    if row["target_path"] != statement.target_path:
        raise _refused("path-changed", release_id, "The release's target path is not its own.")
    found = connection.execute(sa.select(approvals).where(approvals.c.release_id == release_id)).mappings().all()
    for approval in found:
        if row["proposer_id"] == approval["person_id"] or statement.proposer == approval["person"]:
            raise _refused("proposer-approved", release_id, f"{approval['person']} proposed it and approved it.")
        _verify_words(connection, statement, approval)
        if people_too:
            _verify_person(connection, release_id, approval)
    needed = max(statement.approvals_needed, minimum, 1)
    if len(found) < needed:
        raise _refused("approvals-missing", release_id, f"{len(found)} of {needed} approvals are there.")
    return statement


def _verify_words(connection: sa.Connection, statement: Statement, approval: sa.RowMapping) -> None:
    who, release_id = approval["person"], statement.release_id
    if approval["digest"] != statement.digest:
        raise _refused("digest-changed", release_id, f"{who} approved another digest than the release has now.")
    try:
        stored = outbox.get(connection, approval["event_id"])
    except NotFound:
        stored = None
    told = FirmwareApproved(release_id=release_id, approver=who, digest=statement.digest)
    if stored is None or stored.actor != who or stored.event != told:
        raise _refused("approval-unrecorded", release_id, f"No event records the approval of {who}.")


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
