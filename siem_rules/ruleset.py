"""Load the rules: Sigma YAML in, compiled `Rule` and `Correlation` objects out.

Steps: read every ``*.yml`` (C parser); check our own part against ``rule.schema.json``; let pySigma parse the rest; compile
conditions (`siem_rules.matcher`) and windows (`siem_rules.windows`). Whatever is wrong is `RuleInvalid` with file and line.

Limits: correlations of type event_count (gt, gte), temporal and temporal_ordered (all rules), windows up to `SPAN`;
other types and conditions that more events can make false are refused, not guessed at.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import yaml

from siem_rules.errors import RuleInvalid
from siem_rules.matcher import Matcher, Unsupported, compile_condition
from siem_rules.windows import Condition, EventCount, Temporal, TemporalOrdered

#: Our own content.
RULES = Path(__file__).parent / "rules"
#: Longest window, seconds: after a restart this much of the log is read again.
SPAN = 3600
_COALESCE = "15m"


class RuleOutcome(StrEnum):
    """What a match proves."""

    ATTEMPT = "attempt"
    SUCCESS = "success"


@dataclass(frozen=True)
class Base:
    """What plain rules and correlations have in common.

    Attributes:
        id: the rule's UUID.
        name: short name, as correlations refer to it.
        subject: field that names the device an alert speaks of.
        span: window in seconds; of a plain rule, how far apart matches may be to be one alert.
        alerts: whether matches become alerts (rules that only feed a correlation do not).
    """

    id: str
    name: str
    title: str
    description: str
    level: str
    tags: tuple[str, ...]
    author: str
    file: str
    subject: str
    outcome: RuleOutcome
    span: float
    alerts: bool
    false_positives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule(Base):
    """A plain rule: one event matches or not."""

    source: dict[str, str] = field(default_factory=dict)
    matcher: Matcher = field(kw_only=True)


@dataclass(frozen=True)
class Correlation(Base):
    """A condition over the matches of other rules.

    Attributes:
        kind: Sigma's correlation type.
        inputs: id of the rule of each slot.
        group_by: per slot the fields whose values make the group.
        condition: what the window must hold.
    """

    kind: str = ""
    inputs: tuple[str, ...] = ()
    group_by: tuple[tuple[str, ...], ...] = ()
    condition: Condition = field(kw_only=True)


@dataclass(frozen=True)
class RuleSet:
    """All loaded rules by id."""

    rules: dict[str, Rule]
    correlations: dict[str, Correlation]

    def get(self, identity: str) -> Rule | Correlation | None:
        """Give a rule by id or by name."""
        return next((found for found in self.all if identity in (found.id, found.name)), None)

    @property
    def all(self) -> "list[Rule | Correlation]":
        """Plain rules, then correlations."""
        return [*self.rules.values(), *self.correlations.values()]

    def without(self, names: Iterable[str]) -> "RuleSet":
        """Give the rules without some (by id or name) and without the correlations that count them."""
        gone = {rule.id for rule in self.all if rule.id in names or rule.name in names}
        for _ in self.correlations:
            gone |= {one.id for one in self.correlations.values() if gone & set(one.inputs)}
        return RuleSet(
            {key: rule for key, rule in self.rules.items() if key not in gone},
            {key: one for key, one in self.correlations.items() if key not in gone},
        )

    @property
    def horizon(self) -> float:
        """Seconds of log that any correlation may look back over, nested ones included."""
        spans = {rule.id: 0.0 for rule in self.rules.values()}
        for _ in self.correlations:  # as many rounds as anything can be nested
            for one in self.correlations.values():
                spans[one.id] = one.span + max((spans.get(identity, 0.0) for identity in one.inputs), default=0.0)
        return max(spans.values(), default=0.0)


def load(*folders: Path) -> RuleSet:
    """Load all rules of some folders, ours by default.

    Raises:
        RuleInvalid: a file cannot be used; file and line are named.
    """
    from sigma.collection import SigmaCollection
    from sigma.exceptions import SigmaError

    parts, places = [], {}
    for folder in folders or (RULES,):
        for path in sorted(folder.rglob("*.yml")):
            if path.name.endswith(".samples.yml"):
                continue
            for document, node in _documents(path):
                _check(document, node, path.name)
                if document["id"] in places:
                    raise RuleInvalid("This id is taken.", file=path.name, line=_line(node, ["id"]))
                places[document["id"]] = (path.name, node)
                parts.append(_sigma(document, path.name, node))
    try:
        collection = SigmaCollection.merge(parts)  # and resolve who counts whose matches
    except SigmaError as error:
        raise RuleInvalid(str(error), file=_file_of(error, places), line=1) from error
    return _compile(collection, places)


@cache
def ours() -> RuleSet:
    """Our own rules, loaded once per process."""
    return load()


def _documents(path: Path) -> Iterable[tuple[dict[str, Any], yaml.Node]]:
    loader = yaml.CSafeLoader(path.read_bytes())
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            document = loader.construct_document(node)
            if not isinstance(document, dict):
                raise RuleInvalid("A rule is a mapping.", file=path.name, line=node.start_mark.line + 1)
            yield _plain(document), node
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RuleInvalid(f"No YAML: {error.problem}", file=path.name, line=line) from error
    finally:
        loader.dispose()


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Give the document with dates as text, as the schema and pySigma want them."""
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in document.items()}


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(orjson.loads((Path(__file__).parent / "rule.schema.json").read_bytes()))


