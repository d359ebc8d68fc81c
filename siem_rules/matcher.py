"""Match events against Sigma detections: pySigma's condition tree compiled to closures.

Meaning of each value follows the Sigma specification 2.1 ("Rules", "Modifiers"):
text compares without case unless ``cased``; ``*`` and ``?`` are wildcards; a list in the event matches if any member does;
a missing field and ``null`` are the same for ``null``; ``exists`` asks for the name; ``re`` searches, with case, in time
linear in the text (`lachan.patterns`: look-around and backreferences are refused, character classes are ASCII's); numbers
compare as numbers also when the sender wrote text. Values without a field (keywords) are looked for in every text of the
event. Steps: `compile_condition` once per rule, `Matcher.matches` per event, `Matcher.explain` for the few that match.

Limits: correct, not yet fast (each rule of the log source is tried). ``expand`` is refused: placeholders need a pipeline.
"""

import ipaddress
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionItem,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.types import (
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaRegularExpressionFlag,
    SigmaString,
    SigmaTimestampPart,
    SigmaType,
    SpecialChars,
)

from lachan import patterns

Fields = Mapping[str, Any]
Test = Callable[[Fields], bool]
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "LT": operator.lt, "LTE": operator.le, "GT": operator.gt, "GTE": operator.ge, "NEQ": operator.ne,
}  # fmt: skip


_FLAGS = {
    SigmaRegularExpressionFlag.IGNORECASE: "i", SigmaRegularExpressionFlag.MULTILINE: "m",
    SigmaRegularExpressionFlag.DOTALL: "s",
}  # fmt: skip


_EXPRESSION, _KEYWORD = 20, 50  # what they cost beside a comparison, about


class Unsupported(ValueError):
    """The rule uses something that this matcher does not know; the text says what."""


@dataclass(slots=True)
class Matcher:
    """One compiled node.

    Attributes:
        test: whether fields match.
        name: the field that a leaf reads; empty for keywords, None for inner nodes.
        children: the nodes below, of inner nodes.
        negated: whether the node turns its child around.
        cost: what a test of it costs, a comparison being 1; of several, the cheap ones are asked first.
    """

    test: Test
    name: str | None = None
    children: "tuple[Matcher, ...]" = field(default=())
    negated: bool = False
    cost: int = 1

    def explain(self, fields: Fields) -> dict[str, Any]:
        """Fields and values that made the event match; what had to be absent is not among them."""
        if self.negated or not self.test(fields):
            return {}
        if self.name is not None:
            return {self.name or "message": fields.get(self.name or "message")}
        found: dict[str, Any] = {}
        for child in self.children:
            found |= child.explain(fields)
        return found


def compile_condition(node: Any) -> Matcher:
    """Give the matcher of a parsed condition.

    Raises:
        Unsupported: the condition uses what this matcher does not know.
    """
    if isinstance(node, ConditionAND | ConditionOR):
        return _whole([compile_condition(argument) for argument in node.args], every=isinstance(node, ConditionAND))
    if isinstance(node, ConditionNOT):
        child = compile_condition(node.args[0])
        inner = child.test
        return Matcher(lambda fields: not inner(fields), children=(child,), negated=True, cost=child.cost)
    if isinstance(node, ConditionFieldEqualsValueExpression):
        return _leaf(node.field, node.value)
    if isinstance(node, ConditionValueExpression):
        return Matcher(_keyword(node.value), name="", cost=_KEYWORD)
    if isinstance(node, ConditionItem):
        raise Unsupported(f"condition element {type(node).__name__}")
    raise Unsupported(f"empty or unknown condition {node!r}")


def _whole(children: Sequence[Matcher], *, every: bool) -> Matcher:
    """Give the node that wants every child, or any of them."""
    tests = tuple(child.test for child in sorted(children, key=lambda child: child.cost))

    def all_of(fields: Fields) -> bool:
        for test in tests:  # noqa: SIM110 - the builtins over a generator take twice as long
            if not test(fields):
                return False
        return True

    def any_of(fields: Fields) -> bool:
        for test in tests:  # noqa: SIM110
            if test(fields):
                return True
        return False

    cost = sum(child.cost for child in children)
    return Matcher(all_of if every else any_of, children=tuple(children), cost=cost)


