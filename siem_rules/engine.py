"""The detector's mind: events in, findings out. No database, no clock: what it says depends on the events alone.

Steps for each event: the plain rules of its log source; for each match, whom it speaks of (`siem_rules.binding`); the match
joins the group (rule, principal, group-by values) of its own rule and of each correlation that counts it; satisfied moments of
a correlation are in turn matches for the correlations above it; new or grown episodes of alerting rules are findings.

Limits, all counted in `Engine.counters`: `GROUPS` groups and `ENTRIES` remembered matches in all, the least recently
touched go first; at most `ALERT_GROUPS` live groups per rule and principal become findings of their own, what comes beyond is one
finding "many", so that a flood of made-up names or addresses is one alert and not a thousand.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from siem_rules.binding import Binding
from siem_rules.matcher import text
from siem_rules.ruleset import Correlation, Rule, RuleSet
from siem_rules.schema.event import LogEvent, Place
from siem_rules.windows import Change, Condition, Entry, EventCount, Group

GROUPS = 20_000
ENTRIES = 200_000
ALERT_GROUPS = 20
#: Lines of evidence that a finding names.
EVIDENCE = 20
_MANY = ("(many)",)
_ANY = "any"
#: A group is forgotten when this many seconds beyond its span passed without a new line of it.
_IDLE = 120.0


class Hit(NamedTuple):
    """What a group remembers of a match: where the lines lie and who delivered them."""

    places: tuple[Place, ...]
    senders: frozenset[str]


@dataclass(frozen=True, slots=True)
class Finding:
    """An episode that began or grew.

    Attributes:
        rule: the rule or correlation.
        binding: whom it speaks of.
        group: the group's key as text parts; first the principal, then the group-by values.
        values: group-by field → value, for people.
        first: first satisfied moment of the episode, seconds since the epoch.
        last: last satisfied moment.
        moments: how many moments are new.
        fields: fields and values of the event that completed it.
        places: the lines that satisfied it.
        senders: labels of those who delivered them.
        opener: the line that completed it.
        count: matches in the window.
    """

    rule: Rule | Correlation
    binding: Binding
    group: tuple[str, ...]
    values: dict[str, str]
    first: float
    last: float
    moments: int
    fields: dict[str, Any]
    places: tuple[Place, ...]
    senders: frozenset[str]
    opener: Place
    count: int


class _Match(NamedTuple):
    rule: Rule | Correlation
    at: float
    hit: Hit
    fields: dict[str, Any]


class Engine:
    """State of all groups.

    Args:
        rules: what to look for.
        bind: whom an event speaks of by a subject field.
    """

    def __init__(self, rules: RuleSet, bind: Callable[[LogEvent, str], Binding]) -> None:
        self._rules, self._bind = rules, bind
        self._plan: dict[tuple[str, str, str], list[Rule]] = {}
        self._above: dict[str, list[tuple[Correlation, int]]] = {}
        for correlation in rules.correlations.values():
            for slot, identity in enumerate(correlation.inputs):
                self._above.setdefault(identity, []).append((correlation, slot))
        self._groups: dict[tuple[str, ...], Group[Hit]] = {}
        self._alert_groups: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        self._entries = 0
        self.counters: Counter[str] = Counter()

    def process(self, event: LogEvent, *, received: float) -> list[Finding]:
        """Take one event in.

        Args:
            event: the line.
            received: when it was received, seconds since the epoch; memory ages by it, never by senders' clocks.
        """
        findings: list[Finding] = []
        source = event.source
        key = (source.get("product", ""), source.get("category", ""), source.get("service", ""))
        rules = self._plan.get(key)
        if rules is None:
            rules = self._plan[key] = [rule for rule in self._rules.rules.values() if _concerns(rule, source)]
            if len(self._plan) > 2000:  # services are senders' words
                self._plan.clear()
        for rule in rules:
            if rule.matcher.test(event.fields):
                self.counters["matches"] += 1
                match = _Match(rule, event.at, Hit((event.place,), frozenset((event.sender.label,))), {})
                self._matched(match, event, received, findings)
        return findings

    def expire(self, received: float) -> None:
        """Forget groups without a line since their span; call now and then with the present moment."""
        for key, group in list(self._groups.items()):
            if group.touched + group.span + _IDLE < received:
                self._drop(key)

    @property
    def groups(self) -> int:
        """How many groups are remembered."""
        return len(self._groups)

    def _matched(self, match: _Match, event: LogEvent, received: float, findings: list[Finding]) -> None:
        rule = match.rule
        if rule.alerts and isinstance(rule, Rule):
            binding = self._bind(event, rule.subject)
            key = (rule.id, *binding.principal)
            explained = rule.matcher.explain(event.fields)
            self._add(
                match, event, received, findings, key, slot=0, target=rule, binding=binding, values={}, fields=explained
            )
        for correlation, slot in self._above.get(rule.id, ()):
            names = correlation.group_by[slot]
            values = {name: event.fields.get(name) for name in names}
            if any(value is None or isinstance(value, list) for value in values.values()):
                self.counters["missing_group_key"] += 1
                continue
            named = dict(zip(correlation.group_by[0], map(text, values.values()), strict=True))
            binding = self._bind(event, correlation.subject)
            key = (correlation.id, *binding.principal, "\0", *named.values())
            explained = rule.matcher.explain(event.fields) if isinstance(rule, Rule) else match.fields
            self._add(
                match,
                event,
                received,
                findings,
                key,
                slot=slot,
                target=correlation,
                binding=binding,
                values=named,
                fields=explained,
            )

    def _add(
        self,
        match: _Match,
        event: LogEvent,
        received: float,
        findings: list[Finding],
        key: tuple[str, ...],
        *,
        slot: int,
        target: Rule | Correlation,
        binding: Binding,
        values: dict[str, str],
        fields: dict[str, Any],
    ) -> None:
        group = self._group(key, target)
        group.touched = received
        before = len(group.entries)
        changes = group.add(match.at, slot, match.hit)
        self._entries += len(group.entries) - before
        self._shrink(key)
        for change in changes:
            if target.alerts:
                findings.append(self._finding(target, binding, key, values, group, change, fields, event.place))
            if target.id in self._above:
                for moment in change.moments:
                    entries = group.window(moment)
                    self._matched(_Match(target, moment, _merge(entries), fields), event, received, findings)

    def _group(self, key: tuple[str, ...], target: Rule | Correlation) -> Group[Hit]:
        group = self._groups.pop(key, None)
        if group is None:
            condition: Condition = target.condition if isinstance(target, Correlation) else EventCount(1)
            group = Group(condition, target.span)
        self._groups[key] = group  # newest last
        return group

    def _shrink(self, keep: tuple[str, ...]) -> None:
        while len(self._groups) > GROUPS or (self._entries > ENTRIES and len(self._groups) > 1):
            oldest = next(iter(self._groups))
            if oldest == keep:
                return
            self.counters["groups_evicted"] += 1
            self._drop(oldest)

    def _drop(self, key: tuple[str, ...]) -> None:
        group = self._groups.pop(key)
        self._entries -= len(group.entries)
        self.counters["entries_evicted"] += group.evicted
        alert_group = _alert_group(key)
        if alert_group in self._alert_groups:
            self._alert_groups[alert_group].discard(key)
            if not self._alert_groups[alert_group]:
                del self._alert_groups[alert_group]

    def _finding(
        self,
        target: Rule | Correlation,
        binding: Binding,
        key: tuple[str, ...],
        values: dict[str, str],
        group: Group[Hit],
        change: Change,
        fields: dict[str, Any],
        opener: Place,
    ) -> Finding:
        alert_groups = self._alert_groups.setdefault(_alert_group(key), set())
        group_key, named = key[1:], values
        if key not in alert_groups:
            if len(alert_groups) >= ALERT_GROUPS:
                self.counters["alert_groups_merged"] += 1
                group_key, named = (*_alert_group(key)[1:], *_MANY), dict.fromkeys(values, _MANY[0])
            else:
                alert_groups.add(key)
        entries = group.window(change.moments[0])
        merged = _merge(entries)
        return Finding(
            target, binding, group_key, named, change.episode.first, change.episode.last, len(change.moments), fields,
            merged.places, merged.senders, opener, len(entries),
        )  # fmt: skip


def _alert_group(key: tuple[str, ...]) -> tuple[str, ...]:
    """Rule and principal without what the line claims: a device, or a sender of claims."""
    return key[:3]


def _concerns(rule: Rule, source: dict[str, str]) -> bool:
    return all(value == _ANY or source.get(part) == value for part, value in rule.source.items())


def _merge(entries: list[Entry[Hit]]) -> Hit:
    places: list[Place] = []
    senders: set[str] = set()
    for entry in entries:
        senders |= entry.what.senders
        places += [place for place in entry.what.places if place not in places]
    if len(places) > EVIDENCE:  # the beginning and the end tell the story
        places = places[: EVIDENCE // 2] + places[-EVIDENCE // 2 :]
    return Hit(tuple(places), frozenset(senders))
