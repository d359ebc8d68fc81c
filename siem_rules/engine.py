"""The detector's mind: events in, findings out. No database, no clock: what it says depends on the events alone.

Steps for each event: the plain rules of its log source; for each match, whom it speaks of (`siem_rules.binding`); the match
joins the group (rule, principal, group-by values) of its own rule and of each correlation that counts it; satisfied moments of
a correlation are in turn matches for the correlations above it; new or grown episodes of alerting rules are findings. An event
whose time is not trusted is matched by the plain rules and found as of its receipt, and no correlation counts it: what
somebody dated at will must not look like things that happened together.

Limits: groups and matches are remembered as `siem_rules.memory` shares them out; at most `ALERT_GROUPS` live groups per rule
and principal become findings of their own, what comes beyond is one finding "many", so that a flood of made-up names or
addresses is one alert and not a thousand.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from siem_rules import memory
from siem_rules.binding import Binding
from siem_rules.matcher import text
from siem_rules.ruleset import Correlation, Rule, RuleSet
from siem_rules.schema.event import LogEvent, Place
from siem_rules.windows import Change, Condition, Entry, EventCount, Group

ALERT_GROUPS = 20
#: Lines of evidence that a finding names.
EVIDENCE = 20
#: Matches at each end of a window in which its senders are looked for.
_ENDS = 64
_MANY = ("(many)",)
_ANY = "any"
#: A group is forgotten when this many seconds beyond its span passed without a new line of it.
_IDLE = 120.0


class Hit(NamedTuple):
    """What a group remembers of a match: where the lines lie, and who delivered them when."""

    places: tuple[Place, ...]
    heard: dict[str, float]


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
        heard: label of each who delivered them → when it delivered the last one.
        opener: the line that completed it.
        count: matches in the window.
        received: when the line that completed it was delivered.
        claimed: the time which that line says, if it is not trusted.
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
    heard: dict[str, float]
    opener: Place
    count: int
    received: float
    claimed: float | None


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
        most, claims = memory.GROUPS, memory.CLAIM_GROUPS
        self.bound = memory.Pool(groups=most, entries=memory.ENTRIES, floor=memory.FLOOR, ceiling=memory.CEILING)
        self.claims = memory.Pool(groups=claims, entries=memory.CLAIM_ENTRIES, floor=0, ceiling=claims)
        self._alert_groups: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
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
                match = _Match(rule, event.at, Hit((event.place,), {event.sender.label: event.received}), {})
                self._matched(match, event, received, findings)
        return findings

    def expire(self, received: float) -> None:
        """Forget groups without a line since their span; call now and then with the present moment."""
        for pool in (self.bound, self.claims):
            for key in pool.idle(lambda group: group.touched + group.span + _IDLE < received):
                self.counters["entries_evicted"] += pool.drop(key).evicted
                self._closed(key)

    @property
    def groups(self) -> int:
        """How many groups are remembered."""
        return len(self.bound) + len(self.claims)

    @property
    def forgotten(self) -> Counter[tuple[str, str]]:
        """Give (what, label of the sender) → how much went for want of room."""
        return self.bound.forgotten + self.claims.forgotten

    def _matched(self, match: _Match, event: LogEvent, received: float, findings: list[Finding]) -> None:
        rule = match.rule
        if rule.alerts and isinstance(rule, Rule):
            binding = self._bind(event, rule.subject)
            key = (rule.id, *binding.principal)
            explained = rule.matcher.explain(event.fields)
            self._add(
                match, event, received, findings, key, slot=0, target=rule, binding=binding, values={}, fields=explained
            )
        if not event.trusted:
            self.counters["untrusted_times"] += 1
            return
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
        pool = self.bound if binding.bound else self.claims
        group = self._group(pool, key, target, event, binding)
        group.touched = received
        before = len(group.entries)
        changes = group.add(match.at, slot, match.hit)
        pool.grew(key, len(group.entries) - before)
        for change in changes:
            if target.alerts:
                findings.append(self._finding(target, binding, key, values, group, change, fields, event))
            if target.id in self._above:
                for moment in change.moments:
                    entries = group.window(moment)
                    self._matched(_Match(target, moment, _merge(entries), fields), event, received, findings)
        pool.shrink(self._closed)

    def _group(
        self, pool: memory.Pool, key: tuple[str, ...], target: Rule | Correlation, event: LogEvent, binding: Binding
    ) -> Group[Hit]:
        group = pool.get(key)
        if group is not None:
            pool.touch(key, event.sender)
            return group
        condition: Condition = target.condition if isinstance(target, Correlation) else EventCount(1)
        group = Group(condition, target.span)
        pool.open(key, group, event.sender, binding.device.id if binding.device else "")
        return group

    def _closed(self, key: tuple[str, ...]) -> None:
        """A group is gone: its place among the alerts of its rule and principal is free."""
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
        event: LogEvent,
    ) -> Finding:
        alert_groups = self._alert_groups.setdefault(_alert_group(key), set())
        group_key, named = key[1:], values
        if key not in alert_groups:
            if len(alert_groups) >= ALERT_GROUPS:
                self.counters["alert_groups_merged"] += 1
                group_key, named = (*_alert_group(key)[1:], *_MANY), dict.fromkeys(values, _MANY[0])
            else:
                alert_groups.add(key)
        entries = group.window(change.at)
        merged = _merge(entries)
        return Finding(
            target, binding, group_key, named, change.episode.first, change.episode.last, max(1, len(change.moments)), fields,
            merged.places or (event.place,), merged.heard | {event.sender.label: event.received}, event.place, len(entries),
            event.received, None if event.trusted else event.claimed,
        )  # fmt: skip


def _alert_group(key: tuple[str, ...]) -> tuple[str, ...]:
    """Rule and principal without what the line claims: a device, or a sender of claims."""
    return key[:3]


def _concerns(rule: Rule, source: dict[str, str]) -> bool:
    return all(value == _ANY or source.get(part) == value for part, value in rule.source.items())


def _merge(entries: list[Entry[Hit]]) -> Hit:
    """Give the lines at both ends, which tell the story, and who was heard there."""
    ends = entries if len(entries) <= 2 * _ENDS else [*entries[:_ENDS], *entries[-_ENDS:]]
    heard: dict[str, float] = {}
    for entry in ends:
        for label, received in entry.what.heard.items():
            heard[label] = max(received, heard.get(label, received))
    told = ends if len(ends) <= EVIDENCE else [*ends[: EVIDENCE // 2], *ends[-EVIDENCE // 2 :]]
    places = list(dict.fromkeys(place for entry in told for place in entry.what.places))
    if len(places) > EVIDENCE:
        places = places[: EVIDENCE // 2] + places[-EVIDENCE // 2 :]
    return Hit(tuple(places), heard)
