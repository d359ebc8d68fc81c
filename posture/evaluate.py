"""Criteria, observations and a declaration in; one verdict per criterion out. A pure function: it opens nothing.

The rules, in order, for one criterion:

1. no instrument asks for it on the day ``as_of`` → not_applicable;
2. a probe saw the contrary → fail, whatever is declared: observation beats declaration;
3. the declaration takes the row out → not_applicable; or itself admits the fault → fail;
4. a probe could not look (unreachable, not authorised, error) → unknown, with that reason;
5. every probe of the row confirms it → pass, observed;
6. it is declared, and either no probe is asked for or ours looked and found nothing against it → pass, declared;
7. else unknown: no_declaration, not_confirmed, not_implemented, needs_human, no_engagement. Silence is never a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

from lachan import clock
from posture.catalogue import Can, Catalogue, Criterion, CriterionCondition, Primary
from posture.probes.observation import Observation, Outcome
from posture.probes.run import PROBES

HANOI = timezone(timedelta(hours=7))  # a law begins at midnight there
OBSERVED_FOR = timedelta(days=30)
DECLARED_FOR = timedelta(days=365)
IMPLEMENTED = frozenset(name for names in PROBES.values() for name in names)
_BLIND = (Outcome.NOT_AUTHORISED, Outcome.UNREACHABLE, Outcome.NOT_TRIED, Outcome.ERROR)


class Result(StrEnum):
    """The four verdicts."""

    PASS = "pass"
    FAIL = "fail"
    NOT_APPLICABLE = "not_applicable"
    UNKNOWN = "unknown"


class Basis(StrEnum):
    """What a verdict rests on."""

    OBSERVED = "observed"
    DECLARED = "declared"
    RECORDED = "recorded"
    ATTESTED = "attested"
    CERTIFIED = "certified"
    HUMAN = "human"
    CATALOGUE = "catalogue"
    NONE = "none"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one criterion.

    Attributes:
        criterion: id of the row.
        result: one of four.
        reason: stable code.
        basis: what it rests on.
        detail: one sentence for people.
        evidence: digests of the observations or the declaration it rests on.
        valid_until: after that it counts as unknown (``stale``); None where nothing can go stale.
    """

    criterion: str
    result: Result
    reason: str
    basis: Basis
    detail: str
    evidence: tuple[str, ...] = ()
    valid_until: datetime | None = None

    def at(self, moment: datetime) -> Verdict:
        """Give the verdict as it stands at a moment: unknown once its evidence has expired."""
        if self.valid_until is None or moment < self.valid_until or self.result is Result.UNKNOWN:
            return self
        detail = f"was {self.result} until {self.valid_until:%Y-%m-%d}; the evidence has expired"
        return Verdict(self.criterion, Result.UNKNOWN, "stale", Basis.NONE, detail, self.evidence, self.valid_until)


@dataclass(frozen=True)
class Declaration:
    """A manufacturer's declaration: id and digest of the stored one, and its document."""

    id: str
    digest: str
    document: Mapping[str, Any]


def legal_day(moment: datetime) -> date:
    """Give the calendar day in Hà Nội: instruments begin and end at midnight there."""
    return moment.astimezone(HANOI).date()


def evaluate(
    catalogue: Catalogue,
    observations: Iterable[Observation],
    declaration: Declaration | None,
    *,
    as_of: date,
    at: datetime,
) -> tuple[Verdict, ...]:
    """Judge one device on every criterion that speaks of a device.

    Args:
        catalogue: the criteria.
        observations: what probes saw; older than `OBSERVED_FOR` is left out as expired.
        declaration: the manufacturer's, for this vendor and model.
        as_of: day for which the instruments are asked.
        at: moment of the evaluation, for expiry.

    Returns:
        One verdict per criterion, in the catalogue's order.
    """
    fresh = [o for o in observations if clock.parse(o.at) + OBSERVED_FOR > at]
    judge = _Judge(catalogue, fresh, declaration, as_of, at)
    return tuple(judge.verdict(row) for row in catalogue.device_criteria())


def holds(condition: CriterionCondition, document: Mapping[str, Any], *, as_of: date) -> bool | None:
    """Tell whether one line of a declaration holds; None when its field is not declared.

    Raises:
        ValueError: the condition's test is unknown (a mistake in bindings.yaml).
    """
    value: Any = document
    for step in condition.field.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    match condition.test:
        case "present":
            return bool(value) or value == 0
        case "is":
            return bool(value == condition.value)
        case "in":
            return value in condition.value
        case "future":
            return date.fromisoformat(value) > as_of
        case "at_most":
            return bool(value <= condition.value)
    raise ValueError(f"unknown test {condition.test!r}")


