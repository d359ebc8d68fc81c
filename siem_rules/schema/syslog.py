"""Read the head of a syslog line: RFC 5424, RFC 3164, and the file format of busybox syslogd.

Limits: RFC 3164 times have no year and no zone: they are given as they stand (``lachan.time.local``) and read by
`siem_rules.schema.times`. Structured data is kept as text.
"""

import re
from datetime import UTC, datetime
from typing import Any

_PRIORITY = r"(?:<(?P<pri>\d{1,3})>)?"
_RFC5424 = re.compile(
    r"<(?P<pri>\d{1,3})>1 (?P<time>\S+) (?P<host>\S+) (?P<app>\S+) (?P<pid>\S+) (?P<msgid>\S+) (?P<sd>-|(?:\[.*?(?<!\\)\])+) ?(?P<text>.*)",
    re.DOTALL,
)
_RFC3164 = re.compile(
    _PRIORITY + r"(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) (?:(?P<host>[^\s:\[]+) )??"
    r"(?:(?P<level>[a-z]+\d?\.[a-z]+) )?(?P<app>[^\s:\[]{1,48})(?:\[(?P<pid>\d{1,10})\])?: ?(?P<text>.*)",
    re.DOTALL,
)
_SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


def parse(message: str) -> dict[str, Any]:
    """Give the head's fields, and the words behind it as ``lachan.text``; empty for text without a syslog head."""
    if message.startswith("<") and (found := _RFC5424.match(message)):
        return _modern(found)
    found = _RFC3164.match(message)
    if not found:
        return {}
    priority, moment, host, level, program, process, text = found.groups()
    fields: dict[str, Any] = {"process.name": program, "lachan.text": text, "lachan.time.local": moment}
    if host:
        fields["log.syslog.hostname"] = host
    if process:
        fields["process.pid"] = int(process)
    if level:
        fields["log.syslog.facility.name"], _, fields["log.syslog.severity.name"] = level.partition(".")
    if priority:
        _priority(fields, priority)
    return fields


def _modern(found: "re.Match[str]") -> dict[str, Any]:
    fields: dict[str, Any] = {"lachan.text": found["text"].removeprefix("\ufeff")}
    for group, name in (("host", "log.syslog.hostname"), ("app", "process.name"), ("msgid", "log.syslog.msgid")):
        if found[group] != "-":
            fields[name] = found[group]
    if found["pid"].isdecimal():
        fields["process.pid"] = int(found["pid"][:10])
    if found["time"] != "-":
        fields["@timestamp"] = found["time"]
    if found["sd"] != "-":
        fields["log.syslog.structured_data"] = found["sd"]
    _priority(fields, found["pri"])
    return fields


def _priority(fields: dict[str, Any], text: str | None) -> None:
    if text is not None and int(text) <= 191:
        fields["log.syslog.priority"] = int(text)
        fields.setdefault("log.syslog.severity.name", _SEVERITIES[int(text) & 7])


def moment(text: str) -> datetime | None:
    """Read the time of an RFC 3164 head, year and zone made up; None for a day that no month has."""
    try:
        return datetime.strptime(f"2000 {text}", "%Y %b %d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
