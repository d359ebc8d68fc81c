"""The graph lint: what no JSON Schema can see, and what CACAO's own schemas let pass.

Checks: one start, known exits, every step reachable, no cycle, every branch reaches an ``end``; agents and targets
defined; variables defined, typed, never spliced, outputs never onto constants; every action says how it is undone; verbs
known with fitting parameters; no level above the playbook's own, and never ``evict``. All raise `PlaybookInvalid` with the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lachan.enforcement import Level
from soar_playbooks.cacao import conditions
from soar_playbooks.cacao.model import HttpCommand, Playbook, Step, StepType, Undo, VerbCommand
from soar_playbooks.cacao.variables import check as check_value
from soar_playbooks.cacao.variables import references
from soar_playbooks.errors import PlaybookInvalid

# What a trigger binds; a playbook declares those it reads as external variables.
INPUTS: dict[str, str] = {
    "__alert__": "string",
    "__rule__": "string",
    "__severity__": "string",
    "__device__": "string",
    "__site__": "string",
    "__criticality__": "string",
    "__outcome__": "string",
    "__sources__": "integer",
    "__subject_bound__": "bool",
}


@dataclass(frozen=True)
class VerbFacts:
    """What the lint knows of a verb: its parameters (name → required) and the verb that undoes it."""

    parameters: Mapping[str, bool]
    undo: str | None = None


def check(playbook: Playbook, verbs: Mapping[str, VerbFacts] | None) -> None:
    """Lint a playbook that fits the schema.

    Raises:
        PlaybookInvalid: with the step; see the module's text for the rules.
    """
    _graph(playbook)
    _variables(playbook)
    for step in playbook.steps.values():
        try:
            _values(playbook, step)
            if step.type is StepType.ACTION:
                _action(playbook, step, verbs)
        except PlaybookInvalid as error:
            raise type(error)(error.detail, **{**error.fields, "step": step.id}) from error


def _graph(playbook: Playbook) -> None:
    steps = playbook.steps
    starts = [step.id for step in steps.values() if step.type is StepType.START]
    if starts != [playbook.workflow_start]:
        raise PlaybookInvalid(
            "a workflow has exactly one start step, named by workflow_start.", step=(starts or [""])[-1]
        )
    for step in steps.values():
        for exit_ in step.exits():
            if exit_ not in steps:
                raise PlaybookInvalid(f"leads to {exit_}, which does not exist.", step=step.id)
    entries = [playbook.workflow_start]
    if playbook.workflow_exception is not None:
        if playbook.workflow_exception not in steps:
            raise PlaybookInvalid(f"workflow_exception names {playbook.workflow_exception}, which does not exist.")
        entries.append(playbook.workflow_exception)
    done: set[str] = set()
    for entry in entries:
        _walk(steps, entry, (), done)
    for name in steps:
        if name not in done:
            raise PlaybookInvalid("no step leads here.", step=name)


def _walk(steps: Mapping[str, Step], name: str, path: tuple[str, ...], done: set[str]) -> None:
    """Walk depth first; ``path`` is the way so far. A step without exits must be an ``end``: the schema sees to that."""
    if name in path:
        raise PlaybookInvalid("the workflow comes back to this step; loops are not run here.", step=name)
    if name in done:
        return
    for exit_ in steps[name].exits():
        _walk(steps, exit_, (*path, name), done)
    done.add(name)


def _variables(playbook: Playbook) -> None:
    for variable in playbook.variables.values():
        if variable.external:
            if INPUTS.get(variable.name) != variable.type:
                offered = ", ".join(f"{name} ({kind})" for name, kind in INPUTS.items())
                raise PlaybookInvalid(f"{variable.name}: no trigger binds this as {variable.type}; offered: {offered}.")
            if variable.value is not None:
                raise PlaybookInvalid(f"{variable.name} is external and may not have a value of its own.")
        elif variable.value is not None:
            check_value(variable, variable.value)
        elif variable.constant:
            raise PlaybookInvalid(f"{variable.name} is constant and has no value.")


def _values(playbook: Playbook, step: Step) -> None:
    if step.condition is not None:
        conditions.parse(step.condition, playbook.variables)
    for command in (step.command, step.undo.command if step.undo else None):
        if command is None:
            continue
        body = command.parameters if isinstance(command, VerbCommand) else command.content
        for name in references(body):
            if name not in playbook.variables:
                raise PlaybookInvalid(f"variable {name} is not defined.")
    for name in step.out_args:
        variable = playbook.variables.get(name)
        if variable is None:
            raise PlaybookInvalid(f"out_args names {name}, which is not defined.")
        if variable.constant or variable.external:
            raise PlaybookInvalid(f"out_args may not change {name}.")


def _action(playbook: Playbook, step: Step, verbs: Mapping[str, VerbFacts] | None) -> None:
    if step.agent not in playbook.document.get("agent_definitions", {}):
        raise PlaybookInvalid(f"agent {step.agent} is not defined in agent_definitions.")
    if isinstance(step.command, HttpCommand) and step.command.method == "GET":
        return
    if step.undo is None:
        raise PlaybookInvalid("the action does not say how it is undone (step extension `undo`).")
    for command in (step.command, step.undo.command):
        if isinstance(command, VerbCommand):
            _level(playbook, command)
            if verbs is not None:
                _verb(command, verbs)
    if verbs is not None and isinstance(step.command, VerbCommand):
        _undo(step.undo, verbs[step.command.verb])


def _verb(command: VerbCommand, verbs: Mapping[str, VerbFacts]) -> None:
    facts = verbs.get(command.verb)
    if facts is None:
        raise PlaybookInvalid(f"verb {command.verb} does not exist here.")
    foreign = set(command.parameters) - set(facts.parameters)
    missing = {name for name, needed in facts.parameters.items() if needed} - set(command.parameters)
    if foreign or missing:
        words = [f"{name} is unknown" for name in sorted(foreign)] + [f"{name} is missing" for name in sorted(missing)]
        raise PlaybookInvalid(f"{command.verb}: {', '.join(words)}.")


def _undo(undo: Undo, facts: VerbFacts) -> None:
    given = undo.command.verb if isinstance(undo.command, VerbCommand) else None
    if facts.undo is not None and given != facts.undo:
        raise PlaybookInvalid(f"the undo of this verb is {facts.undo}, not {given or 'nothing'}.")


def _level(playbook: Playbook, command: VerbCommand) -> None:
    level: Any = command.parameters.get("level")
    if command.verb != "containment.set" or level is None:
        return
    if level not in set(Level) or level == Level.EVICT:
        raise PlaybookInvalid(f"level {level!r}: a playbook names a level below evict, as a constant.")
    if Level(level).rank > Level(playbook.policy.level).rank:
        raise PlaybookInvalid(f"level {level} is above the playbook's own level {playbook.policy.level}.")


__all__ = ["INPUTS", "VerbFacts", "check"]
