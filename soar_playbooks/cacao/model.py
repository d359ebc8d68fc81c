"""What a playbook is once it has been read: frozen dataclasses, closed sets.

Names are CACAO 2.0's own (CS01, 27 November 2023). What CACAO has no words for (triggers, approvals, level, until, undo,
idempotence) stands in one extension definition, `EXTENSION`. Limits: five step kinds, one command per action, no loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

EXTENSION = "extension-definition--393bb1ef-f180-4ac9-98e5-e340e858dd98"
VERB_COMMAND = "x-lachan-verb"


class StepType(StrEnum):
    """The step types that run; any other is refused at load (CACAO 2.0 section 4.3)."""

    START = "start"
    END = "end"
    ACTION = "action"
    IF = "if-condition"


class CommandType(StrEnum):
    """The command types that run (CACAO 2.0 section 5); `x-lachan-verb` is defined by our extension."""

    VERB = VERB_COMMAND
    HTTP = "http-api"


class VariableType(StrEnum):
    """The variable types that are kept (CACAO 2.0 section 10.18.2)."""

    STRING = "string"
    INTEGER = "integer"
    FLOAT = "float"
    BOOL = "bool"
    UUID = "uuid"
    LIST = "list"
    DICTIONARY = "dictionary"


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A playbook variable; ``name`` is ``__like_this__``. ``external`` ones are bound by the trigger."""

    name: str
    type: VariableType
    value: Any = None
    constant: bool = False
    external: bool = False


@dataclass(frozen=True, kw_only=True)
class VerbCommand:
    """Calls one of lachan's verbs by name; parameters may be whole variables (``"__x__:value"``)."""

    verb: str
    parameters: Mapping[str, Any]
    type: CommandType = CommandType.VERB


@dataclass(frozen=True, kw_only=True)
class HttpCommand:
    """One HTTP request to a target on the operator's allow-list."""

    method: str
    url: str
    content: Any = None
    type: CommandType = CommandType.HTTP


Command = VerbCommand | HttpCommand


@dataclass(frozen=True, kw_only=True)
class Undo:
    """How an action is undone: a verb, an HTTP request, or the reason why there is nothing to undo."""

    command: Command | None = None
    nothing: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the workflow; fields that its type does not have are None."""

    id: str
    type: StepType
    name: str = ""
    on_completion: str | None = None
    on_success: str | None = None
    on_failure: str | None = None
    condition: str | None = None
    on_true: str | None = None
    on_false: str | None = None
    command: Command | None = None
    agent: str | None = None
    out_args: tuple[str, ...] = ()
    timeout: timedelta = timedelta(seconds=10)
    undo: Undo | None = None
    idempotent: bool = True

    def exits(self) -> tuple[str, ...]:
        """Give all steps that may come next."""
        found = (self.on_completion, self.on_success, self.on_failure, self.on_true, self.on_false)
        return tuple(step for step in found if step is not None)


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """Which fact starts the playbook. Empty sets match everything.

    Attributes:
        event: name of the fact; only ``AlertRaised`` is offered.
        tags: the alert has at least one of them.
        severities: the alert has one of them.
        rules: ids of rules.
    """

    event: str
    tags: frozenset[str] = frozenset()
    severities: frozenset[str] = frozenset()
    rules: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What our extension adds to a playbook.

    Attributes:
        triggers: facts that start it.
        level: the highest containment level that any of its steps may ask for.
        until: how long a containment it sets may last; None means until a human ends it.
        approvals: how many persons must approve a run in propose mode.
    """

    triggers: tuple[Trigger, ...]
    level: str
    until: timedelta | None = None
    approvals: int = 1


@dataclass(frozen=True, kw_only=True)
class Playbook:
    """A playbook that has been read and linted. ``version`` is CACAO's ``modified``: a later one replaces it."""

    id: str
    name: str
    description: str
    version: str
    revoked: bool
    workflow_start: str
    workflow_exception: str | None
    steps: Mapping[str, Step]
    variables: Mapping[str, Variable]
    policy: Policy
    document: Mapping[str, Any] = field(repr=False)
