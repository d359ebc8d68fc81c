"""Text of strangers meets regular expressions that are linear, and nothing else: RE2's, or those listed and tried here.

Two walls. Only the modules of `LISTED` import `re`, each with the reason. And every pattern that stands at the top of one of
them, and every pattern of our JSON Schemas (which Python's `re` runs as well), is fed hostile texts made from the pattern
itself: what leads up to each repetition, then the repeated part many times over, then something that cannot match. Four
times the text may cost four times the work, not sixteen.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from re import _constants, _parser  # the parse tree of the pattern under test
from typing import Any

import pytest

from tests.house import tree

LISTED = {
    "api/answers.py": "one class of characters",
    "api/fields.py": "at most 19 digits",
    "api/files.py": "a header of bounded length; no two ways to read it",
    "api/machine.py": "our own paths as templates, one class for each part",
    "api/middleware.py": "ids of bounded length; our own path patterns",
    "api/people/console/labels.py": "whole ids and times, classes of one kind in a row",
    "api/people/idempotency.py": "our own paths",
    "api/people/redaction.py": "an id of fixed length",
    "api/people/v1/artifacts.py": "at most 18 digits",
    "lachan/blobs.py": "names of bounded length",
    "lachan/cliutil.py": "one class of characters",
    "lachan/errors.py": "names of our own classes",
    "lachan/foreign.py": "one character of classes",
    "lachan/identity/tokens.py": "fixed length",
    "lachan/launch/install.py": "our own lock; standard library only",
    "lachan/ledger/document.py": "bounded, once a line of an export that may be foreign",
    "lachan/prepared.py": "our own SQL",
    "lachan/recording.py": "lines recorded by us; bounded",
    "lachan/signer/keystore.py": "names of bounded length",
    "ota_signing/repository.py": "names of bounded length",
    "ota_signing/statement.py": "bounded; one class of characters",
    "ota_signing/versions.py": "runs of one class",
    "pki/authorities.py": "names we gave",
    "pki/names.py": "labels of bounded length",
    "siem_rules/ruleset.py": "words of the rule parser's errors",
    "siem_rules/schema/programs.py": "the detector's hot path: a fifth of what RE2 costs; 1 024 characters at most",
    "siem_rules/schema/syslog.py": "the detector's hot path: a thirtieth of what RE2 costs",
    "soar_playbooks/cacao/conditions.py": "signed playbooks",
    "soar_playbooks/cacao/reader.py": "signed playbooks",
    "soar_playbooks/cacao/variables.py": "signed playbooks, whole values",
}
"""Who may import `re`, and why that is no danger."""

SHORT = 4_000  # characters; the long text has four times as many
WORTH = 0.002  # seconds; below that nobody is held up, and the clock says nothing
STRAIGHT = 9.0  # times the work for four times the text; a quadratic pattern takes 16


def importers() -> set[str]:
    found = set()
    for path in tree.modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name in ("re", "regex", "sre_compile", "re2") for name in names):
                found.add(tree.name(path))
    return found


def test_re_is_imported_where_it_is_listed() -> None:
    assert importers() - {"lachan/patterns.py", *LISTED} == set(), "use lachan.patterns, or list the reason here"


WAYS = ("match", "fullmatch", "search", "sub", "split", "findall", "finditer")


def patterns() -> Iterator[tuple[str, re.Pattern[Any], tuple[str, ...]]]:
    """Each pattern, and the ways in which its own module uses it."""
    for name in sorted(LISTED):
        if name.startswith("lachan/launch/"):
            continue
        module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
        source = (tree.ROOT / name).read_text(encoding="utf-8")
        for key, value in vars(module).items():
            if isinstance(value, re.Pattern) and f"{key} = " in source:
                ways = tuple(way for way in WAYS if f"{key}.{way}(" in source)
                yield f"{name}:{key}", value, ways or WAYS[:2]
    for path in tree.files():
        if path.suffix == ".json" and "schema" in path.name:
            for pattern in sorted(set(_in_schema(json.loads(path.read_text(encoding="utf-8"))))):
                yield f"{tree.name(path)}:{pattern}", re.compile(pattern), ("search",)


def _in_schema(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]
        for value in part.values():
            yield from _in_schema(value)
    elif isinstance(part, list):
        for value in part:
            yield from _in_schema(value)


def sample(items: Any) -> str:
    """A shortest text that a parsed pattern matches, as far as that is easily told."""
    return "".join(_one(code, value) for code, value in items)


def _one(code: Any, value: Any) -> str:
    names = _constants
    if code is names.LITERAL:
        return chr(value)
    if code is names.NOT_LITERAL:
        return "a" if value != ord("a") else "b"
    if code is names.ANY:
        return "x"
    if code is names.IN:
        return _member(value)
    if code is names.BRANCH:
        return sample(value[1][0])
    if code is names.SUBPATTERN:
        return sample(value[3])
    if code is names.ATOMIC_GROUP:
        return sample(value)
    if code in (names.MAX_REPEAT, names.MIN_REPEAT, names.POSSESSIVE_REPEAT):
        return sample(value[2]) * max(1, value[0])
    return ""  # anchors, look-around


def _member(items: list[Any]) -> str:
    if items[0][0] is not _constants.NEGATE:
        code, value = items[0]
        if code is _constants.LITERAL:
            return chr(value)
        if code is _constants.RANGE:
            return chr(value[0])
        return {_constants.CATEGORY_DIGIT: "1", _constants.CATEGORY_SPACE: " "}.get(value, "a")
    excluded = {chr(value) for code, value in items[1:] if code is _constants.LITERAL}
    return next(character for character in "a1:'.x- " if character not in excluded)


def attacks(pattern: str, flags: int) -> Iterator[Callable[[int], str]]:
    """Texts of about n characters that ask a backtracking matcher for all it has."""
    parsed = list(_parser.parse(pattern, flags))
    for lead, pump in _pumps(parsed, ""):
        for ending in ("", "\n!", "\x00"):
            for before in (lead, ""):
                yield lambda n, b=before, p=pump, e=ending: b + p * (n // max(1, len(p))) + e
    whole = sample(parsed)
    if whole:
        yield lambda n: whole * (n // len(whole)) + "\n!"
        yield lambda n: whole[:-1] * (n // max(1, len(whole) - 1)) + "\n!"


def _pumps(items: list[Any], lead: str) -> Iterator[tuple[str, str]]:
    for place, (code, value) in enumerate(items):
        rest = sample(items[place + 1 :])
        if code in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            body = sample(value[2])
            if value[1] is _constants.MAXREPEAT or value[1] > 500:
                yield lead, body
                yield lead, body + rest
                yield lead, body + rest[: len(rest) // 2]
                yield lead, rest[:1] + body
                yield lead + body, lead + body
            yield from _pumps(list(value[2]), lead)
        elif code is _constants.SUBPATTERN:
            yield from _pumps(list(value[3]), lead)
        elif code is _constants.ATOMIC_GROUP:
            yield from _pumps(list(value), lead)
        elif code is _constants.BRANCH:
            for branch in value[1]:
                yield from _pumps(list(branch), lead)
        lead += _one(code, value)


def growth(run: Callable[[str], Any], make: Callable[[int], str], short: int = SHORT) -> float:
    """How many times the CPU a text of four times the length costs; 0 where even the long one is nothing."""

    def spent(text: str) -> float:
        times = []
        for _ in range(3):
            before = time.thread_time()
            run(text)
            times.append(time.thread_time() - before)
            if times[0] < WORTH:
                break
        return min(times)

    long = spent(make(4 * short))
    return 0.0 if long < WORTH else long / max(spent(make(short)), 1e-9)


def test_the_patterns_that_stay_with_re_are_linear() -> None:
    crooked = []
    for name, pattern, ways in patterns():
        octets = isinstance(pattern.pattern, bytes)
        source = pattern.pattern.decode("latin-1") if octets else pattern.pattern
        for make in attacks(source, pattern.flags):
            for way in ways:
                used = partial(pattern.sub, b"" if octets else "") if way == "sub" else getattr(pattern, way)
                if octets:
                    used = lambda text, use=used: use(text.encode("latin-1"))  # noqa: E731
                times = growth(
                    lambda text, used=used: list(used(text) or ()) if way == "finditer" else used(text), make
                )
                if times > STRAIGHT:
                    crooked.append((name, way, round(times, 1), make(40)))
    assert crooked == []


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"x.*?y", r"\s+x"])
def test_a_crooked_pattern_is_noticed(pattern: str) -> None:
    """The judge is judged: quadratic and worse patterns do not pass."""
    compiled = re.compile(pattern)
    found = 0.0
    for make in attacks(pattern, 0):
        short = make(24)  # an exponential one must not be given thousands
        begin = time.thread_time()
        compiled.search(short)
        if time.thread_time() - begin > 0.05:
            found = 99.0
            break
        found = max(found, growth(compiled.search, make, 400))
    assert found > STRAIGHT