@dataclass(frozen=True)
class _Judge:
    """The rules of this module, over one device."""

    catalogue: Catalogue
    observations: list[Observation]
    declaration: Declaration | None
    as_of: date
    at: datetime

    def verdict(self, row: Criterion) -> Verdict:
        if row.instruments and not self.catalogue.in_force(row, self.as_of):
            text = f"no instrument asks for this on {self.as_of}"
            return Verdict(row.id, Result.NOT_APPLICABLE, "not_in_force", Basis.CATALOGUE, text)
        seen = [o for o in self.observations if o.probe in row.probes]
        against = [o for o in seen if o.outcome is Outcome.CONTRADICTS]
        if against:
            return self._fail_observed(row, against)
        undeclared = self._undeclared(row, seen)
        if undeclared:
            return undeclared
        return self._by_declaration(row) or self._blind(row, seen) or self._positive(row, seen) or self._open(row, seen)

    def _fail_observed(self, row: Criterion, against: list[Observation]) -> Verdict:
        texts = list(dict.fromkeys(f"{o.detail} (port {o.port})" if o.port else o.detail for o in against))
        detail = "; ".join(texts)
        if self._declared(row):
            detail += "; its declaration says otherwise"
        digests = tuple(o.digest for o in against)
        return Verdict(row.id, Result.FAIL, against[0].code, Basis.OBSERVED, detail, digests, self._until(against))

    def _undeclared(self, row: Criterion, seen: list[Observation]) -> Verdict | None:
        """Hold the open ports against the declared ones: an undeclared one is a fail (TS 103 701 5.6-1)."""
        if self.declaration is None or "ports" not in self.declaration.document:
            return None
        rows = self.declaration.document["ports"]
        declared = {port["port"] for port in rows if port.get("transport", "tcp") == "tcp"}
        for sweep in seen:
            extra = sorted(set(sweep.ports) - declared)
            if extra:
                text = f"open, but not declared: {', '.join(map(str, extra))}"
                digests = (sweep.digest, self.declaration.digest)
                until = self._until([sweep])
                return Verdict(row.id, Result.FAIL, "undeclared_port", Basis.OBSERVED, text, digests, until)
        return None

    def _by_declaration(self, row: Criterion) -> Verdict | None:
        if self.declaration is None:
            return None
        document, evidence = self.declaration.document, (self.declaration.digest,)
        until = self.at + DECLARED_FOR
        out = [holds(line, document, as_of=self.as_of) for line in row.not_applicable]
        if out and all(out):
            text = f"declared: {row.not_applicable[0].field} = {row.not_applicable[0].value}"
            return Verdict(
                row.id, Result.NOT_APPLICABLE, "declared_not_applicable", Basis.DECLARED, text, evidence, until
            )
        for line in row.declared:
            if holds(line, document, as_of=self.as_of) is False:
                text = f"its own declaration does not meet this: {line.field}"
                return Verdict(row.id, Result.FAIL, "declared_fault", Basis.DECLARED, text, evidence, until)
        return None

    def _blind(self, row: Criterion, seen: list[Observation]) -> Verdict | None:
        """Unknown, when a probe of ours that the row asks for could not look."""
        if row.primary is not Primary.NETWORK:
            return None
        for outcome in _BLIND:
            first = next((o for o in seen if o.outcome is outcome), None)
            if first is not None:
                reason = {Outcome.NOT_AUTHORISED: "not_authorised", Outcome.UNREACHABLE: "unreachable"}.get(
                    outcome, first.code
                )
                text = f"{first.probe}: {first.detail}"
                return Verdict(row.id, Result.UNKNOWN, reason, Basis.NONE, text, (first.digest,))
        return None

    def _positive(self, row: Criterion, seen: list[Observation]) -> Verdict | None:
        confirmed = {o.probe for o in seen if o.outcome is Outcome.CONFIRMS}
        if row.can is Can.CONFIRM_AND_REFUTE and row.probes and confirmed.issuperset(row.probes):
            found = [o for o in seen if o.outcome is Outcome.CONFIRMS]
            text = "; ".join(dict.fromkeys(o.detail for o in found))
            digests = tuple(o.digest for o in found)
            return Verdict(row.id, Result.PASS, "confirmed", Basis.OBSERVED, text, digests, self._until(found))
        if self.declaration is None or not self._declared(row):
            return None
        if row.primary is Primary.NETWORK and not seen:
            return None  # nobody looked
        if row.primary is Primary.RECORDS and row.can is not Can.CONFIRM_DECLARED:
            return None  # our own records must say so, and do not yet
        tested = row.primary is Primary.NETWORK
        reason = "declared_and_tested" if tested else "declared"
        text = "declared, and our probes found nothing against it" if tested else "declared by the manufacturer"
        digests = (self.declaration.digest, *(o.digest for o in seen))
        until = min(self.at + DECLARED_FOR, self._until(seen) or self.at + DECLARED_FOR)
        return Verdict(row.id, Result.PASS, reason, Basis.DECLARED, text, digests, until)

    def _open(self, row: Criterion, seen: list[Observation]) -> Verdict:
        missing = [name for name in row.probes if name not in IMPLEMENTED]
        ours = [name for name in row.probes if name in IMPLEMENTED]
        waits = f"not implemented yet: {', '.join(missing)}" if missing else ""
        reason, text = "not_implemented", waits
        if row.primary is Primary.NETWORK and ours and not seen:
            reason, text = "no_engagement", "nobody was allowed to look yet, or what was seen has expired"
        elif row.primary is Primary.NETWORK and ours and row.declared and not self._declared(row):
            reason = "no_declaration"
            text = f"nothing was found against it, and the manufacturer declared nothing; {waits}".rstrip("; ")
        elif row.primary is Primary.NETWORK and not missing:
            reason, text = "not_confirmed", "; ".join(dict.fromkeys(o.detail for o in seen))
        elif row.primary in (Primary.DOCUMENT, Primary.HUMAN) and row.declared:
            fields = ", ".join(line.field for line in row.declared)
            reason, text = "no_declaration", f"the manufacturer did not declare {fields}"
        elif row.primary is Primary.HUMAN:
            reason, text = "needs_human", "a person or laboratory has to look"
        return Verdict(row.id, Result.UNKNOWN, reason, Basis.NONE, text, tuple(o.digest for o in seen))

    def _declared(self, row: Criterion) -> bool:
        """Tell whether the declaration satisfies all lines of the row."""
        if self.declaration is None or not row.declared:
            return False
        return all(holds(line, self.declaration.document, as_of=self.as_of) for line in row.declared)

    def _until(self, seen: list[Observation]) -> datetime | None:
        return min((clock.parse(o.at) + OBSERVED_FOR for o in seen), default=None)
