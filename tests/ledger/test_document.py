"""The two ways of reading and of spelling an event's line say the same; subtrees cut as the tree is cut."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lachan.ledger import document, merkle
from tests.ledger.forge import body, write

LINES = [line for line in write([body(i) for i in range(9)]) if line.startswith(b'{"type":"event"')]


def slowly(raw: bytes) -> document.EventLine:
    found = document._any(document.parse_line(raw))
    assert isinstance(found, document.EventLine)
    return found


@given(st.integers(0, 1 << 61), st.text(), st.lists(st.binary(min_size=32, max_size=32), max_size=4))
@settings(max_examples=200, deadline=None)
def test_an_event_is_spelt_and_read_alike_both_ways(index: int, text: str, proof: list[bytes]):
    steps = [document.b64(step) for step in proof]
    raw = document.encode_event(index, text, steps)
    assert raw == document.encode({"type": "event", "index": index, "body": text, "proof": steps})
    assert document._event_at_once(raw) in (slowly(raw), None)
    if index < 10**18:
        assert document._event_at_once(raw) == slowly(raw)


@given(st.sampled_from(LINES), st.data())
@settings(max_examples=1500, deadline=None)
def test_what_is_read_at_once_the_general_way_reads_alike(line: bytes, data: st.DataObject):
    """Damage a line anywhere, by letters that mean something in JSON: the short way never takes what the long way refuses."""
    place, length = data.draw(st.integers(0, len(line))), data.draw(st.integers(0, 3))
    letters = data.draw(st.text(alphabet='"\\,:{}[]=A0u \n', max_size=4))
    damaged = line[:place] + letters.encode() + line[place + length :]
    found = document._event_at_once(damaged)
    if found is not None:
        assert found == slowly(damaged)


@pytest.mark.parametrize("text", ["\ud800", "a\ud800"])
def test_half_a_letter_is_no_text(text: str):
    raw = json.dumps({"type": "event", "index": 1, "body": text, "proof": []}, separators=(",", ":")).encode() + b"\n"
    assert document._event_at_once(raw) is None
    with pytest.raises(document.Malformed):
        document.read(raw)


def cut(lo: int, hi: int, wanted: range, size: int) -> list[merkle.Range]:
    """Cut by the definition: the largest subtrees that lie inside."""
    if lo >= wanted.start and hi <= wanted.stop:
        return [(lo, hi)]
    if hi <= wanted.start or lo >= wanted.stop or hi - lo == 1:
        return []
    middle = lo + (1 << (hi - lo - 1).bit_length() - 1)
    return cut(lo, middle, wanted, size) + cut(middle, hi, wanted, size)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 21, 33, 40])
def test_a_range_is_cut_into_the_largest_subtrees(size: int):
    for lo in range(size):
        for hi in range(lo + 1, size + 1):
            assert list(merkle.subtrees(lo, hi, size)) == cut(0, size, range(lo, hi), size)
