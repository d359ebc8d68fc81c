"""Move recorded log lines to another time: a replay moves every time by one constant and changes nothing else."""

import json
import re
from datetime import UTC, datetime, timedelta

_HEAD = re.compile(r"^(?:<\d{1,3}>)?(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) ")


def shift(body: bytes, to: datetime) -> bytes:
    """Move all times of a `_bulk` body by the constant that brings its earliest line to ``to``.

    Both ``@timestamp`` and the time in the syslog head move; ``_id``, order and words stay.

    Args:
        body: action and document lines in turn, each document with an ``@timestamp``.
        to: aware moment of the earliest line.

    Raises:
        ValueError: a document has no ``@timestamp`` in RFC 3339.
    """
    lines = body.decode("utf-8").splitlines()
    documents = [json.loads(line) for line in lines[1::2]]
    if not documents or any("@timestamp" not in document for document in documents):
        raise ValueError("each document of a recording has an @timestamp")
    times = [datetime.fromisoformat(document["@timestamp"]) for document in documents]
    constant = to.astimezone(UTC) - min(times)
    for document, time in zip(documents, times, strict=True):
        document["@timestamp"] = (time + constant).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if "message" in document:
            document["message"] = _move_head(document["message"], time, constant)
    lines[1::2] = map(json.dumps, documents)
    return ("\n".join(lines) + "\n").encode()


def _move_head(message: str, time: datetime, constant: timedelta) -> str:
    found = _HEAD.match(message)
    if found is None:
        return message
    head = datetime.strptime(f"{time.year} {found['time']}", "%Y %b %d %H:%M:%S").replace(tzinfo=UTC) + constant
    return message[: found.start("time")] + f"{head:%b} {head.day:2} {head:%H:%M:%S}" + message[found.end("time") :]
