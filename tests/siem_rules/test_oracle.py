"""Our matcher and our windows against SQL made by somebody else: pysigma-backend-sqlite is the oracle.

The same random rules and events go to both. The oracle's answers come from SQLite over sorted data, ours from closures and
from events in a random order.
"""

import json
import random
import sqlite3
from typing import Any

import pytest
import yaml
from sigma.backends.sqlite import sqliteBackend
from sigma.collection import SigmaCollection

from lachan.identity.principal import PrincipalKind
from siem_rules.binding import Binding
from siem_rules.delivery import Sender
from siem_rules.engine import Engine, Finding
from siem_rules.matcher import compile_condition
from siem_rules.ruleset import RuleSet, _compile
from siem_rules.schema.event import LogEvent, Place
from siem_rules.windows import EventCount, Group

WORDS = [
    "admin",
    "root",
    "Root",
    "tmp",
    "/tmp/x",
    "wget http://a/b",
    "-k value",
    "/k value",
    "a*b",
    "a?b",
    "50%",
    "a_b",
    "c:\\win",
    "",
    "ROOTkit",
]
ADDRESSES = ["10.0.0.1", "10.0.1.9", "192.168.7.7", "fe80::1", "2001:db8::5"]
SENDER = Sender("collector:oracle", PrincipalKind.COLLECTOR, "o", "oracle")
UNBOUND = Binding(False, None, "", "", ("claim", SENDER.label, ""))


def escaped(word: str, chance: random.Random) -> str:
    """A Sigma value that means the word, or one with wildcards in it."""
    literal = word.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")
    if literal and chance.random() < 0.25:
        cut = chance.randrange(len(word))
        return word[:cut].replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?") + chance.choice("*?")
    return literal


def item(chance: random.Random) -> tuple[str, Any]:
    """One random detection item: field with modifiers, and values."""
    text = lambda: escaped(chance.choice(WORDS), chance)  # noqa: E731
    some = lambda make: [make() for _ in range(chance.randint(1, 3))]  # noqa: E731
    kind = chance.choice(
        ["eq", "contains", "startswith", "endswith", "all", "re", "cidr", "base64", "base64offset", "wide", "windash", "cased",
         "gt", "gte", "lt", "lte", "fieldref", "null", "number", "exists"]
    )  # fmt: skip
    field = chance.choice(["user", "line"])
    word = chance.choice([w for w in WORDS if w])
    plain = word.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")
    return {
        "eq": lambda: (field, some(text)), "contains": lambda: (f"{field}|contains", some(lambda: plain[:3])),
        "startswith": lambda: (f"{field}|startswith", some(lambda: plain[:2])), "endswith": lambda: (f"{field}|endswith", some(lambda: word[-1:])),
        "all": lambda: (f"{field}|contains|all", ["o", chance.choice("rtk")]), "re": lambda: (f"{field}|re", chance.choice(["^ro+t$", "a.b", "[0-9]%", "kit$"])),
        "cidr": lambda: ("ip|cidr", chance.choice(["10.0.0.0/24", "10.0.0.0/8", "192.168.0.0/16"])),
        "base64": lambda: ("line|base64", "admin"), "base64offset": lambda: ("line|base64offset|contains", chance.choice(["admin", "root"])),
        "wide": lambda: ("line|wide|base64offset|contains", "root"), "windash": lambda: ("line|windash|contains", "-k"),
        "cased": lambda: (f"{field}|cased", chance.choice(["root", "Root", "R*"])), "gt": lambda: ("size|gt", chance.randint(0, 9)),
        "gte": lambda: ("size|gte", chance.randint(0, 9)), "lt": lambda: ("size|lt", chance.randint(0, 9)),
        "lte": lambda: ("size|lte", chance.randint(0, 9)), "fieldref": lambda: ("user|fieldref", "line"), "null": lambda: ("user", None),
        "number": lambda: ("size", chance.randint(0, 9)), "exists": lambda: ("extra|exists", chance.choice([True, False])),
    }[kind]()  # fmt: skip


