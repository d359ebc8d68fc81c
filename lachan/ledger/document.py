"""The form of an export: one JSON object per line, the same words for who writes and who checks.

1. ``header``: format, origin, the signed ``checkpoint``, ``scope`` (``device_id``, ``vendor``, ``from``, ``to``; null means
   all), ``contents`` (index, id, name of every event that follows), optionally ``since`` (an earlier signed checkpoint and
   the consistency proof from it).
2. In the order of the tree: ``event`` (index, ``body`` as the exact text that was hashed, inclusion ``proof``), ``erased``
   (an event whose body was erased: index, id, name, ``leaf``, proof) and ``hash`` (everything outside the scope: the hash
   of the subtree over leaves ``start`` to ``end``).
3. ``end``: the number of lines before it and their SHA-256, against accidents; the proofs are what holds against intent.

Hashes are base64. Needs nothing but the standard library. Limits: a scope is the exporter's word; the ledger cannot prove
that no event of the scope hides among the hashes.
"""

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any, TypeAlias

FORMAT = "lachan-ledger-export/1"
MAX_LINE = 16 << 20
Entry: TypeAlias = "EventLine | HashLine"


class Malformed(ValueError):
    """A line is not of this form."""


@dataclass(frozen=True)
class Scope:
    """Which events an export holds; None means all. Times are RFC 3339 texts: from inclusive, to exclusive, as recorded."""

    device_id: str | None = None
    vendor: str | None = None
    start: str | None = None
    end: str | None = None

    @property
    def whole(self) -> bool:
        """Whether every event is in scope."""
        return self == Scope()

    def json(self) -> dict[str, str | None]:
        """As it stands in the header."""
        return {"device_id": self.device_id, "vendor": self.vendor, "from": self.start, "to": self.end}

    def holds(self, body: dict[str, Any]) -> bool:
        """Whether an event with this body belongs in it."""
        recorded = str(body.get("recorded_at", ""))
        return (
            (self.device_id is None or body.get("device_id") == self.device_id)
            and (self.vendor is None or body.get("vendor") == self.vendor)
            and (self.start is None or recorded >= self.start)
            and (self.end is None or recorded < self.end)
        )


@dataclass(frozen=True)
class Header:
    """The first line."""

    checkpoint: str
    scope: Scope
    contents: list[tuple[int, str, str]]
    since: tuple[str, list[bytes]] | None = None


@dataclass(frozen=True)
class EventLine:
    """One event: ``body`` is None when it was erased, then ``leaf`` stands for it."""

    index: int
    body: str | None
    leaf: bytes
    proof: list[bytes]
    id: str = ""
    name: str = ""
    line: int = 0
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def span(self) -> tuple[int, int]:
        """The leaves that it covers."""
        return self.index, self.index + 1


@dataclass(frozen=True)
class HashLine:
    """The hash of a subtree outside the scope."""

    start: int
    end: int
    hash: bytes
    line: int = 0

    @property
    def span(self) -> tuple[int, int]:
        """The leaves that it covers."""
        return self.start, self.end


def encode(value: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def b64(raw: bytes) -> str:
    """Bytes as they stand in a line."""
    return base64.b64encode(raw).decode()


def parse_line(raw: bytes) -> dict[str, Any]:
    """One line as an object.

    Raises:
        Malformed: it is no JSON object, repeats a key, or is not spelt as `encode` would.
    """
    try:
        value = json.loads(raw, object_pairs_hook=_no_twins)
        same = isinstance(value, dict) and encode(value) == raw
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error
    if not same:
        raise Malformed("not spelt as an export spells it")
    found: dict[str, Any] = value
    return found


def header(value: dict[str, Any]) -> Header:
    """The first line.

    Raises:
        Malformed: it is none.
    """
    _keys(value, "header", "format", "origin", "size", "checkpoint", "scope", "contents", "since", "made_at")
    if value["format"] != FORMAT:
        raise Malformed(f"the format is not {FORMAT}")
    scope = value["scope"]
    if (
        not isinstance(scope, dict)
        or scope.keys() != Scope().json().keys()
        or not all(part is None or isinstance(part, str) for part in scope.values())
    ):
        raise Malformed("the scope is malformed")
    try:
        contents = [(_number(i), _text(event_id), _text(name)) for i, event_id, name in value["contents"]]
        since = value["since"]
        earlier = None if since is None else (_text(since["checkpoint"]), _hashes(since["proof"]))
    except (TypeError, ValueError, KeyError) as error:
        raise Malformed(f"the header is malformed: {error}") from error
    found = Scope(scope["device_id"], scope["vendor"], scope["from"], scope["to"])
    return Header(_text(value["checkpoint"]), found, contents, earlier)


def entry(value: dict[str, Any], line: int) -> Entry:
    """An ``event``, ``erased`` or ``hash`` line.

    Raises:
        Malformed: it is none of them.
    """
    kind = value.get("type")
    if kind == "event":
        _keys(value, "event", "index", "body", "proof")
        body = _text(value["body"])
        return EventLine(_number(value["index"]), body, b"", _hashes(value["proof"]), line=line, data=_body(body))
    if kind == "erased":
        _keys(value, "erased", "index", "id", "name", "leaf", "proof")
        leaf, proof = _hashes([value["leaf"]])[0], _hashes(value["proof"])
        return EventLine(_number(value["index"]), None, leaf, proof, _text(value["id"]), _text(value["name"]), line)
    _keys(value, "hash", "start", "end", "hash")
    return HashLine(_number(value["start"]), _number(value["end"]), _hashes([value["hash"]])[0], line)


def _body(text: str) -> dict[str, Any]:
    """The body's own fields, as far as they can be read; whether it is genuine is the proof's business."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _keys(value: dict[str, Any], kind: str, *names: str) -> None:
    if value.get("type") != kind or value.keys() != {"type", *names}:
        raise Malformed(f"no {kind} line, or not its fields")


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise Malformed("an index is a whole number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Malformed("a text was expected")
    return value


def _hashes(values: object) -> list[bytes]:
    if not isinstance(values, list):
        raise Malformed("a list of hashes was expected")
    try:
        found = [base64.b64decode(_text(value), validate=True) for value in values]
    except binascii.Error as error:
        raise Malformed("a hash is not base64") from error
    if any(len(raw) != 32 for raw in found):
        raise Malformed("a hash has 32 bytes")
    return found


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
