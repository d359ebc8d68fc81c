"""`LogEvent`: one log line as rules see it: flat ECS fields, its log source, its time, and who delivered it.

Steps: flatten the sender's JSON to dotted names; read the syslog text in ``message``; read what the program says
(`siem_rules.schema.programs`); settle the event's time. ECS 8 names throughout; what ECS has no name for stands under
``lachan.``. A sender cannot write ``lachan.*`` fields: those are ours.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from siem_rules.delivery import Delivery, Sender
from siem_rules.schema import programs, syslog

#: A line may be this far ahead of our clock; beyond it the time of receipt counts and the line says so.
AHEAD = timedelta(minutes=5)
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
        at: its own time as seconds since the epoch, after the check against our clock.
        place: where the line lies in the log.
        source: log source, ``product``, ``category``, ``service``, as Sigma names them.
    """

    fields: dict[str, Any]
    sender: Sender
    at: float
    place: Place
    source: dict[str, str] = field(default_factory=dict)


def parse(delivery: Delivery, number: int, *, stream: str = "", offset: int = 0) -> LogEvent:
    """The event of one line of a batch. A line that is no JSON object becomes an event with its text as ``message``."""
    raw = delivery.lines[number]
    fields: dict[str, Any] = {}
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        document = {"message": raw.decode("utf-8", "replace")}
    if isinstance(document, dict):
        _flatten(document, "", fields, 0)
    for name in [name for name in fields if name.startswith("lachan.")]:
        del fields[name]
    message = fields.get("message", fields.get("event.original"))
    if isinstance(message, str):
        for name, value in syslog.parse(message, received=delivery.received).items():
            fields.setdefault(name, value)
        # The words of the program without the syslog head: rules read these, people read `message`.
        programs.enrich(fields, fields.get("lachan.text", message))
    at = _time(fields, delivery.received)
    return LogEvent(fields, delivery.sender, at, Place(stream, offset, number), _source(fields))


def _flatten(document: dict[str, Any], prefix: str, into: dict[str, Any], depth: int) -> None:
    for name, value in document.items():
        if len(into) >= _FIELDS:
            return
        if isinstance(value, dict):
            if depth < _DEPTH:
                _flatten(value, f"{prefix}{name}.", into, depth + 1)
        elif isinstance(value, list):
            into[prefix + name] = [_storable(part) for part in value if not isinstance(part, dict | list)]
        else:
            into[prefix + name] = _storable(value)


def _storable(value: Any) -> Any:
    """Give a sender's value without NUL: PostgreSQL keeps none in text, and one line must not stop the detector."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _time(fields: dict[str, Any], received: datetime) -> float:
    told = fields.get("@timestamp")
    at = None
    if isinstance(told, str):
        try:
            moment = datetime.fromisoformat(told)
            at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            fields["lachan.time.unreadable"] = True
    elif isinstance(told, int | float) and not isinstance(told, bool):
        at = told / 1000  # Elasticsearch reads a bare number as milliseconds
    now = received.timestamp()
    if at is None:
        return now
    if not 0 < at <= now + AHEAD.total_seconds():
        fields["lachan.time.clamped"] = True
        fields["lachan.time.ahead_seconds"] = round(at - now)
        return now
    return at


def _source(fields: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part, names in (
        ("product", ("lachan.product", "observer.product", "event.module", "host.os.type")),
        ("category", ("lachan.category",)),
        ("service", ("lachan.service", "service.name", "event.dataset", "process.name")),
    ):
        for name in names:
            value = fields.get(name)
            if isinstance(value, str) and value:
                found[part] = value.lower()
                break
    if "category" not in found:
        told = fields.get("event.category")
        for category in told if isinstance(told, list) else [told]:
            if category in _CATEGORIES:
                found["category"] = _CATEGORIES[category]
    return found
