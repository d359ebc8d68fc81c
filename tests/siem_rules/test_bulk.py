"""The `_bulk` format: what Elasticsearch takes is taken, what it refuses is refused in its words."""

import json
from typing import Any

import pytest

from lachan.identity import PrincipalKind
from lachan.runtime import Runtime
from siem_rules import bulk, detector, ingest, segments
from siem_rules.dedupe import Seen
from siem_rules.delivery import UNAUTHENTICATED, Delivery, Sender
from siem_rules.errors import BacklogFull
from tests.siem_rules.support import collector, detect, documents, send

DOCUMENT = b'{"message": "x"}\n'


def refused(body: bytes) -> bulk.BulkRefused:
    """The refusal of a whole body."""
    with pytest.raises(bulk.BulkRefused) as caught:
        bulk.read(body)
    return caught.value


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "request body is required"),
        (b" \n", "request body is required"),
        (b'{"create":{"_index":"l"}}\n{"a":1}', "must be terminated by a newline"),
        (b"nonsense\n" + DOCUMENT, "Malformed action/metadata line [1]"),
        (b'["create"]\n' + DOCUMENT, "Malformed action/metadata line [1]"),
        (b'{"create":{"_index":"l"},"index":{}}\n' + DOCUMENT, "Malformed action/metadata line [1]"),
        (b'{"upsert":{"_index":"l"}}\n' + DOCUMENT, "found [upsert]"),
        (b'{"create":{"_index":"l"}}\n' + DOCUMENT + b'{"create":[]}\n' + DOCUMENT, "line [3]"),
        (b'{"create":{}}\n' + DOCUMENT, "index is missing"),
        (b'{"create":{"_index":7}}\n' + DOCUMENT, "VALUE_STRING"),
        (b'{"create":{"_index":"l","_id":{}}}\n' + DOCUMENT, "VALUE_STRING"),
        (b'{"create":{"_index":"l"}}\n', "expected a source line"),
    ],
)
def test_malformed_body_is_refused_whole(body: bytes, reason: str) -> None:
    error = refused(body)
    assert reason in error.document()["error"]["reason"]
    assert error.document()["status"] == error.status == 400


def test_items_stand_for_themselves(open_rt: Runtime) -> None:
    lines: list[Any] = [
        {"create": {"_index": "l", "_id": "1"}}, {"message": "good"},
        {"index": {"_index": "l"}}, {"message": "good, without id"},
        {"update": {"_index": "l", "_id": "1"}}, {"doc": {"message": "changed"}},
        {"delete": {"_index": "l", "_id": "1"}},
        {"create": {"_index": "l", "_id": "1"}}, {"message": "again"},
        {"index": {"_index": "l", "_id": "1"}}, {"message": "again"},
        {"create": {"_index": "l", "_id": ""}}, {"message": "empty id"},
        {"create": {"_index": "l"}}, "no object",
    ]  # fmt: skip
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines) + b'{"create":{"_index":"l"}}\n{"broken": \n'
    answer = send(open_rt, collector("gw"), body)
    told = [
        (action, item["status"], item.get("error", {}).get("type"))
        for entry in answer.items
        for action, item in entry.items()
    ]
    assert told == [
        ("create", 201, None), ("index", 201, None), ("update", 400, "illegal_argument_exception"),
        ("delete", 400, "illegal_argument_exception"), ("create", 201, None), ("index", 201, None),
        ("create", 400, "illegal_argument_exception"), ("create", 400, "document_parsing_exception"),
        ("create", 400, "document_parsing_exception"),
    ]  # fmt: skip
    assert answer.errors
    assert answer.items[0]["create"]["_id"] == "1"
    assert answer.items[1]["index"]["_id"]
    assert detect(open_rt).counters["repeated"] == 2


def test_line_that_is_too_long_is_refused_alone() -> None:
    body = documents({"message": "x" * bulk.LINE_BYTES}, {"message": "short"})
    assert [item.status for item in bulk.read(body)] == [400, 201]


def test_index_of_the_path_is_the_default() -> None:
    [item] = bulk.read(b'{"create":{}}\n' + DOCUMENT, default_index="logs-x")
    assert item.index == "logs-x"


