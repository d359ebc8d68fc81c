"""Try rules on their samples: the small stories in ``*.samples.yml`` beside each rule file.

A sample passes if exactly the expected rules alert. Every alerting rule needs one sample that expects it and one, in the
same file, that does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import yaml

from lachan import clock
from lachan.identity.principal import PrincipalKind
from siem_rules.binding import Known, bind
from siem_rules.delivery import Delivery, Sender
from siem_rules.engine import Engine
from siem_rules.errors import RuleInvalid
from siem_rules.ruleset import RULES, RuleSet
from siem_rules.schema.event import Place, parse
from siem_rules.schema.times import Clocks

_CAMERA = Known("0", "camera", "sample", "sample")
_SPEAKER = Sender("device:0", PrincipalKind.DEVICE, "0", "camera")


@dataclass(frozen=True)
class SampleOutcome:
    """What became of one sample."""

    file: str
    title: str
    expected: frozenset[str]
    raised: frozenset[str]

    @property
    def passed(self) -> bool:
        """Whether exactly the expected rules alerted."""
        return self.expected == self.raised


def run(rules: RuleSet, *folders: Path) -> Iterator[SampleOutcome]:
    """Try all samples of some folders, ours by default.

    Raises:
        RuleInvalid: a sample file cannot be used, or an alerting rule lacks a sample; the file is named.
    """
    for folder in folders or (RULES,):
        for path in sorted(folder.rglob("*.samples.yml")):
            yield from _file(rules, path)
        _check_coverage(rules, folder)


def _file(rules: RuleSet, path: Path) -> Iterator[SampleOutcome]:
    from jsonschema import Draft202012Validator

    try:
        stories = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RuleInvalid(f"No YAML: {error.problem}", file=path.name, line=line) from error
    schema = orjson.loads((Path(__file__).parent / "samples.schema.json").read_bytes())
    for fault in Draft202012Validator(schema).iter_errors(stories):
        raise RuleInvalid(f"{fault.json_path}: {fault.message[:300]}", file=path.name, line=1)
    for story in stories:
        for name in story["expect"]:
            if rules.get(name) is None:
                raise RuleInvalid(f"Sample expects the unknown rule {name}.", file=path.name, line=1)
        yield SampleOutcome(
            path.name, story["title"], frozenset(story["expect"]), frozenset(raised(rules, story["lines"]))
        )


def raised(rules: RuleSet, lines: list[dict[str, Any]]) -> set[str]:
    """Names of the rules that alert on a story, told by a device of itself."""
    engine = Engine(
        rules, lambda event, subject: bind(event, subject, lambda claim, _: (_CAMERA,) if claim == "0" else ())
    )
    found: set[str] = set()
    clocks = Clocks()
    received = clock.now()
    begin = received - timedelta(hours=1)
    for document in lines:
        words = {name: value for name, value in document.items() if name not in ("after", "repeat", "every")}
        for number in range(document.get("repeat", 1)):
            at = begin + timedelta(seconds=document.get("after", 0) + number * document.get("every", 0))
            line = orjson.dumps({"@timestamp": at.isoformat(), **words})
            delivery = Delivery(_SPEAKER, min(at, received), "", (None,), (line,))  # told as it happens
            event = parse(delivery, 0, clocks=clocks, place=Place("", engine.counters["lines"], 0))
            engine.counters["lines"] += 1
            found |= {finding.rule.name for finding in engine.process(event, received=received.timestamp())}
    return found


def _check_coverage(rules: RuleSet, folder: Path) -> None:
    expected: set[str] = set()
    silent: set[str] = set()
    for path in folder.rglob("*.samples.yml"):
        for story in yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader):
            expected |= set(story["expect"])
            if not story["expect"]:
                silent.add(path.name.removesuffix(".samples.yml"))
    for rule in rules.all:
        stem = rule.file.removesuffix(".yml")
        if rule.alerts and (rule.name not in expected or stem not in silent):
            raise RuleInvalid(
                f"Rule {rule.name} needs a sample that raises it and one that raises nothing.",
                file=f"{stem}.samples.yml",
                line=1,
            )
