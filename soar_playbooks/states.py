"""Closed sets of runs and containments, and the principal that acts for a playbook."""

from dataclasses import dataclass
from enum import StrEnum

from lachan.identity import system

ACTOR = system("playbooks")


class RunState(StrEnum):
    """A run's life: ready ⇄ running ⇄ waiting, then ended."""

    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    ENDED = "ended"


class RunOutcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    REFUSED = "refused"


class ContainmentState(StrEnum):
    """A containment's life. An active one may still wait for a human to approve a harder level (``guard``)."""

    WAITING = "waiting"
    ACTIVE = "active"
    ENDED = "ended"
    REJECTED = "rejected"


OPEN = (ContainmentState.WAITING, ContainmentState.ACTIVE)


class Phase(StrEnum):
    """Before and after an effect; pure steps have an outcome only."""

    INTENT = "intent"
    OUTCOME = "outcome"


class WaitingFor(StrEnum):
    """What a run waits for: people, or a peer's answer."""

    APPROVAL = "approval"
    CONTAINMENT = "containment"
    OUTCOME = "outcome"
    ANSWER = "answer"


@dataclass(frozen=True)
class Awaited:
    """What a run waits for.

    Attributes:
        kind: the plan's approval (propose mode), a decision on its containment, word of an unknown outcome, or a
            peer's answer.
        ref: the step's id, or the containment's.
    """

    kind: WaitingFor
    ref: str

    @classmethod
    def of(cls, kind: str | None, ref: str) -> "Awaited | None":
        """Build it of a row's two columns; None if the run waits for nothing."""
        return cls(WaitingFor(kind), ref) if kind else None

    @property
    def text(self) -> str:
        """As one word, as the API tells it: a containment's id alone, else ``kind:step``."""
        return self.ref if self.kind is WaitingFor.CONTAINMENT else f"{self.kind}:{self.ref}"