def _check(document: dict[str, Any], node: yaml.Node, file: str) -> None:
    for error in sorted(_validator().iter_errors(document), key=lambda error: list(map(str, error.absolute_path))):
        raise RuleInvalid(error.message[:300], file=file, line=_line(node, list(error.absolute_path)))


def _line(node: yaml.Node, path: list[Any]) -> int:
    """Give the line of the deepest part of a path that exists."""
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = [value for key, value in node.value if key.value == step]
            if not found:
                break
            node = found[0]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
    return int(node.start_mark.line) + 1


def _sigma(document: dict[str, Any], file: str, node: yaml.Node) -> Any:
    from sigma.collection import SigmaCollection
    from sigma.exceptions import SigmaError

    try:
        return SigmaCollection.from_dicts([document], resolve_references=False)
    except SigmaError as error:
        part = next((part for part in ("correlation", "detection") if part in document), "title")
        raise RuleInvalid(f"{type(error).__name__}: {error}", file=file, line=_line(node, [part])) from error


def _file_of(error: Exception, places: dict[str, tuple[str, yaml.Node]]) -> str:
    named = re.search(r"'([^']+)'", str(error))
    for file, node in places.values():
        if named and named[1] in yaml.serialize(node):
            return file
    return ""


def _compile(collection: Any, places: dict[str, tuple[str, yaml.Node]]) -> RuleSet:
    from sigma.correlations import SigmaCorrelationRule
    from sigma.exceptions import SigmaError

    rules, correlations = {}, {}
    for found in collection.rules:
        file, node = places[str(found.id)]
        part = "correlation" if isinstance(found, SigmaCorrelationRule) else "detection"
        try:
            if isinstance(found, SigmaCorrelationRule):
                correlations[str(found.id)] = _correlation(found, file)
            else:
                rules[str(found.id)] = _rule(found, file)
        except (SigmaError, Unsupported) as error:
            raise RuleInvalid(f"Not supported: {error}", file=file, line=_line(node, [part])) from error
    return RuleSet(rules, correlations)


def _common(found: Any, file: str) -> dict[str, Any]:
    ours_only = found.custom_attributes["lachan"]
    return {
        "id": str(found.id), "name": found.name, "title": found.title, "description": found.description or "",
        "level": str(found.level.name).lower(), "tags": tuple(str(tag) for tag in found.tags), "author": found.author or "",
        "file": file, "subject": ours_only["subject"], "outcome": RuleOutcome(ours_only["outcome"]), "alerts": ours_only.get("alert", found._output),
        "false_positives": tuple(found.falsepositives or ()),
    }  # fmt: skip


def _rule(found: Any, file: str) -> Rule:
    conditions = [compile_condition(condition.parsed) for condition in found.detection.parsed_condition]
    matcher = conditions[0]
    if len(conditions) > 1:
        tests = [one.test for one in conditions]
        matcher = Matcher(lambda fields: any(test(fields) for test in tests), children=tuple(conditions))
    source = {
        part: str(getattr(found.logsource, part)).lower()
        for part in ("product", "category", "service")
        if getattr(found.logsource, part)
    }
    span = _seconds(found.custom_attributes["lachan"].get("coalesce", _COALESCE))
    return Rule(**_common(found, file), span=span, source=source, matcher=matcher)


def _correlation(found: Any, file: str) -> Correlation:
    span = float(found.timespan.seconds)
    if not 0 < span <= SPAN:
        raise Unsupported(f"timespan of {span:.0f} s; at most {SPAN} s")
    inputs = tuple(str(reference.rule.id) for reference in found.referenced_rules)
    fields = tuple(found.group_by or ())
    mapped = []
    for reference in found.referenced_rules:
        aliases = {
            alias.alias: name
            for alias in found.aliases
            for ref, name in alias.mapping.items()
            if ref.reference in (reference.reference, reference.rule.name, str(reference.rule.id))
        }
        mapped.append(tuple(aliases.get(name, name) for name in fields))
    kind = found.type.name.lower()
    return Correlation(
        **_common(found, file), span=span, kind=kind, inputs=inputs, group_by=tuple(mapped),
        condition=_condition(kind, found.condition, len(inputs)),
    )  # fmt: skip


def _condition(kind: str, condition: Any, slots: int) -> Condition:
    operator = getattr(getattr(condition, "op", None), "name", "")
    if operator not in ("GT", "GTE"):
        raise Unsupported(
            "only the conditions gt and gte (others can become false again, and wait for a later release)"
        )
    at_least = condition.count + (operator == "GT")
    if kind == "event_count":
        if not 1 <= at_least <= 1000:
            raise Unsupported(f"a count of {at_least}; 1 to 1000")
        return EventCount(at_least, slots)
    if at_least != slots:
        raise Unsupported(f"{kind} with {at_least} of {slots} rules; all of them are asked for")
    return Temporal(slots) if kind == "temporal" else TemporalOrdered(slots)


def _seconds(text: str) -> float:
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]