def _leaf(name: str, value: SigmaType) -> Matcher:
    if isinstance(value, SigmaExpansion):
        made = _whole([_leaf(name, part) for part in value.values], every=False)
        if all(type(part) is SigmaString for part in value.values):  # one reading, one lower-casing for all of them
            made.test = _of_field(name, _strings(value.values))
        return made
    if isinstance(value, SigmaExists):
        wanted = value.exists
        return Matcher(lambda fields: (name in fields) is wanted, name=name)
    if isinstance(value, SigmaNull):
        return Matcher(lambda fields: fields.get(name) is None, name=name)
    if isinstance(value, SigmaFieldReference):
        return Matcher(_reference(name, value), name=name)
    cost = _EXPRESSION if isinstance(value, SigmaRegularExpression) else 1
    return Matcher(_of_field(name, _value(value)), name=name, cost=cost)


def _of_field(name: str, one: Callable[[Any], bool]) -> Test:
    """Give the test of a field by that of a value: a list matches if any member does, what is not there does not."""

    def test(fields: Fields) -> bool:
        found = fields.get(name)
        if found is None:
            return False
        if isinstance(found, list):
            return any(one(part) for part in found if part is not None)
        return one(found)

    return test


def _value(value: SigmaType) -> Callable[[Any], bool]:
    """Give the test of one value of the event, never None."""
    if isinstance(value, SigmaTimestampPart):
        return _timestamp_part(value)
    if isinstance(value, SigmaString):
        return _string(value)
    if isinstance(value, SigmaBool):
        wanted = str(value.boolean).lower()
        return lambda found: text(found).lower() == wanted
    if isinstance(value, SigmaNumber):
        number = value.number
        return lambda found: _number(found) == number
    if isinstance(value, SigmaRegularExpression):
        return _regular(value)
    if isinstance(value, SigmaCIDRExpression):
        return _cidr(value)
    if isinstance(value, SigmaCompareExpression):
        compare, limit = _COMPARE[value.op.name], value.number.number

        def test(found: Any) -> bool:
            number = _number(found)
            return number is not None and compare(number, limit)

        return test
    raise Unsupported(f"value of type {type(value).__name__}")


def text(found: Any) -> str:
    """Give a value of the event as rules see it: JSON's words for booleans, no trailing ``.0``."""
    if isinstance(found, str):
        return found
    if isinstance(found, bool):
        return "true" if found else "false"
    return str(found)


def _number(found: Any) -> int | float | None:
    if isinstance(found, int | float) and not isinstance(found, bool):
        return found
    if isinstance(found, str):
        try:
            return float(found)
        except ValueError:
            return None
    return None


def _string(value: SigmaString) -> Callable[[Any], bool]:
    if value.contains_placeholder():
        raise Unsupported("the modifier expand (placeholders need a processing pipeline)")
    cased = isinstance(value, SigmaCasedString)
    chosen = _glob(value.s if cased else _lower(value.s))
    if cased:
        return lambda found: chosen(text(found))
    if all(isinstance(part, str) for part in value.s):  # no wildcard: most of what rules ask, and asked of every line
        whole = "".join(_lower(value.s))
        return lambda found: (found if type(found) is str else text(found)).lower() == whole
    return lambda found: chosen(text(found).lower())


def _strings(values: Sequence[Any]) -> Callable[[Any], bool]:
    """Give the test of several texts, any of which may match."""
    for value in values:
        _string(value)  # refuses what cannot be
    globs = tuple(_glob(_lower(value.s)) for value in values)

    def test(found: Any) -> bool:
        lowered = text(found).lower()
        for glob in globs:  # noqa: SIM110
            if glob(lowered):
                return True
        return False

    return test


def _lower(parts: Sequence[Any]) -> list[Any]:
    return [part.lower() if isinstance(part, str) else part for part in parts]


