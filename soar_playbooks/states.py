"""Closed sets of the runs, and the principal that acts for a playbook."""

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


class Phase(StrEnum):
    """Before and after an effect; pure steps have an outcome only."""

    INTENT = "intent"
    OUTCOME = "outcome"
