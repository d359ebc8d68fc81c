"""What rows say beside what was sealed: every column of a fact is a copy of a word of its body, and none may say another.

Feeds, timelines and exports show the sealed words (`lachan.work.outbox.stored`); by the columns rows are found, so a changed one
hides a fact from whoever asks for a device. `compare` reads all facts, page by page. Limits: of an erased fact only its hash is left, so
its columns are nobody's word; that a whole row is missing is told by the tree, not here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import Database
from lachan.ledger.findings import Fault, LedgerFinding
from lachan.work.outbox import events

PAGE = 2000
_WORDS = ("id", "name", "actor", "device_id", "vendor")
_MOMENTS = ("happened_at", "recorded_at")


def compare(db: Database) -> Iterator[LedgerFinding]:
    """Give each copy that differs from its body, and each body that differs from its hash.

    Raises:
        DatabaseAway: the database cannot be read.
    """
    last = 0
    while True:
        with db.read() as connection:
            query = sa.select(events).where(events.c.seq > last).order_by(events.c.seq).limit(PAGE)
            rows = connection.execute(query).mappings().all()
        if not rows:
            return
        last = rows[-1]["seq"]
        for row in rows:
            if row["body"] is not None:
                yield from _of(row)


def _of(row: Any) -> Iterator[LedgerFinding]:
    which = {"index": row["seq"], "id": row["id"], "name": row["name"]}
    body = bytes(row["body"])
    if hashlib.sha256(b"\0" + body).digest() != bytes(row["leaf_hash"]):
        yield LedgerFinding(Fault.CHANGED, "its body is not the one that its hash was made of", **which)
    try:
        words = json.loads(body)
        copied = {name: words[name] for name in (*_WORDS, *_MOMENTS)}
    except (ValueError, TypeError, KeyError):
        yield LedgerFinding(Fault.CHANGED, "its body cannot be read", **which)
        return
    for name in _WORDS:
        if row[name] != copied[name]:
            yield LedgerFinding(
                Fault.CHANGED, f"its row says {name} {row[name]!r}, what was sealed {copied[name]!r}", **which
            )
    for name in _MOMENTS:
        if clock.iso(row[name]) != copied[name]:
            said = clock.iso(row[name])
            yield LedgerFinding(Fault.CHANGED, f"its row says {name} {said}, what was sealed {copied[name]}", **which)