def rule(number: int, chance: random.Random) -> dict[str, Any]:
    """A random rule with up to three selections."""
    selections = {
        f"sel{n}": dict(item(chance) for _ in range(chance.randint(1, 2))) for n in range(chance.randint(1, 3))
    }
    names = list(selections)
    condition = chance.choice(
        [
            "1 of sel*",
            "all of sel*",
            names[0],
            f"not {names[0]}",
            f"{names[-1]} and not {names[0]}",
            f"({names[0]} or {names[-1]})",
        ]
    )
    return {
        "title": f"rule {number}", "id": f"00000000-0000-4000-8000-{number:012d}", "name": f"r{number}",
        "logsource": {"product": "test"}, "detection": {**selections, "condition": condition},
    }  # fmt: skip


def event(chance: random.Random) -> dict[str, Any]:
    """A random event; fields may be missing."""
    import base64

    line = chance.choice(
        [
            *WORDS,
            *(base64.b64encode(w.encode()).decode() for w in ("admin", "xroot", "yyroot")),
            base64.b64encode("root".encode("utf-16le")).decode(),
        ]
    )
    whole = {"user": chance.choice(WORDS), "line": line, "ip": chance.choice(ADDRESSES), "size": chance.randint(0, 9)}
    return {name: value for name, value in whole.items() if chance.random() > 0.15} | (
        {"extra": "x"} if chance.random() < 0.5 else {}
    )


def table(events: list[dict[str, Any]]) -> sqlite3.Connection:
    """The events as the table that the oracle asks."""
    connection = sqlite3.connect(":memory:")
    connection.create_function(
        "REGEXP",
        2,
        lambda pattern, value: value is not None and __import__("re").search(pattern, str(value)) is not None,
    )
    connection.execute(
        "create table logs (user text collate nocase, line text collate nocase, ip text collate nocase, size integer, extra text collate nocase)"
    )
    connection.executemany(
        "insert into logs values (?,?,?,?,?)",
        [tuple(e.get(n) for n in ("user", "line", "ip", "size", "extra")) for e in events],
    )
    return connection


@pytest.mark.parametrize("seed", range(40))
def test_plain_rules_match_the_same_events(seed: int) -> None:
    chance = random.Random(seed)
    events = [event(chance) for _ in range(60)]
    connection = table(events)
    matches = 0
    for number in range(20):
        made = rule(number, chance)
        collection = SigmaCollection.from_dicts([made])
        [query] = sqliteBackend().convert(collection)
        wanted = {row[0] - 1 for row in connection.execute(query.replace("SELECT *", "SELECT rowid", 1))}
        matcher = compile_condition(collection.rules[0].detection.parsed_condition[0].parsed)
        found = {place for place, fields in enumerate(events) if matcher.test(fields)}
        assert found == wanted, (made, [events[place] for place in found ^ wanted])
        matches += len(found)
    assert matches
    connection.close()


NAMES = ("storm", "ordered", "nested", "together")
CORRELATIONS = """
title: refused
id: 00000000-0000-4000-8000-000000000001
name: refused
level: low
logsource: {product: test}
detection: {sel: {what: refused}, condition: sel}
lachan: {subject: host.name, outcome: attempt}
---
title: accepted
id: 00000000-0000-4000-8000-000000000002
name: accepted
level: low
logsource: {product: test}
detection: {sel: {what: accepted}, condition: sel}
lachan: {subject: host.name, outcome: attempt}
---
title: left
id: 00000000-0000-4000-8000-000000000003
name: left
level: low
logsource: {product: test}
detection: {sel: {what: left}, condition: sel}
lachan: {subject: host.name, outcome: attempt}
---
title: storm
id: 00000000-0000-4000-8000-000000000004
name: storm
lachan: {subject: host.name, outcome: attempt, alert: true}
level: low
correlation: {type: event_count, rules: [refused], group-by: [source.ip], timespan: 60s, condition: {gte: 4}}
---
title: ordered
id: 00000000-0000-4000-8000-000000000005
name: ordered
lachan: {subject: host.name, outcome: attempt, alert: true}
level: low
correlation: {type: temporal_ordered, rules: [refused, accepted, left], group-by: [source.ip], timespan: 90s}
---
title: nested
id: 00000000-0000-4000-8000-000000000006
name: nested
lachan: {subject: host.name, outcome: attempt, alert: true}
level: low
correlation: {type: temporal_ordered, rules: [storm, accepted], group-by: [source.ip], timespan: 90s}
---
title: together
id: 00000000-0000-4000-8000-000000000007
name: together
lachan: {subject: host.name, outcome: attempt, alert: true}
level: low
correlation: {type: temporal, rules: [accepted, left], group-by: [source.ip], timespan: 45s}
"""


