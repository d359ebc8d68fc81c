"""Requests by name: parameter model, permission, callable (design section 2, "How the rooms talk").

A playbook suspends a certificate without importing `pki`: it calls the verb ``pki.suspend``. A verb runs inside the
caller's transaction and touches the database only, so its effect and the caller's journal commit together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel, ValidationError

from lachan import wiring
from lachan.errors import Invalid, NotFound
from lachan.identity import Permission, Principal, require

if TYPE_CHECKING:
    from lachan.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A request that any room may make.

    Attributes:
        name: ``room.act``.
        parameters: the model of its parameters.
        permission: what the caller needs.
        run: ``(rt, connection, principal, parameters) -> result``; JSON-able result.
        undo: the verb that takes it back with the same parameters; None for what has nothing to take back.
    """

    name: str
    parameters: type[BaseModel]
    permission: Permission
    run: Callable[["Runtime", sa.Connection, Principal, Any], dict[str, Any]]
    undo: str | None = None


@cache
def registry() -> dict[str, Verb]:
    """All verbs by name."""
    found: list[Any] = [wiring.resolve(name) for name in wiring.load().verbs]
    return {verb.name: verb for verb in found}


def get(name: str) -> Verb:
    """Give the verb of that name.

    Raises:
        NotFound: no room brings it.
    """
    try:
        return registry()[name]
    except KeyError:
        raise NotFound(f"There is no verb {name}; known are {', '.join(sorted(registry()))}.") from None


def call(
    rt: "Runtime", connection: sa.Connection, principal: Principal, name: str, parameters: dict[str, Any]
) -> dict[str, Any]:
    """Make a request in the caller's transaction.

    Raises:
        NotFound: there is no such verb.
        Forbidden: the principal lacks its permission.
        Invalid: the parameters do not fit its model.
    """
    verb = get(name)
    require(principal, verb.permission)
    try:
        arguments = verb.parameters.model_validate(parameters)
    except ValidationError as error:
        raise Invalid(f"Parameters of {name}: {error.errors(include_url=False)[0]['msg']}", verb=name) from error
    return verb.run(rt, connection, principal, arguments)
