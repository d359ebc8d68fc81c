"""Regular expressions for text that strangers wrote: matched by RE2 in time linear in the text, never by backtracking.

`compile` gives a `Pattern` with the few methods that the house uses. A pattern of bytes reads bytes (Latin-1: ``.`` is any
byte), one of text reads code points. Flags are written into the pattern: ``(?i)``, ``(?s)``, ``(?m)``.

Limits: what needs backtracking is refused when it is compiled: look-around, backreferences, atomic and possessive groups,
counted repetition beyond 1000, patterns that need more than 8 MiB. The classes of digits, words, spaces and word ends are
ASCII's; what Python calls the end of the text by a capital letter is RE2's small z. A match costs 2 to 15 µs, several times what `re` takes on kind text: where every log
line pays it, `re` may stay with a pattern shown to be linear (tests/house/test_patterns.py lists those, with the reason).
"""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar, overload

import re2

Text = TypeVar("Text", str, bytes)


class PatternRefused(ValueError):
    """The pattern is none, or it needs backtracking; the text says which part."""


class Match(Generic[Text]):
    """Where a pattern matched: groups by number or name."""

    __slots__ = ("_found",)

    def __init__(self, found: Any) -> None:
        self._found = found

    def __getitem__(self, group: int | str) -> Text | None:
        """Give what a group matched, None when it took no part."""
        text: Text | None = self._found[group]
        return text

    def span(self, group: int = 0) -> tuple[int, int]:
        """Give begin and end of a group in the text."""
        begin, end = self._found.span(group)
        return int(begin), int(end)


class Pattern(Generic[Text]):
    """A compiled pattern; safe for any text of any length, from any thread."""

    __slots__ = ("_compiled", "source")

    def __init__(self, source: Text, *, captures: bool = True) -> None:
        options = re2.Options()
        options.log_errors = False
        options.never_capture = not captures
        if isinstance(source, bytes):
            options.encoding = re2.Options.Encoding.LATIN1
        try:
            self._compiled: Any = re2.compile(source, options)
        except re2.error as error:
            raise PatternRefused(_reason(error)) from error
        self.source: Text = source

    def found(self, text: Text) -> bool:
        """Tell whether it matches anywhere in the text: a third of what `search` costs."""
        octets = text if isinstance(text, bytes) else _sound(text).encode()
        return self._compiled.search(octets) is not None

    def search(self, text: Text) -> Match[Text] | None:
        """Give the leftmost match anywhere in the text."""
        return _match(self._compiled.search(_sound(text)))

    def match(self, text: Text) -> Match[Text] | None:
        """Give the match at the beginning of the text."""
        return _match(self._compiled.match(_sound(text)))

    def fullmatch(self, text: Text) -> Match[Text] | None:
        """Give the match of the whole text."""
        return _match(self._compiled.fullmatch(_sound(text)))

    def finditer(self, text: Text) -> Iterator[Match[Text]]:
        """Give the matches from left to right that do not overlap."""
        return (Match[Text](found) for found in self._compiled.finditer(_sound(text)))

    def sub(self, replacement: Text, text: Text) -> Text:
        """Give the text with every match replaced; a backslash and a digit in the replacement stand for a group."""
        made: Text = self._compiled.sub(replacement, _sound(text))
        return made

    def split(self, text: Text) -> list[Text]:
        """Give the pieces between the matches, and between them what the groups matched."""
        pieces: list[Text] = self._compiled.split(_sound(text))
        return pieces


def compile(source: Text, *, captures: bool = True) -> Pattern[Text]:  # noqa: A001 - named as everybody knows it
    """Compile a pattern of RE2's syntax; without ``captures`` its groups tell nothing, and `Pattern.found` is quicker.

    Raises:
        PatternRefused: it is no pattern, or it would need backtracking.
    """
    return Pattern(source, captures=captures)


def escape(text: str) -> str:
    """Give a pattern that matches exactly this text."""
    return str(re2.escape(_sound(text)))


def _match(found: Any) -> Match[Any] | None:
    return None if found is None else Match(found)


@overload
def _sound(text: str) -> str: ...
@overload
def _sound(text: bytes) -> bytes: ...
def _sound(text: str | bytes) -> str | bytes:
    """Give text that UTF-8 can carry: a lone surrogate, which JSON can bring in, becomes ``?``; lengths stay."""
    if isinstance(text, bytes) or text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _reason(error: Exception) -> str:
    said = error.args[0] if error.args else "unknown"
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