def _glob(parts: Sequence[Any], *, anywhere: bool = False) -> Callable[[str], bool]:
    """Give the test of a text with wildcards, linear in the text; ``anywhere``: it may stand inside a longer one."""
    pieces = [""]
    for part in parts:
        if isinstance(part, str):
            pieces[-1] += part
        elif part == SpecialChars.WILDCARD_MULTI:
            pieces.append("")
        else:
            return _single(parts, anywhere=anywhere)
    if anywhere:
        pieces = ["", *pieces, ""]
    if len(pieces) == 1:
        only = pieces[0]
        return lambda found: found == only
    first, *middle, last = pieces
    middle = [piece for piece in middle if piece]
    if not middle:
        return lambda found: len(found) >= len(first) + len(last) and found.startswith(first) and found.endswith(last)
    if not first and not last and len(middle) == 1:
        needle = middle[0]
        return lambda found: needle in found
    return lambda found: _in_order(found, first, middle, last)


def _in_order(found: str, first: str, middle: Sequence[str], last: str) -> bool:
    """Tell whether the pieces stand in the text one after another; the leftmost place of each is the best."""
    at, end = len(first), len(found) - len(last)
    if at > end or not (found.startswith(first) and found.endswith(last)):
        return False
    for piece in middle:
        place = found.find(piece, at, end)
        if place < 0:
            return False
        at = place + len(piece)
    return True


def _single(parts: Sequence[Any], *, anywhere: bool) -> Callable[[str], bool]:
    """Give the test of a text with wildcards for one character."""
    glob = "".join(
        patterns.escape(part) if isinstance(part, str) else ".*" if part == SpecialChars.WILDCARD_MULTI else "."
        for part in parts
    )
    pattern = patterns.compile(f"(?s){glob}")
    find = pattern.search if anywhere else pattern.fullmatch
    return lambda found: find(found) is not None


def _regular(value: SigmaRegularExpression) -> Callable[[Any], bool]:
    """Give the test of a regular expression.

    Raises:
        Unsupported: it cannot be matched in linear time.
    """
    flags = "".join(sorted(_FLAGS[flag] for flag in value.flags))
    try:
        pattern = patterns.compile(f"(?{flags}){value.regexp}" if flags else str(value.regexp), captures=False)
    except patterns.PatternRefused as refused:
        raise Unsupported(f"the regular expression cannot be matched in linear time: {refused}") from refused
    return lambda found: pattern.found(text(found))


def _cidr(value: SigmaCIDRExpression) -> Callable[[Any], bool]:
    network = value.network

    def test(found: Any) -> bool:
        try:
            address = ipaddress.ip_address(text(found))
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address) in network

    return test


def _reference(name: str, value: SigmaFieldReference) -> Test:
    def test(fields: Fields) -> bool:
        mine, other = fields.get(name), fields.get(value.field)
        if mine is None or other is None:
            return False
        left, right = text(mine).lower(), text(other).lower()
        if value.starts_with and value.ends_with:
            return right in left
        if value.starts_with:
            return left.startswith(right)
        return left.endswith(right) if value.ends_with else left == right

    return test


def _timestamp_part(value: SigmaTimestampPart) -> Callable[[Any], bool]:
    part, wanted = value.timestamp_part.name, value.number

    def test(found: Any) -> bool:
        try:
            moment = datetime.fromisoformat(text(found))
        except ValueError:
            return False
        moment = moment.astimezone(UTC) if moment.tzinfo else moment
        number: int = moment.isocalendar().week if part == "WEEK" else getattr(moment, part.lower())
        return number == wanted

    return test


def _keyword(value: SigmaType) -> Test:
    if isinstance(value, SigmaExpansion):
        tests = [_keyword(part) for part in value.values]
        return lambda fields: any(test(fields) for test in tests)
    if isinstance(value, SigmaString) and not isinstance(value, SigmaCasedString):
        if value.contains_placeholder():
            raise Unsupported("the modifier expand (placeholders need a processing pipeline)")
        glob = _glob(_lower(value.s), anywhere=True)
        one: Callable[[Any], bool] = lambda found: glob(text(found).lower())  # noqa: E731
    elif isinstance(value, SigmaNumber):
        needle = str(value.number)
        one = lambda found: needle in text(found)  # noqa: E731
    else:
        one = _value(value)

    def test(fields: Fields) -> bool:
        for found in fields.values():
            if isinstance(found, list):
                if any(one(part) for part in found if part is not None):
                    return True
            elif found is not None and one(found):
                return True
        return False

    return test
