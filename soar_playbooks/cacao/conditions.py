r"""Conditions of if-condition steps: STIX-like comparisons over playbook variables, read once, evaluated without eval.

CACAO 2.0 section 4.7 asks for STIX patterns; what compares variables is the comparison expression of STIX 2.1 part 9:
``__severity__:value = 'high' AND __sources__:value >= 2``. Quotes are not part of the value (``\'`` and ``\\`` are its
escapes). Steps: tokens, a small recursive descent, a tree of frozen dataclasses, `Condition.holds`. Limits: variable on
the left, literal on the right; unlike types are an error when loaded, never false at run time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from soar_playbooks.cacao.model import Variable, VariableType
from soar_playbooks.errors import ConditionInvalid

_TOKEN = re.compile(
    r"""\s*(?:(?P<variable>__[a-zA-Z0-9_-]+__:value)|(?P<string>'(?:[^'\\]|\\['\\])*')
    |(?P<number>-?\d+(?:\.\d+)?)|(?P<operator><=|>=|!=|=(?!=)|<|>)|(?P<punctuation>[(),\[\]])
    |(?P<word>AND|OR|NOT|IN|true|false)\b)""",
    re.VERBOSE,
)
_KINDS: dict[VariableType, tuple[type, ...]] = {
    VariableType.STRING: (str,),
    VariableType.UUID: (str,),
    VariableType.INTEGER: (int,),
    VariableType.FLOAT: (int, float),
    VariableType.BOOL: (bool,),
}


class Operator(StrEnum):
    """The comparison operators of STIX 2.1 section 9.6.1 that are offered."""

    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    LESS_EQUAL = "<="
    GREATER = ">"
    GREATER_EQUAL = ">="
    IN = "IN"


@dataclass(frozen=True)
class Comparison:
    """One variable against one literal, or against a set of literals (``IN``)."""

    variable: str
    operator: Operator
    literals: tuple[Any, ...]
    negated: bool = False

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Compare the present value; an unset variable (None) makes every comparison but ``!=`` false."""
        value = values.get(self.variable)
        return _compare(value, self.operator, self.literals) is not self.negated


