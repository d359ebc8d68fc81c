"""The form of an export: one JSON object per line, the same words for who writes and who checks (ADR 0022).

1. ``header``: format, origin, size, the signed ``checkpoint``, ``scope`` (``device_id``, ``vendor``, ``from``, ``to``; null
   means all), optionally ``since`` (an earlier signed checkpoint and the consistency proof from it).
2. In the order of the tree: ``event`` (index, ``body`` as the exact text that was hashed, inclusion ``proof``), ``erased``
   (an event whose body was erased: index, id, name, ``leaf``, proof) and ``hash`` (everything outside the scope: the hash
   of the subtree over leaves ``start`` to ``end``). Before each `SECTION` events stands a ``contents``: index, id and name
   of those events, so that one that is missing still has a name.
3. ``end``: the number of lines before it and their SHA-256, against accidents; the proofs are what holds against intent.

Hashes are base64. Whoever writes or reads it needs memory for one section, however long the ledger is. Format 1, which had
one table of contents in the header, is still read. Needs nothing but the standard library. Limits: a scope is the
exporter's word; the ledger cannot prove that no event of the scope hides among the hashes.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeAlias

FORMAT, FORMAT_1 = "lachan-ledger-export/2", "lachan-ledger-export/1"
MAX_LINE = 16 << 20
SECTION = 256
Listed: TypeAlias = list[tuple[int, str, str]]
Entry: TypeAlias = "EventLine | HashLine"
_EVENT = re.compile(r'\{"type":"event","index":(0|[1-9][0-9]{0,17}),"body":(?=")')
_PROOF = ',"proof":['
_spell = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Malformed(ValueError):
    """A line is not of this form."""


@dataclass(frozen=True)
class ExportScope:
    """Which events an export holds; None means all. Times are RFC 3339 texts: from inclusive, to exclusive, as recorded."""

    device_id: str | None = None
    vendor: str | None = None
    start: str | None = None
    end: str | None = None

    @property
    def whole(self) -> bool:
        """Whether every event is in scope."""
        return self == ExportScope()

    def json(self) -> dict[str, str | None]:
        """Spell it as it stands in the header."""
        return {"device_id": self.device_id, "vendor": self.vendor, "from": self.start, "to": self.end}

    def holds(self, body: dict[str, Any]) -> bool:
        """Tell whether an event with this body belongs in it."""
        recorded = str(body.get("recorded_at", ""))
        return (
            (self.device_id is None or body.get("device_id") == self.device_id)
            and (self.vendor is None or body.get("vendor") == self.vendor)
            and (self.start is None or recorded >= self.start)
            and (self.end is None or recorded < self.end)
        )


@dataclass(frozen=True)
class Header:
    """The first line; ``contents`` only in format 1."""

    origin: object
    size: object
    checkpoint: str
    scope: ExportScope
    contents: Listed | None = None
    since: tuple[str, list[bytes]] | None = None


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event: ``body`` is None when it was erased, then ``leaf`` stands for it. ``proof`` is base64, as it was read."""

    index: int
    body: str | None
    proof: list[str]
    data: dict[str, Any]
    leaf: bytes = b""

    @property
    def own(self) -> tuple[str, str]:
        """The id and name that it claims for itself."""
        return str(self.data.get("id", "")), str(self.data.get("name", ""))


@dataclass(frozen=True, slots=True)
class HashLine:
    """The hash of a subtree outside the scope."""

    start: int
    end: int
    hash: bytes


@dataclass(frozen=True)
class Contents:
    """Index, id and name of the events that follow."""

    events: Listed = field(default_factory=list)


@dataclass(frozen=True)
class End:
    """The last line."""

    lines: int
    sha256: str


def encode(value: dict[str, Any]) -> bytes:
    """Spell one line."""
    return _spell(value).encode() + b"\n"


def encode_event(index: int, body: str, proof: Sequence[str]) -> bytes:
    """Spell an ``event`` line as `encode` would, only faster; ``proof`` is base64."""
    steps = '","'.join(proof)
    quoted = f'"{steps}"' if proof else ""
    return f'{{"type":"event","index":{index},"body":{_spell(body)}{_PROOF}{quoted}]}}\n'.encode()


def b64(raw: bytes) -> str:
    """Spell bytes as they stand in a line."""
    return base64.b64encode(raw).decode()


