"""The content: all rules load, hold to their samples, and mistakes are named with file and line."""

import subprocess
import sys
from pathlib import Path

import pytest

from siem_rules import ruleset, samples
from siem_rules.errors import RuleInvalid
from siem_rules.matcher import compile_condition

GOOD = """title: A rule
id: 00000000-0000-4000-8000-00000000000a
name: a_rule
status: test
description: For a test.
author: test
date: 2026-11-22
level: low
logsource: {product: linux}
detection:
  sel:
    message: x
  condition: sel
lachan: {subject: host.name, outcome: attempt}
"""


def load(folder: Path, text: str) -> ruleset.RuleSet:
    """Load one file."""
    (folder / "rule.yml").write_text(text, "utf-8")
    return ruleset.load(folder)


def test_our_rules_are_five_or_more_and_each_names_its_subject() -> None:
    alerting = [rule for rule in ruleset.ours().all if rule.alerts]
    assert len(alerting) >= 5
    assert all(rule.subject and rule.outcome and rule.description for rule in alerting)
    assert all(any(tag.startswith("attack.") for tag in rule.tags) for rule in alerting)
    assert len({rule.name for rule in ruleset.ours().all}) == len(ruleset.ours().all)


@pytest.mark.parametrize("outcome", list(samples.run(ruleset.ours())), ids=lambda one: f"{one.file}: {one.title}")
def test_sample(outcome: samples.SampleOutcome) -> None:
    assert outcome.raised == outcome.expected


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("level: low", "level: loud", 8, "loud"),
        ("subject: host.name, ", "", 14, "subject"),
        ("outcome: attempt", "outcome: certain", 14, "certain"),
        ("outcome: attempt", "outcome: attempt, colour: red", 14, "colour"),
        ("author: test\n", "", 1, "author"),
        ("    message: x", "    message|nonsense: x", 10, "nonsense"),
        ("    message: x", "    message|expand: '%x%'", 10, "expand"),
        ("    message: x", "    message|re: '('", 10, "invalid"),
        ("    message: x", r"    message|re: '(?=a)b'", 10, "linear"),
        ("    message: x", r"    message|re: '(a)\1'", 10, "linear"),
        ("condition: sel", "condition: absent", 10, "absent"),
        ("title: A rule", "title: [", 3, "YAML"),
        ("title: A rule", "- title: A rule", 2, "YAML"),
        ("logsource: {product: linux}\n", "logsource: {}\n", 10, "source"),
    ],
)
def test_mistake_is_named_with_file_and_line(tmp_path: Path, before: str, after: str, line: int, words: str) -> None:
    assert before in GOOD
    with pytest.raises(RuleInvalid) as caught:
        load(tmp_path, GOOD.replace(before, after))
    assert caught.value.fields["file"] == "rule.yml"
    assert abs(caught.value.fields["line"] - line) <= 1
    assert words in str(caught.value.detail)


CORRELATION = """---
title: Many of them
id: 00000000-0000-4000-8000-00000000000b
name: many
status: test
description: For a test.
author: test
date: 2026-11-22
level: low
correlation: {type: event_count, rules: [a_rule], group-by: [source.ip], timespan: 1m, condition: {gte: 3}}
lachan: {subject: host.name, outcome: attempt}
"""


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("event_count", "value_count", "value_count"),
        ("gte: 3", "lt: 3", "gt and gte"),
        ("gte: 3", "eq: 3", "gt and gte"),
        ("gte: 3", "gte: 0", "count"),
        ("1m", "2h", "timespan"),
        ("1m", "soon", "imespan"),
        ("[a_rule]", "[nobody]", "nobody"),
    ],
)
def test_correlation_that_we_cannot_keep_is_refused(tmp_path: Path, before: str, after: str, words: str) -> None:
    assert len(load(tmp_path, GOOD + CORRELATION).all) == 2
    with pytest.raises(RuleInvalid) as caught:
        load(tmp_path, GOOD + CORRELATION.replace(before, after))
    assert words in caught.value.detail
    assert caught.value.fields["file"] == "rule.yml"


def test_id_twice_and_missing_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuleInvalid, match="id is taken"):
        load(tmp_path, GOOD + "---\n" + GOOD)
    with pytest.raises(RuleInvalid, match="needs a sample"):
        list(samples.run(load(tmp_path, GOOD), tmp_path))


def test_rule_that_is_switched_off_takes_its_correlations_along() -> None:
    left = ruleset.ours().without(["ssh_login_refused"])
    assert {"ssh_login_refused", "ssh_login_storm", "ssh_login_after_storm"}.isdisjoint(rule.name for rule in left.all)
    assert "loader_fetch" in {rule.name for rule in left.all}


def test_keywords_fields_and_absence() -> None:
    def matches(detection: str, **fields: object) -> bool:
        from sigma.collection import SigmaCollection

        text = f"title: t\nlogsource: {{product: x}}\ndetection: {{sel: {detection}, condition: sel}}\n"
        return compile_condition(SigmaCollection.from_yaml(text).rules[0].detection.parsed_condition[0].parsed).test(
            fields
        )

    assert matches("['needle', 'pin']", a="hay NEEDLE hay", b=1)
    assert matches("['needle']", a=["x", "a needle"])
    assert not matches("['needle']", a=None, b="hay")
    assert matches("{a: null}", b=1)
    assert matches("{a: null}", a=None)
    assert not matches("{a|exists: true}", b=1)
    assert matches("{a|exists: true}", a=None)
    assert matches("{a: true}", a=True)
    assert matches("{a: 'true'}", a=True)
    assert not matches("{a: 1}", a=True)
    assert matches("{a: 1}", a="1")
    assert matches("{a|gt: 5}", a=[1, 9])
    assert not matches("{a|gt: 5}", a="many")
    assert matches("{a|cidr: 10.0.0.0/8}", a="::ffff:10.1.2.3")
    assert not matches("{a|cidr: 10.0.0.0/8}", a="10.1.2")
    assert matches("{a|hour: 16}", a="2026-11-22T16:19:02Z")
    assert matches("{a|fieldref|endswith: b}", a="x.Root", b="root")


def test_loading_is_light() -> None:
    """The detector imports no web framework and no test-only library; its memory is mostly the database's."""
    program = (
        "import sys; import siem_rules.detector; from siem_rules import ruleset; ruleset.ours();"
        "bad = {'fastapi', 'starlette', 'uvicorn', 'elasticsearch', 'hypothesis'} & set(sys.modules);"
        "rss = [line for line in open('/proc/self/status') if line.startswith('VmRSS')][0].split()[1];"
        "print(bad or int(rss) // 1024)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert int(told) < 110, told