@dataclass(frozen=True)
class Junction:
    """``AND`` or ``OR`` of parts."""

    conjunction: bool
    parts: tuple[Condition, ...]

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Hold if all parts of an ``AND`` do, or any part of an ``OR``."""
        results = (part.holds(values) for part in self.parts)
        return all(results) if self.conjunction else any(results)


Condition = Comparison | Junction


def variables_of(condition: Condition) -> frozenset[str]:
    """Give the names that a condition reads."""
    if isinstance(condition, Comparison):
        return frozenset({condition.variable})
    return frozenset().union(*(variables_of(part) for part in condition.parts))


def parse(text: str, variables: Mapping[str, Variable]) -> Condition:
    """Read a condition and check its names and types.

    Args:
        text: the condition, with or without the surrounding brackets of a STIX observation.
        variables: what the playbook declares.

    Raises:
        ConditionInvalid: not readable, an undefined variable, or unlike types on the two sides.
    """
    tokens = _tokens(text)
    if tokens[:1] == [("punctuation", "[")] and tokens[-1:] == [("punctuation", "]")]:
        tokens = tokens[1:-1]
    reader = _Reader(tokens, variables, text)
    condition = reader.disjunction()
    if reader.tokens:
        raise ConditionInvalid(f"{text!r}: {reader.tokens[0][1]!r} is left over.")
    return condition


def parsed(text: str, variables: Mapping[str, Variable]) -> Condition:
    """Do `parse`, once for the same text and types."""
    return _parsed(text, frozenset((name, variable.type) for name, variable in variables.items()))


@lru_cache(maxsize=256)
def _parsed(text: str, types: frozenset[tuple[str, VariableType]]) -> Condition:
    return parse(text, {name: Variable(name=name, type=kind) for name, kind in types})


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise ConditionInvalid(f"{text!r}: not understood from {text[position:].strip()!r} on.")
        found.append((str(match.lastgroup), match.group(str(match.lastgroup))))
        position = match.end()
    return found


class _Reader:
    """Recursive descent over the tokens: OR, then AND, then comparisons and brackets."""

    def __init__(self, tokens: list[tuple[str, str]], variables: Mapping[str, Variable], text: str) -> None:
        self.tokens = tokens
        self._variables = variables
        self._text = text

    def disjunction(self) -> Condition:
        """Read ``a OR b …``."""
        parts = [self._conjunction()]
        while self._accept("OR"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Junction(False, tuple(parts))

    def _conjunction(self) -> Condition:
        parts = [self._part()]
        while self._accept("AND"):
            parts.append(self._part())
        return parts[0] if len(parts) == 1 else Junction(True, tuple(parts))

    def _part(self) -> Condition:
        if self._accept("("):
            inner = self.disjunction()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Comparison:
        kind, token = self._next()
        if kind != "variable":
            raise ConditionInvalid(f"{self._text!r}: {token!r} stands where a variable is wanted.")
        name = token.removesuffix(":value")
        if name not in self._variables:
            raise ConditionInvalid(f"{self._text!r}: variable {name} is not defined.")
        negated = self._accept("NOT")
        kind, token = self._next()
        if kind != "operator" and token != "IN":
            raise ConditionInvalid(f"{self._text!r}: {token!r} is no operator.")
        operator = Operator(token)
        literals = self._set() if operator is Operator.IN else (self._literal(),)
        _check_types(self._variables[name], operator, literals, self._text)
        return Comparison(name, operator, literals, negated)

    def _set(self) -> tuple[Any, ...]:
        self._expect("(")
        literals = [self._literal()]
        while self._accept(","):
            literals.append(self._literal())
        self._expect(")")
        return tuple(literals)

    def _literal(self) -> Any:
        kind, token = self._next()
        if kind == "string":
            return re.sub(r"\\(['\\])", r"\1", token[1:-1])
        if kind == "number":
            return float(token) if "." in token else int(token)
        if token in {"true", "false"}:
            return token == "true"
        raise ConditionInvalid(f"{self._text!r}: {token!r} stands where a value is wanted.")

    def _next(self) -> tuple[str, str]:
        if not self.tokens:
            raise ConditionInvalid(f"{self._text!r} ends too early.")
        return self.tokens.pop(0)

    def _accept(self, token: str) -> bool:
        if self.tokens and self.tokens[0][0] != "string" and self.tokens[0][1] == token:
            self.tokens.pop(0)
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise ConditionInvalid(f"{self._text!r}: {token!r} is missing.")


def _check_types(variable: Variable, operator: Operator, literals: tuple[Any, ...], text: str) -> None:
    kinds = _KINDS.get(variable.type)
    if kinds is None:
        raise ConditionInvalid(f"{text!r}: a {variable.type} cannot be compared.")
    for literal in literals:
        if type(literal) not in kinds:
            raise ConditionInvalid(f"{text!r}: {variable.name} is a {variable.type}, {literal!r} is not.")
    if variable.type is VariableType.BOOL and operator not in {Operator.EQUAL, Operator.UNEQUAL}:
        raise ConditionInvalid(f"{text!r}: a bool has no order.")


def _compare(value: Any, operator: Operator, literals: tuple[Any, ...]) -> bool:
    literal = literals[0]
    if operator is Operator.IN:
        return value in literals
    if operator is Operator.EQUAL:
        return bool(value == literal)
    if operator is Operator.UNEQUAL:
        return bool(value != literal)
    if value is None:
        return False
    if operator is Operator.LESS:
        return bool(value < literal)
    if operator is Operator.LESS_EQUAL:
        return bool(value <= literal)
    if operator is Operator.GREATER:
        return bool(value > literal)
    return bool(value >= literal)