def hashes(values: object) -> list[bytes]:
    """Read a list of base64 hashes.

    Raises:
        Malformed: it is no list, or one of them is no base64 of 32 bytes.
    """
    if not isinstance(values, list):
        raise Malformed("a list of hashes was expected")
    try:
        found = [base64.b64decode(_text(value), validate=True) for value in values]
    except (binascii.Error, ValueError) as error:
        raise Malformed("a hash is not base64") from error
    if any(len(raw) != 32 for raw in found):
        raise Malformed("a hash has 32 bytes")
    return found


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Read lines from a file or pipe; what is longer than `MAX_LINE` comes in pieces, which are malformed."""
    while raw := file.readline(MAX_LINE):
        yield raw


def parse_line(raw: bytes) -> dict[str, Any]:
    """Read one line as an object.

    Raises:
        Malformed: it is no JSON object, repeats a key, or is not spelt as `encode` would.
    """
    try:
        value = json.loads(raw)
        same = isinstance(value, dict) and encode(value) == raw
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error
    if not same:
        raise Malformed("not spelt as an export spells it")
    found: dict[str, Any] = value
    return found


def read(raw: bytes) -> "Header | Contents | Entry | End":
    """Read any line.

    Raises:
        Malformed: it is none of the six kinds.
    """
    return _event_at_once(raw) or _any(parse_line(raw))


def _event_at_once(raw: bytes) -> EventLine | None:
    """Read an ``event`` line in a fifth of the time of the general way; None when it is not exactly one."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    begun, at = _EVENT.match(text), text.rfind(_PROOF)
    if begun is None or at < begun.end() or not text.endswith("]}\n"):
        return None
    quoted, steps = text[begun.end() : at], text[at + len(_PROOF) : -3]
    proof = steps[1:-1].split('","') if steps else []
    if steps and (not steps[0] == steps[-1] == '"' or steps.count('"') != 2 * len(proof)):
        return None
    if "\\" in steps or not steps.isprintable():
        return None
    try:
        body = json.loads(quoted)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, str) or _spell(body) != quoted:
        return None
    return EventLine(int(begun[1]), body, proof, _fields(body))


def _any(value: dict[str, Any]) -> "Header | Contents | Entry | End":
    kind = value.get("type")
    if kind == "event":
        _keys(value, "event", "index", "body", "proof")
        body = _text(value["body"])
        return EventLine(_number(value["index"]), body, _steps(value["proof"]), _fields(body))
    if kind == "erased":
        _keys(value, "erased", "index", "id", "name", "leaf", "proof")
        data, leaf = {"id": _text(value["id"]), "name": _text(value["name"])}, hashes([value["leaf"]])[0]
        return EventLine(_number(value["index"]), None, _steps(value["proof"]), data, leaf)
    if kind == "contents":
        _keys(value, "contents", "events")
        return Contents(_listed(value["events"]))
    if kind == "end":
        _keys(value, "end", "lines", "sha256")
        return End(_number(value["lines"]), _text(value["sha256"]))
    if kind == "header":
        return _header(value)
    _keys(value, "hash", "start", "end", "hash")
    start, end = _number(value["start"]), _number(value["end"])
    if end <= start:
        raise Malformed("a subtree has leaves")
    return HashLine(start, end, hashes([value["hash"]])[0])


def _header(value: dict[str, Any]) -> Header:
    if value.get("format") == FORMAT_1:
        _keys(value, "header", "format", "origin", "size", "checkpoint", "scope", "contents", "since", "made_at")
    else:
        _keys(value, "header", "format", "origin", "size", "checkpoint", "scope", "since", "made_at")
    if value["format"] not in (FORMAT, FORMAT_1):
        raise Malformed(f"the format is not {FORMAT}")
    scope, since = value["scope"], value["since"]
    if (
        not isinstance(scope, dict)
        or scope.keys() != ExportScope().json().keys()
        or not all(part is None or isinstance(part, str) for part in scope.values())
    ):
        raise Malformed("the scope is malformed")
    try:
        earlier = None if since is None else (_text(since["checkpoint"]), hashes(since["proof"]))
    except (TypeError, KeyError) as error:
        raise Malformed(f"the header is malformed: {error}") from error
    found = ExportScope(scope["device_id"], scope["vendor"], scope["from"], scope["to"])
    contents = _listed(value["contents"]) if "contents" in value else None
    return Header(value["origin"], value["size"], _text(value["checkpoint"]), found, contents, earlier)


def _listed(rows: object) -> Listed:
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 3 for row in rows):
        raise Malformed("the table of contents is malformed")
    return [(_number(i), _text(event_id), _text(name)) for i, event_id, name in rows]


def _fields(text: str) -> dict[str, Any]:
    """Read the body's own fields, as far as they can be; whether it is genuine is the proof's business."""
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


def _steps(value: object) -> list[str]:
    if not isinstance(value, list):
        raise Malformed("a list of hashes was expected")
    return [_text(step) for step in value]