def story(seed: int) -> list[tuple[float, str, str]]:
    """Time, address and kind of some hundred events; some at the same moment."""
    chance = random.Random(seed)
    times = sorted(1_800_000_000 + round(chance.uniform(0, 1800)) + chance.choice([0, 0.25, 0.5]) for _ in range(400))
    kinds = ["refused"] * 6 + ["accepted", "left"]
    return [(at, f"10.0.0.{chance.randint(1, 6)}", chance.choice(kinds)) for at in times]


def ask_oracle(events: list[tuple[float, str, str]]) -> dict[str, set[tuple[str, float]]]:
    """Correlation name → (group, moment) by SQL over the sorted events."""
    connection = sqlite3.connect(":memory:")
    connection.execute("create table logs (timestamp text, `source.ip` text collate nocase, what text collate nocase)")
    from datetime import UTC, datetime

    stamp = lambda at: datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")  # noqa: E731
    connection.executemany("insert into logs values (?,?,?)", [(stamp(at), ip, what) for at, ip, what in events])
    found = {}
    documents = list(yaml.safe_load_all(CORRELATIONS))
    for name in NAMES:
        parts = [
            one
            for one in documents
            if "detection" in one or one["name"] == name or (name, one["name"]) == ("nested", "storm")
        ]
        query = sqliteBackend().convert(SigmaCollection.from_dicts(parts))[-1]
        rows = connection.execute(query).fetchall()
        found[name] = {(json.loads(row[1])["source.ip"], round(row[2], 3)) for row in rows}
    connection.close()
    return found


def ask_us(
    events: list[tuple[float, str, str]], rules: RuleSet
) -> tuple[dict[str, set[tuple[str, float]]], list[Finding]]:
    """The same from our engine, moments read from its groups, plus all findings."""
    engine = Engine(rules, lambda event, subject: UNBOUND)
    findings: list[Finding] = []
    for number, (at, ip, what) in enumerate(events):
        one = LogEvent({"source.ip": ip, "what": what}, SENDER, at, Place("s", 0, number), {"product": "test"})
        findings += engine.process(one, received=at)
    found: dict[str, set[tuple[str, float]]] = {one.name: set() for one in rules.correlations.values()}
    for key, group in engine.claims.items():
        if key[0] in rules.correlations:
            found[rules.correlations[key[0]].name] |= {(key[-1], round(moment, 3)) for moment in group.moments}
    return found, findings


@pytest.mark.parametrize("seed", range(6))
def test_correlations_find_the_same_moments_in_any_order(seed: int) -> None:
    collection = SigmaCollection.from_yaml(CORRELATIONS)
    rules = _compile(collection, {str(one.id): ("c.yml", yaml.ScalarNode("", "")) for one in collection.rules})
    events = story(seed)
    wanted = ask_oracle(events)
    assert all(wanted.values()), {name: len(found) for name, found in wanted.items()}
    in_order, _ = ask_us(events, rules)
    assert in_order == wanted
    chance = random.Random(seed)
    shuffled = sorted(events, key=lambda one: one[0] + chance.uniform(0, 60))
    assert shuffled != events
    out_of_order, findings = ask_us(shuffled, rules)
    assert out_of_order == wanted
    assert {finding.rule.name for finding in findings} == set(wanted)


@pytest.mark.parametrize("seed", range(6))
def test_episodes_equal_those_of_sorted_input(seed: int) -> None:
    chance = random.Random(seed)
    group_of = lambda: Group[int](EventCount(3), 30.0)  # noqa: E731
    times = [round(chance.uniform(0, 1500), 1) for _ in range(150)]
    sorted_group, shuffled_group = group_of(), group_of()
    for at in sorted(times):
        sorted_group.add(at, 0, 0)
    for at in times:
        shuffled_group.add(at, 0, 0)
    expected = sorted((one.first, one.last) for one in sorted_group.episodes)
    assert len(expected) > 2
    assert sorted((one.first, one.last) for one in shuffled_group.episodes) == expected
    naive = [m for m in sorted(set(times)) if sum(m - 30 <= t <= m for t in times) >= 3]
    assert sorted_group.moments == naive
