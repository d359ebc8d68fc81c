"""`LogEvent`: one log line as rules see it: flat ECS fields, its log source, its time, and who delivered it.

Steps: flatten the sender's JSON to dotted names; read the syslog text in ``message``; read what the program says
(`siem_rules.schema.programs`); class what it says of its time (`siem_rules.schema.times`). ECS 8 names throughout; what ECS has no name for stands under
``lachan.``. A sender cannot write ``lachan.*`` fields: those are ours.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from siem_rules.delivery import Delivery, Sender
from siem_rules.schema import programs, syslog
from siem_rules.schema.times import Clocks, believed, claim_of, iso

#: Nested deeper than this is not a log line.
_DEPTH = 12
_FIELDS = 400
#: ECS event.category → Sigma's category, for senders that structure their lines themselves.
_CATEGORIES = {"process": "process_creation", "authentication": "authentication"}


class Place(NamedTuple):
    """Where a line lies: stream, offset of its record, place in the record."""

    stream: str
    offset: int
    line: int


@dataclass(slots=True)
class LogEvent:
    """One line.

    Attributes:
        fields: dotted ECS names to values (text, numbers, booleans, lists of those).
        sender: who delivered it.
        at: what orders it, seconds since the epoch: its own time if that is trusted, else its receipt.
        place: where the line lies in the log.
        source: log source, ``product``, ``category``, ``service``, as Sigma names them.
        received: when it was delivered.
        claimed: its own time as it says; None when it says none.
        trusted: whether ``at`` may be compared with other events' times.
    """

    fields: dict[str, Any]
    sender: Sender
    at: float
    place: Place
    source: dict[str, str] = field(default_factory=dict)
    received: float = 0.0
    claimed: float | None = None
    trusted: bool = True


def parse(delivery: Delivery, number: int, *, clocks: Clocks | None = None, place: Place | None = None) -> LogEvent:
    """Give the event of one line of a batch. A line that is no JSON object becomes an event with its text as ``message``.

    Args:
        delivery: the batch.
        number: which of its lines.
        clocks: what is known of the senders' clocks; nothing without it.
        place: where the line lies.
    """
    raw = delivery.lines[number]
    fields: dict[str, Any] = {}
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        document = {"message": raw.decode("utf-8", "replace")}
    if isinstance(document, dict):
        _flatten(document, "", fields, 0)
    if b"lachan" in raw or b"\\" in raw:  # a name may be spelt with escapes
        for name in [name for name in fields if name.startswith("lachan.")]:
            del fields[name]
    message = fields.get("message", fields.get("event.original"))
    if isinstance(message, str):
        head = syslog.parse(message)
        # The words of the program without the syslog head: rules read these, people read `message`.
        words = head.get("lachan.text", message)
        fields = head | fields if head else fields  # what the sender stated is not overwritten
        programs.enrich(fields, words)
    event = LogEvent(fields, delivery.sender, 0.0, place or Place("", 0, number), _source(fields))
    _time(event, delivery.received.timestamp(), Clocks() if clocks is None else clocks)
    return event


def _flatten(document: dict[str, Any], prefix: str, into: dict[str, Any], depth: int) -> None:
    for name, value in document.items():
        if len(into) >= _FIELDS:
            return
        kind = type(value)
        if kind is str:
            into[prefix + name] = value.replace("\0", "\ufffd") if "\0" in value else value  # as `_storable`
        elif kind is dict:
            if depth < _DEPTH:
                _flatten(value, f"{prefix}{name}.", into, depth + 1)
        elif kind is list:
            into[prefix + name] = [_storable(part) for part in value if not isinstance(part, dict | list)]
        else:
            into[prefix + name] = value


def _storable(value: Any) -> Any:
    """Give a sender's value without NUL: PostgreSQL keeps none in text, and one line must not stop the detector."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _time(event: LogEvent, received: float, clocks: Clocks) -> None:
    fields = event.fields
    told = fields.get("@timestamp")
    claim = claim_of(told)
    if claim is not None and believed(event.sender, received, claim):  # as nearly every line's is
        event.received, event.at, event.claimed = received, claim, claim
        return
    head = fields.get("lachan.time.local")
    if told is not None and claim is None:
        fields["lachan.time.unreadable"] = True
    host = fields.get("host.name") or fields.get("log.syslog.hostname") or ""
    heard = syslog.moment(head) if claim is None and isinstance(head, str) else None
    moment = clocks.judge(
        event.sender, host[:100] if isinstance(host, str) else "", received, heard if claim is None else claim
    )
    event.received, event.at, event.claimed, event.trusted = received, moment.at, moment.claimed, moment.trusted
    if heard is not None and moment.claimed is not None:
        fields["@timestamp"] = iso(moment.claimed)
    if not moment.trusted and moment.claimed is not None:
        off = round(max(-1e12, min(1e12, moment.claimed - received)))
        fields["lachan.time.trusted"] = False
        fields["lachan.time.ahead_seconds" if off > 0 else "lachan.time.late_seconds"] = abs(off)


def _source(fields: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part, names in _SOURCES:
        for name in names:
            value = fields.get(name)
            if value and isinstance(value, str):
                found[part] = value.lower()
                break
    if "category" not in found and (told := fields.get("event.category")) is not None:
        for category in told if isinstance(told, list) else [told]:
            if category in _CATEGORIES:
                found["category"] = _CATEGORIES[category]
    return found


_SOURCES = (
    ("product", ("lachan.product", "observer.product", "event.module", "host.os.type")),
    ("category", ("lachan.category",)),
    ("service", ("lachan.service", "service.name", "event.dataset", "process.name")),
)
