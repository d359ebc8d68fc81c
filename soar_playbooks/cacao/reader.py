"""From text to `Playbook`: everything that is outside the subset is refused here, with file, step and line.

Steps: JSON without repeated names; step and command types against the closed sets (so that a foreign type is named as
such); the JSON Schema beside this module; dataclasses; the graph lint of ``soar_playbooks.cacao.lint``. The official
CACAO schemas accept dangling and endless workflows, so schema and lint are both needed. Limits: whoever wrote the file is
checked elsewhere (``soar_playbooks.cacao.jss``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from importlib import resources
from typing import Any

import jsonschema

from lachan import clock
from soar_playbooks.cacao import lint
from soar_playbooks.cacao.model import (
    EXTENSION,
    Command,
    CommandType,
    HttpCommand,
    Playbook,
    Policy,
    Step,
    StepType,
    Trigger,
    Undo,
    Variable,
    VariableType,
    VerbCommand,
)
from soar_playbooks.errors import PlaybookInvalid, UnknownCommandType, UnknownStepType

_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")


def read(text: str, *, file: str, verbs: Mapping[str, lint.VerbFacts] | None = None) -> Playbook:
    """Read and lint one playbook.

    Args:
        text: the file's text (JSON).
        file: its name, for errors.
        verbs: what the verbs of this installation want; None skips the checks against them.

    Raises:
        UnknownStepType: a step's type is outside `StepType`.
        UnknownCommandType: a command's type is outside `CommandType`.
        ConditionInvalid: a condition cannot be read.
        PlaybookInvalid: anything else; each with file, step and line.
    """
    document = parse_json(text, file=file)
    try:
        _refuse_foreign_types(document)
        _validate(document)
        playbook = _playbook(document)
        lint.check(playbook, verbs)
    except PlaybookInvalid as error:
        step = str(error.fields.get("step", ""))
        fields = {**error.fields, "file": file, "step": step, "line": line_of(text, step)}
        raise type(error)(f"{file}: {step + ': ' if step else ''}{error.detail}", **fields) from error
    return playbook


def parse_json(text: str, *, file: str) -> dict[str, Any]:
    """Read the JSON object of a text.

    Raises:
        PlaybookInvalid: no JSON, no object, a name stands twice, or a number is NaN or infinite.
    """
    try:
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise PlaybookInvalid(f"{file}: {error}", file=file, line=error.lineno, step="") from error
    except ValueError as error:
        raise PlaybookInvalid(f"{file}: {error}", file=file, line=1, step="") from error
    if not isinstance(document, dict):
        raise PlaybookInvalid(f"{file}: a playbook is a JSON object.", file=file, line=1, step="")
    return document


def line_of(text: str, step: str) -> int:
    """Find the line on which a step is defined; 1 if it cannot be found."""
    found = re.search(rf'"{re.escape(step)}"\s*:', text) if step else None
    return text.count("\n", 0, found.start()) + 1 if found else 1


@cache
def schema() -> dict[str, Any]:
    """Read the JSON Schema of our playbook files (draft 2020-12)."""
    path = resources.files("soar_playbooks.cacao").joinpath("schema/playbook.schema.json")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = sorted({name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1})
        raise ValueError(f"names stand twice in one object: {', '.join(twice)}")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _refuse_foreign_types(document: Mapping[str, Any]) -> None:
    workflow = document.get("workflow")
    for name, step in workflow.items() if isinstance(workflow, dict) else ():
        kind = step.get("type") if isinstance(step, dict) else None
        if kind not in set(StepType):
            raise UnknownStepType(f"step type {kind!r} is not run here; offered: {', '.join(StepType)}.", step=name)
        if name.partition("--")[0] != kind:
            raise PlaybookInvalid(f"the id of a step begins with its type, {kind}.", step=name)
        for command in step.get("commands") or ():
            kind = command.get("type") if isinstance(command, dict) else None
            if kind not in set(CommandType):
                offered = ", ".join(CommandType)
                raise UnknownCommandType(f"command type {kind!r} is not run here; offered: {offered}.", step=name)


def _validate(document: Mapping[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is None:
        return
    path = [str(part) for part in error.absolute_path]
    step = path[1] if path[:1] == ["workflow"] and len(path) > 1 else ""
    raise PlaybookInvalid(f"/{'/'.join(path)}: {error.message[:300]}", step=step, pointer="/" + "/".join(path))


def _playbook(document: Mapping[str, Any]) -> Playbook:
    policy = document["playbook_extensions"][EXTENSION]
    targets = {
        name: str(target["address"]["url"][0]) for name, target in document.get("target_definitions", {}).items()
    }
    variables = {
        name: Variable(
            name=name,
            type=VariableType(body["type"]),
            value=body.get("value"),
            constant=body.get("constant", False),
            external=body.get("external", False),
        )
        for name, body in document.get("playbook_variables", {}).items()
    }
    return Playbook(
        id=document["id"],
        name=document["name"],
        description=document.get("description", ""),
        version=clock.iso(clock.parse(document["modified"])),
        revoked=document.get("revoked", False),
        workflow_start=document["workflow_start"],
        workflow_exception=document.get("workflow_exception"),
        steps={name: _step(name, body, targets) for name, body in document["workflow"].items()},
        variables=variables,
        policy=_policy(policy),
        document=document,
    )


def _policy(body: Mapping[str, Any]) -> Policy:
    triggers = tuple(
        Trigger(
            event=trigger["event"],
            tags=frozenset(trigger.get("tags", ())),
            severities=frozenset(trigger.get("severities", ())),
            rules=frozenset(trigger.get("rules", ())),
        )
        for trigger in body["triggers"]
    )
    return Policy(
        triggers=triggers,
        level=body["level"],
        until=duration(body["until"]) if "until" in body else None,
        approvals=body.get("approvals", {}).get("count", 1),
    )


def duration(text: str) -> timedelta:
    """Read the length of an ISO 8601 duration of days, hours, minutes and seconds.

    Raises:
        PlaybookInvalid: another form, or no length at all.
    """
    match = _DURATION.fullmatch(text)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not length:
        raise PlaybookInvalid(f"{text!r} is no duration such as PT24H.")
    return length


def _step(name: str, body: Mapping[str, Any], targets: Mapping[str, str]) -> Step:
    try:
        extension = body.get("step_extensions", {}).get(EXTENSION, {})
        commands = body.get("commands", ())
        target = targets.get((body.get("targets") or [""])[0], "")
        command = _command(commands[0], target) if commands else None
        return Step(
            id=name,
            type=StepType(body["type"]),
            name=body.get("name", ""),
            on_completion=body.get("on_completion"),
            on_success=body.get("on_success"),
            on_failure=body.get("on_failure"),
            condition=body.get("condition"),
            on_true=body.get("on_true"),
            on_false=body.get("on_false"),
            command=command,
            agent=body.get("agent"),
            out_args=tuple(body.get("out_args", ())),
            timeout=timedelta(milliseconds=body.get("timeout", 10_000)),
            undo=_undo(extension["undo"], target) if "undo" in extension else None,
            idempotent=extension.get("idempotent", not isinstance(command, HttpCommand)),
        )
    except PlaybookInvalid as error:
        raise type(error)(error.detail, **{**error.fields, "step": name}) from error


def _command(body: Mapping[str, Any], target: str) -> Command:
    if body["type"] == CommandType.VERB:
        return VerbCommand(verb=body["command"], parameters=body.get("parameters", {}))
    if not target:
        raise PlaybookInvalid("an http-api command needs one target that target_definitions define.")
    method, path, _ = body["command"].split(" ")
    try:
        content = json.loads(body["content"]) if "content" in body else None
    except ValueError as error:
        raise PlaybookInvalid(f"content is not JSON: {error}") from error
    return HttpCommand(method=method, url=target + path, content=content)


def _undo(body: Mapping[str, Any], target: str) -> Undo:
    if "command" in body:
        return Undo(command=_command(body["command"], target))
    return Undo(nothing=body["nothing"])
