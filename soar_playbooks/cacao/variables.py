"""Variables at run time: bound once, typed, and put into parameters as whole JSON values.

A parameter that *is* ``"__x__:value"`` becomes the variable's value. A text that merely *contains* a variable is refused
when the playbook is loaded: nothing is ever spliced into a text, a path or a header, so a value that an attacker chose
stays a value.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from lachan import patterns
from soar_playbooks.cacao.model import Variable, VariableType
from soar_playbooks.errors import PlaybookInvalid

WHOLE = re.compile(r"(__[a-zA-Z0-9_-]+__):value")
PART = patterns.compile(r"__[a-zA-Z0-9_-]+__:value")
_PYTHON: dict[VariableType, tuple[type, ...]] = {
    VariableType.STRING: (str,),
    VariableType.UUID: (str,),
    VariableType.INTEGER: (int,),
    VariableType.FLOAT: (int, float),
    VariableType.BOOL: (bool,),
    VariableType.LIST: (list, tuple),
    VariableType.DICTIONARY: (dict,),
}


def references(value: Any) -> Iterator[str]:
    """Give the names of the variables that a JSON value takes in whole.

    Raises:
        PlaybookInvalid: a text contains a variable beside other characters.
    """
    if isinstance(value, str):
        whole = WHOLE.fullmatch(value)
        if whole:
            yield whole.group(1)
        elif PART.search(value):
            raise PlaybookInvalid(f"{value!r} splices a variable into a text; only whole values are substituted.")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if PART.search(str(key)):
                raise PlaybookInvalid(f"{key!r}: a name may not be a variable.")
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def substitute(value: Any, values: Mapping[str, Any]) -> Any:
    """Give the JSON value with each whole variable replaced by its present value."""
    if isinstance(value, str):
        whole = WHOLE.fullmatch(value)
        return values.get(whole.group(1)) if whole else value
    if isinstance(value, Mapping):
        return {key: substitute(item, values) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [substitute(item, values) for item in value]
    return value


def check(variable: Variable, value: Any) -> Any:
    """Give the value, if it has the variable's type.

    Raises:
        PlaybookInvalid: it has another type.
    """
    wrong = type(value) not in _PYTHON[variable.type]
    if not wrong and variable.type is VariableType.UUID:
        try:
            uuid.UUID(value)
        except ValueError:
            wrong = True
    if wrong:
        raise PlaybookInvalid(f"{variable.name} is a {variable.type}; {value!r} is not.")
    return value
