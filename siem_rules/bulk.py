"""The `_bulk` format as Elasticsearch speaks it, without HTTP: read the body, tell the outcome of each item.

Source: the Elasticsearch reference, "Bulk API". `create` and `index` deliver a line; `update` and `delete` are refused
item by item, because nobody may change what was logged. A malformed action line or a missing last newline refuses the
whole body, a malformed document only its item; the reasons are worded as Elasticsearch words them, since senders match on
them. Limits: `filter_path`, `pipeline` and `refresh` are accepted and ignored.
"""

from dataclasses import dataclass
from typing import Any

import orjson

#: A line longer than this is refused by itself; one log line is never so long.
LINE_BYTES = 256 << 10
#: A body with more actions is refused: the answer has an entry for each, and a small gzip can hold millions of them.
MOST_ITEMS = 50_000
_ACTIONS = ("index", "create", "update", "delete")


class BulkRefused(Exception):
    """The whole body is refused; ``kind`` and ``reason`` are Elasticsearch's, ``status`` is 400 or 413."""

    def __init__(self, kind: str, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.status = kind, reason, status

    def document(self) -> dict[str, Any]:
        """Give the error as Elasticsearch answers it."""
        cause = {"type": self.kind, "reason": self.reason}
        return {"error": {"root_cause": [cause], **cause}, "status": self.status}


@dataclass(slots=True)
class Item:
    """One action of the body.

    Attributes:
        action: index, create, update or delete.
        index: the target's name, as the sender gave it.
        id: the sender's ``_id``; None lets lachan name the line.
        line: the document's bytes; None for what is refused.
        status: HTTP status of this item.
        error: Elasticsearch's error object; None for success.
    """

    action: str
    index: str
    id: str | None
    line: bytes | None
    status: int = 201
    error: dict[str, str] | None = None

    def answer(self, *, identity: str, sequence: int) -> dict[str, Any]:
        """Give the item's entry in the answer."""
        told: dict[str, Any] = {"_index": self.index, "_id": identity, "status": self.status}
        if self.error is not None:
            told["error"] = self.error | {"index": self.index}
        else:
            told |= {
                "_version": 1, "result": "created" if self.status == 201 else "noop",
                "_shards": {"total": 1, "successful": 1, "failed": 0}, "_seq_no": sequence, "_primary_term": 1,
            }  # fmt: skip
        return {self.action: told}


def read(body: bytes, *, default_index: str = "") -> list[Item]:
    """Give the items of a body.

    Args:
        body: the decompressed request body.
        default_index: the index of the request's path; empty without one.

    Raises:
        BulkRefused: the body is empty, does not end in a newline, has a malformed action line, or too many of them.
    """
    if not body.strip():
        raise BulkRefused("parse_exception", "request body is required")
    if not body.endswith(b"\n"):
        raise BulkRefused("illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
    if body.count(b"\n") > 4 * MOST_ITEMS:  # blank lines too: each costs memory before it is skipped
        raise _too_many()
    lines = body.split(b"\n")[:-1]
    items: list[Item] = []
    place = 0
    while place < len(lines):
        if not lines[place].strip():
            place += 1
            continue
        if len(items) >= MOST_ITEMS:
            raise _too_many()
        item = _action(lines[place], place + 1, default_index)
        place += 1
        if item.action != "delete":
            if place >= len(lines):
                raise BulkRefused(
                    "illegal_argument_exception",
                    f"Malformed action/metadata line [{place}], expected a source line after it",
                )
            _attach(item, lines[place])
            place += 1
        items.append(item)
    return items


def _too_many() -> BulkRefused:
    return BulkRefused("content_too_long_exception", f"a body may have {MOST_ITEMS} actions at most", 413)


def _action(line: bytes, number: int, default_index: str) -> Item:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BulkRefused(
            "illegal_argument_exception", f"Malformed action/metadata line [{number}], expected START_OBJECT: {error}"
        ) from error
    if not isinstance(found, dict) or len(found) != 1:
        raise BulkRefused(
            "illegal_argument_exception",
            f"Malformed action/metadata line [{number}], expected START_OBJECT with one action",
        )
    [(action, meta)] = found.items()
    if action not in _ACTIONS or not isinstance(meta, dict):
        raise BulkRefused(
            "illegal_argument_exception",
            f"Malformed action/metadata line [{number}], expected field [create], [delete], [index] or [update] but found [{action}]",
        )
    identity, index = meta.get("_id"), meta.get("_index") or default_index
    if not isinstance(index, str) or not isinstance(identity, str | int | None) or isinstance(identity, bool):
        raise BulkRefused(
            "illegal_argument_exception",
            f"Malformed action/metadata line [{number}], expected VALUE_STRING for _index and _id",
        )
    if not index:
        raise BulkRefused("action_request_validation_exception", "Validation Failed: 1: index is missing;")
    item = Item(action, index[:255], None if identity is None else str(identity), None)
    if item.id is not None and not 0 < len(item.id.encode()) <= 512:
        item.status, item.error = 400, {
            "type": "illegal_argument_exception", "reason": "id must be between 1 and 512 bytes long",
        }  # fmt: skip
    elif action in ("update", "delete"):
        item.status, item.error = 400, {
            "type": "illegal_argument_exception", "reason": "only write ops with an op_type of create are allowed: logs are append-only",
        }  # fmt: skip
    return item


def _attach(item: Item, line: bytes) -> None:
    if item.error is not None:
        return
    reason = ""
    if len(line) > LINE_BYTES:
        reason = f"document is larger than {LINE_BYTES} bytes"
    else:
        try:
            if not isinstance(orjson.loads(line), dict):
                reason = "failed to parse: expected an object"
        except orjson.JSONDecodeError as error:
            reason = f"failed to parse: {error}"
    if reason:
        item.status, item.error = 400, {"type": "document_parsing_exception", "reason": reason}
    else:
        item.line = line.strip()