def test_numbers_serve_as_ids_and_blank_lines_are_nothing() -> None:
    [item] = bulk.read(b'\n{"index":{"_index":"l","_id":7}}\n' + DOCUMENT + b"\n")
    assert item.id == "7"


def test_delivery_comes_back_as_it_was_packed() -> None:
    from lachan import clock

    delivery = Delivery(UNAUTHENTICATED, clock.now(), "b", ("i:1", None), (b'{"a":1}', '{"b":"đ"}'.encode()))
    assert Delivery.unpack(delivery.pack()) == delivery


def test_refuses_with_retry_after_when_the_detector_is_behind(open_rt: Runtime) -> None:
    ingest.instance(open_rt)._high_water = 100
    sender = Sender.of(collector("gw"))
    send(open_rt, collector("gw"), documents(*[{"message": "x" * 50}] * 10))
    ingest.instance(open_rt)._checked = 0.0
    with pytest.raises(BacklogFull) as caught:
        ingest.instance(open_rt).deliver(sender, bulk.read(documents({"message": "y"})))
    assert caught.value.status == 429
    assert caught.value.fields["retry_after"] > 0


def test_lines_that_could_not_be_kept_may_be_sent_again(open_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    way_in = ingest.instance(open_rt)

    def full(_: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(way_in._writer, "append", full)
        with pytest.raises(OSError, match="No space"):
            send(open_rt, collector("gw"), documents({"message": "x"}, ids="a"))
    answer = send(open_rt, collector("gw"), documents({"message": "x"}, ids="a"))
    assert answer.items[0]["create"]["status"] == 201


def test_ids_are_remembered_over_a_restart(open_rt: Runtime) -> None:
    send(open_rt, collector("gw"), documents({"message": "x"}, ids="a"))
    assert detect(open_rt).counters["events"] == 1
    ingest.close(open_rt)
    send(open_rt, collector("gw"), documents({"message": "x"}, ids="a"))
    counters = detect(open_rt).counters  # a detector that has read nothing yet
    assert (counters["events"], counters["repeated"]) == (0, 1)


def test_ids_are_remembered_longer_than_windows(open_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender may try again half an hour later; by then no window needs the line and the engine does not see it again."""
    monkeypatch.setattr(detector, "_LATENESS", -10_000.0)
    for _ in range(2):
        send(open_rt, collector("gw"), documents({"message": "x"}, ids="a"))
        counters = detect(open_rt).counters
    assert (counters["events"], counters["repeated"]) == (0, 1)


def test_ids_of_one_sender_push_out_nobody_elses() -> None:
    seen, quiet = Seen(1000), Sender.of(collector("quiet"))
    assert all(seen.add(quiet, f"i:{number}") for number in range(200))
    loud = [
        Sender(f"device:{number}", PrincipalKind.DEVICE, str(number), "cam", vendor="evil") for number in range(100)
    ]
    for number in range(50_000):
        assert seen.add(loud[number % 100], f"i:{number}")
    assert not any(seen.add(quiet, f"i:{number}") for number in range(200))
    assert seen.forgotten.total() == 50_000 + 200 - 1000
    assert not seen.add(loud[49_999 % 100], "i:49999"), "the newest are kept"


def test_an_id_of_one_sender_says_nothing_of_anothers() -> None:
    seen = Seen()
    assert seen.add(Sender.of(collector("a")), "i:1")
    assert seen.add(Sender.of(collector("b")), "i:1")
    seen.forget(Sender.of(collector("a")), "i:1")
    assert seen.add(Sender.of(collector("a")), "i:1")
    assert not seen.add(Sender.of(collector("b")), "i:1")


def test_line_sent_again_through_another_door_counts_once(open_rt: Runtime) -> None:
    """Each door process has its own stream; what one cannot know, the detector sees."""
    other = ingest.Ingest(segments.opened(open_rt), lag=ingest.Lag, wake=lambda: None)
    try:
        body = documents({"message": "x"}, ids="a")
        other.deliver(Sender.of(collector("gw")), bulk.read(body))
        send(open_rt, collector("gw"), body)
        counters = detect(open_rt).counters
    finally:
        other.close()
    assert (counters["events"], counters["repeated"]) == (1, 1)
