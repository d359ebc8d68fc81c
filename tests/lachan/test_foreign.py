"""What strangers write, read strictly: two readings are none, and the fault's place is named."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lachan import cliutil, foreign
from lachan.foreign import BadText

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"a": 1, "a": 2}', "a"), ('{"a": {"b": 1, "b": 1}}', "a.b"), ('[{"a": 1}, {"b": 1, "b": 2}]', "1.b"),
        ('{"a": NaN}', "a"), ('{"a": -Infinity}', "a"), ('{"a": 1e999}', "a"), ('{"a": [1, 9223372036854775808]}', "a.1"),
        ('{"a": -9223372036854775809}', "a"), ('{"a": ' + "1" * 5000 + "}", "a"),
        ('{"a": "x\\u0000"}', "a"), ('{"a": "\\ud800"}', "a"), ('{"a": "\\u0085"}', "a"), ('{"a": "\\u202edcba"}', "a"),
        ('{"a": "\\u200f"}', "a"), ('{"a": "\\u001b[2J"}', "a"), ('{"a": "\\u007f"}', "a"), ('{"a\\u0000": 1}', ""),
        ("[" * 100_000, ""), ("[" * 40 + "]" * 40, ".".join("0" * 33)), ("{", ""), ("", ""), ('{"a": 1} x', ""), ('{"a": 1_000}', ""),
        ("[" + "1," * 60_000 + "1]", ""), ("{'a': 1}", ""), ("\ufeff{}", ""),
    ],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_is_refused_by_its_place(text: str, place: str) -> None:
    with pytest.raises(BadText) as caught:
        foreign.loads(text.encode("utf-8", "surrogatepass"))
    assert caught.value.fields.get("field", "") == place
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize("octets", [b'{"a": "\xff"}', b'{"a": "\xed\xa0\x80"}', '{"a": 1}'.encode("utf-16")])
def test_what_is_no_utf_8_is_refused(octets: bytes) -> None:
    with pytest.raises(BadText):
        foreign.loads(octets)


@pytest.mark.parametrize("text", ["Bà Triệu\n\tNgõ 5", "Ba\u0301", "👩‍👩‍👧", "\u200d", "~"])
def test_text_of_people_is_text(text: str) -> None:
    assert foreign.flaw(text) is None
    assert foreign.loads(json.dumps({"a": text}).encode()) == {"a": text}


@given(JSON)
def test_what_is_taken_is_read_as_everybody_reads_it(value: object) -> None:
    octets = json.dumps(value).encode()
    try:
        found = foreign.loads(octets)
    except BadText:
        assert any(foreign.flaw(one) for one in _texts(value))
    else:
        assert found == json.loads(octets)


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(octets: bytes) -> None:
    try:
        value = foreign.loads(octets)
    except BadText:
        return
    assert not any(isinstance(one, float) and not math.isfinite(one) for one in [value])


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, one in value.items() for text in (key, *_texts(one))]
    return [text for one in value for text in _texts(one)] if isinstance(value, list) else []


def test_json_for_terminals_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    cliutil.show({"name": "Bà\u202e\x9b2J"}, as_json=True)
    out = capsys.readouterr().out
    assert out.isascii() and json.loads(out) == {"name": "Bà\u202e\x9b2J"}
