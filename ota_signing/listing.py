"""What bins may list: read and verified by the signer, from the database and its own memory, page by page.

A release is listed if it is published, this signer signed for it, and its approvals still cover what its row says
(`ota_signing.approvals.check`). Whatever is wrong with one release, or cannot even be read, refuses that one and no other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from lachan.database import Database
from ota_signing import approvals, bins
from ota_signing.errors import ReleaseRefused
from ota_signing.models import releases
from ota_signing.schemas import ReleaseState
from ota_signing.statement import ReleaseStatement

PAGE = 8  # slots at a time


def verified(
    db: Database, wanted: Sequence[int], *, was_signed: Callable[[ReleaseStatement], bool]
) -> tuple[dict[int, dict[str, bytes]], dict[str, str]]:
    """Read what slots list.

    Args:
        db: is read a page at a time, so that no transaction is open for long.
        wanted: slots, in order.
        was_signed: tells whether this signer signed for a statement.

    Returns:
        Slot → target path → encoded entry; and release id → reason, for published releases that are refused.
    """
    found: dict[int, dict[str, bytes]] = {slot: {} for slot in wanted}
    refused: dict[str, str] = {}
    for start in range(0, len(wanted), PAGE):
        query = sa.select(*approvals.FACTS).where(
            releases.c.slot.in_(wanted[start : start + PAGE]),
            releases.c.state == ReleaseState.PUBLISHED,
            releases.c.signature.is_not(None),
        )
        with db.read() as connection:
            page = list(approvals.evidence(connection, connection.execute(query).mappings().all()))
        for evidence in page:
            try:
                statement = _checked(evidence, was_signed)
            except ReleaseRefused as error:
                refused[evidence.row["id"]] = str(error.fields["reason"])
            else:
                found[evidence.row["slot"]][statement.target_path] = entry(statement)
    return found, refused


def entry(statement: ReleaseStatement) -> bytes:
    """Encode what the update framework says of one release: its file by length and hash, and whom it is for."""
    custom = {
        "release_id": statement.release_id, "vendor": statement.vendor, "model": statement.model,
        "version": statement.version, "downgrade": statement.downgrade, "digest": statement.digest,
    }  # fmt: skip
    words: Mapping[str, Any] = {"custom": custom, "hashes": {"sha256": statement.sha256}, "length": statement.length}
    return orjson.dumps(words, option=orjson.OPT_SORT_KEYS)


def _checked(evidence: approvals.ApprovalEvidence, was_signed: Callable[[ReleaseStatement], bool]) -> ReleaseStatement:
    statement = approvals.check(evidence, minimum=1)
    release_id = statement.release_id
    if evidence.row["slot"] != bins.slot(statement.target_path):
        raise ReleaseRefused("The release stands in another slot.", reason="path-changed", release_id=release_id)
    words = (release_id, statement.vendor, statement.model, statement.version, statement.sha256)
    if not all(word.isprintable() for word in words):
        raise ReleaseRefused("A name cannot be printed.", reason="unreadable", release_id=release_id)
    if not was_signed(statement):
        raise ReleaseRefused("This signer never signed for it.", reason="never-signed", release_id=release_id)
    return statement
