"""Patterns for strangers' text: what they mean, what they refuse, and that no text makes them slow."""

from __future__ import annotations

import pytest

from lachan import patterns
from tests.house.test_patterns import STRAIGHT, growth


def test_groups_positions_and_replacements() -> None:
    pattern = patterns.compile(r"(?i)(\w+)=(?:\"([^\"]*)\"|(\S+))")
    found = pattern.search("xễ Name=ab")
    assert found is not None
    assert (found[1], found[2], found[3], found.span()) == ("Name", None, "ab", (3, 10))
    assert [one[1] for one in pattern.finditer('a="1 2" b=3')] == ["a", "b"]
    assert pattern.sub(r"\1:[gone]", "pw=1, k=2") == "pw:[gone] k:[gone]"
    assert patterns.compile("(b|c)").split("abdce") == ["a", "b", "d", "c", "e"]
    assert pattern.match(" a=1") is None
    assert pattern.fullmatch("a=1 ") is None


@pytest.mark.parametrize("text", ["", "wget x", "a\twget ễ", "swget x", "ễ;wget\n", "\ud800 wget \ud800", "WGET"])
@pytest.mark.parametrize("source", [r"(^|[\s;])(wget|tftp)\s", r"(?i)^(.)get$", "ễ"])
def test_whether_is_what_where_says(source: str, text: str) -> None:
    expected = patterns.compile(source).search(text) is not None
    assert patterns.compile(source, captures=False).found(text) is expected
    assert patterns.compile(source).found(text) is expected


def test_bytes_are_bytes() -> None:
    assert patterns.compile(rb"^\xff[\xfb-\xfe]").search(b"\xff\xfd\x01")
    assert not patterns.compile(rb"^\xff").search("ÿ".encode())


def test_a_lone_surrogate_is_survived() -> None:
    found = patterns.compile("(?s)^a.b$").search("a\ud800b")
    assert found is not None
    assert found.span() == (0, 3)


def test_an_escaped_text_means_itself() -> None:
    for text in ("a.b*c", "ễ\n\t\x00", "[x](y){2}|\\", "\ud800"):
        assert patterns.compile(patterns.escape(text)).fullmatch(text), text


@pytest.mark.parametrize(
    "source", ["(?=a)", "(?<!a)b", r"(a)\1", "(?>a)", "a++", "(", "a{2000}", "(" * 2000, "x" * 9_000_000]
)
def test_what_needs_backtracking_is_refused(source: str) -> None:
    with pytest.raises(patterns.PatternRefused) as refused:
        patterns.compile(source)
    assert str(refused.value)


@pytest.mark.parametrize("source", ["(a+)+$", "(a|a)*$", r"\s+x\s+y", "a.*?a.*?a.*?b", "(?:a?){200}a{200}"])
def test_no_text_makes_them_slow(source: str) -> None:
    pattern = patterns.compile(source)
    assert growth(pattern.search, lambda n: "a" * n + " !", 20_000) < STRAIGHT
    assert growth(pattern.search, lambda n: " " * n + "!", 20_000) < STRAIGHT
