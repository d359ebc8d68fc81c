"""The guards: what may be written automatically, what waits for how many humans, what is refused.

One function, `judge`, asked at the one place where a containment row is written (design decision 10). The order matters:
refusals first, then what caps or delays, the budgets last, so that nothing that is refused or waits has spent any. A guard
that waits names how many different persons must approve; their approval is what lifts it. Limits: guards judge one device;
what is behind it in the network they do not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from lachan.devices import Criticality, Device
from lachan.enforcement import Level
from lachan.settings import Settings
from lachan.statements import Statement
from soar_playbooks.containment import budgets
from soar_playbooks.errors import EvidenceTooThin, HumanOnly, NotBound, TargetProtected
from soar_playbooks.models import kill_switch
from soar_playbooks.settings import SoarSettings

GROUNDS = 8  # senders that are asked one after the other


class Guard(StrEnum):
    """Why a containment waits for a human."""

    NONE = ""
    PROPOSED = "proposed"
    KILL_SWITCH = "kill-switch"
    LIFE_SAFETY = "life-safety"
    ESSENTIAL = "essential"
    UNKNOWN = "unknown-criticality"
    BUDGET = "budget"
    EVICT = "evict"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the alert behind an automatic request says, bound when the run began; attackers may have influenced it.

    Attributes:
        device_id: the bound subject; the only device that may be contained because of it.
        subject_bound: the rule's subject field named a device that may be spoken of by the sender.
        outcome: ``success`` or ``attempt``.
        sources: how many independent principals delivered the evidence.
        senders: their labels.
        proved: labels of those who delivered evidence of success.
        rule_id: the detector.
        alert_id: the alert.
    """

    device_id: str | None = None
    subject_bound: bool = False
    outcome: str = "attempt"
    sources: int = 0
    senders: tuple[str, ...] = ()
    proved: tuple[str, ...] = ()
    rule_id: str = ""
    alert_id: str = ""

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Facts:
        """Build them of the JSON that a run keeps."""
        known = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        return cls(**{**known, **{name: tuple(known.get(name, ())) for name in ("senders", "proved")}})

    @property
    def grounds(self) -> list[tuple[str, ...]]:
        """Whose budgets are asked: one after the other of those who proved success, the device itself first; else all at once.

        Were all of them asked together, a sender whose budget is spent would shield every device that it also speaks of.
        """
        own = f"device:{self.device_id}"
        alone = sorted(self.proved, key=lambda sender: sender != own)[:GROUNDS]
        return [(sender,) for sender in alone] or [self.senders]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as the guards see it.

    Attributes:
        level: what is wanted.
        facts: of the alert; None for a human's own proposal.
        approvals: how many different persons have approved this request or the run behind it.
        counted: budget scopes that the device's open containment has spent already.
    """

    level: Level
    facts: Facts | None
    approvals: int = 0
    counted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GuardVerdict:
    """What may be written now.

    Attributes:
        level: the level that takes effect now; None means that nothing does.
        guard: what the rest waits for; empty when nothing waits.
        needed: how many different persons must approve the rest.
        reason: one sentence for people.
        page: a human must be paged at once.
        counted: the budget scopes that this has spent.
    """

    level: Level | None
    guard: Guard = Guard.NONE
    needed: int = 0
    reason: str = ""
    page: bool = False
    counted: tuple[str, ...] = field(default=())


def judge(connection: sa.Connection, settings: Settings, device: Device, asked: Asked) -> GuardVerdict:
    """Judge a request; spends the budgets if, and only if, it lets an automatic cut pass.

    Raises:
        TargetProtected: the device is one of lachan's own dependencies.
        NotBound: an alert without bound subject, or about another device.
        EvidenceTooThin: attempts from one source.
        HumanOnly: an automatic request for eviction.
    """
    if device.name in SoarSettings.of(settings).protected or device.id in SoarSettings.of(settings).protected:
        raise TargetProtected(f"{device.name} is one of lachan's own dependencies.", device=device.id)
    if asked.facts is None:
        return _proposal(device, asked)
    _evidence(device, asked, asked.facts)
    if asked.approvals == 0 and switched_off(connection):
        return GuardVerdict(level=None, guard=Guard.KILL_SWITCH, needed=1, reason="The kill switch is on.")
    waits = by_criticality(device, asked)
    if waits is not None:
        return waits
    if asked.approvals or asked.level.rank <= Level.DEGRADE.rank:
        return GuardVerdict(level=asked.level)
    reason = ""
    for senders in asked.facts.grounds:
        limits = budgets.scopes(settings, device, rule_id=asked.facts.rule_id, senders=senders)
        limits = {scope: limit for scope, limit in limits.items() if scope not in asked.counted}
        spent = budgets.take(connection, limits)
        if spent is None:
            return GuardVerdict(level=asked.level, counted=tuple(sorted(limits)))
        reason = f"The budget of {spent.scope} ({spent.limit} at a time) is spent."
    return GuardVerdict(level=None, guard=Guard.BUDGET, needed=1, reason=reason)


def has_passed(
    connection: sa.Connection, settings: Settings, device: Device, guard: Guard, facts: Facts, counted: tuple[str, ...]
) -> bool:
    """Tell whether what stopped a containment for a while stops it no more: the kill switch is off, a budget has room."""
    if guard is Guard.KILL_SWITCH:
        return not switched_off(connection)
    every = [budgets.scopes(settings, device, rule_id=facts.rule_id, senders=senders) for senders in facts.grounds]
    return guard is Guard.BUDGET and any(
        budgets.has_room(connection, {scope: limit for scope, limit in limits.items() if scope not in counted})
        for limits in every
    )


def needed(device: Device, level: Level) -> int:
    """Tell how many different persons must approve a cut of this device by hand."""
    return 2 if level is Level.EVICT or device.criticality is Criticality.LIFE_SAFETY else 1


def switched_off(connection: sa.Connection) -> bool:
    """Tell whether the global kill switch is on; a change waits for requests that have looked, and no later one passes it."""
    return bool(_SWITCH.scalar(connection))


def _proposal(device: Device, asked: Asked) -> GuardVerdict:
    wanted = needed(device, asked.level)
    if asked.approvals >= wanted:
        return GuardVerdict(level=asked.level)
    guard = Guard.EVICT if asked.level is Level.EVICT else Guard.PROPOSED
    return GuardVerdict(level=None, guard=guard, needed=wanted, reason="A proposal needs another person's approval.")


def _evidence(device: Device, asked: Asked, facts: Facts) -> None:
    if asked.level is Level.EVICT:
        raise HumanOnly(f"No playbook may evict {device.name}.", device=device.id)
    if not facts.subject_bound or facts.device_id != device.id:
        raise NotBound(f"The alert is not bound to {device.name}.", device=device.id, alert=facts.alert_id)
    if asked.approvals == 0 and facts.outcome != "success" and facts.sources < 2:
        raise EvidenceTooThin(f"Only attempts, seen by one source, speak against {device.name}.", device=device.id)


def by_criticality(device: Device, asked: Asked) -> GuardVerdict | None:
    """Tell what a cut of a device waits for because of what depends on it; nothing for normal devices and mild levels."""
    if asked.level.rank <= Level.DEGRADE.rank or device.criticality is Criticality.NORMAL:
        return None
    wanted = needed(device, asked.level)
    if asked.approvals >= wanted:
        return None
    if device.criticality is Criticality.LIFE_SAFETY:
        reason = f"{device.name} protects lives: it is degraded, never cut automatically."
        return GuardVerdict(level=Level.DEGRADE, guard=Guard.LIFE_SAFETY, needed=wanted, reason=reason, page=True)
    guard = Guard.ESSENTIAL if device.criticality is Criticality.ESSENTIAL else Guard.UNKNOWN
    reason = f"{device.name} is {device.criticality}: it is degraded until a human approves the cut."
    return GuardVerdict(level=Level.DEGRADE, guard=guard, needed=wanted, reason=reason)


_SWITCH = Statement(sa.select(kill_switch.c.active).where(kill_switch.c.id == 1).with_for_update(read=True))
