"""The order of firmware versions, as vendors write them.

Numbers compare as numbers, words as words, and what comes before a release (``rc``, ``beta`` …) sorts before it:
``1.9 < 1.10 < 2.0.0-rc1 < 2.0.0 < 2.0.0-p1``. Case and a leading ``v`` do not matter. Limits: a vendor whose numbers
run backwards needs releases that are flagged as downgrades.
"""

import re
from functools import total_ordering

_TOKEN = re.compile(r"\d+|[a-z]+")
_BEFORE = {"dev": -5, "alpha": -4, "a": -4, "beta": -3, "b": -3, "pre": -2, "preview": -2, "rc": -1}
_END = (0, 0, "")


@total_ordering
class Version:
    """One version text, comparable with others."""

    def __init__(self, text: str) -> None:
        self.text = text
        tokens = _TOKEN.findall(text.lower().removeprefix("v"))
        self._key = tuple(_rank(token) for token in tokens)

    def _padded(self, other: "Version") -> tuple[tuple[int, int, str], ...]:
        return self._key + (_END,) * (len(other._key) - len(self._key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._padded(other) == other._padded(self)

    def __lt__(self, other: "Version") -> bool:
        return self._padded(other) < other._padded(self)

    def __hash__(self) -> int:
        key = list(self._key)
        while key and key[-1] == _END:
            key.pop()
        return hash(tuple(key))


def _rank(token: str) -> tuple[int, int, str]:
    if token.isdigit():
        number = int(token)
        return (2, number, "") if number else _END  # 1.0 and 1.0.0 are the same version
    return (_BEFORE[token], 0, "") if token in _BEFORE else (1, 0, token)
