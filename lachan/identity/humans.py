"""Which human stands behind somebody who asked: four eyes are four eyes of two humans.

A person is one human with the tokens that they made, the tokens that those made, and the shell accounts that the setting
``shell_persons`` maps to them. What a token or a shell proposed, that person does not approve; nobody approves from a shell or by a token
in any case (`lachan.identity.permissions.PERSON_ONLY`). Limits: a human with two accounts is two persons here.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from lachan.identity.models import people, tokens
from lachan.identity.principal import Principal

SHELL = "shell:"


def shells_of(shell_persons: Mapping[str, str], name: str) -> frozenset[str]:
    """Give the principals' ids of the shell accounts that count as a person."""
    return frozenset(f"{SHELL}{shell}" for shell, person in shell_persons.items() if person == name)


def stands_behind(connection: sa.Connection, person: Principal, asker: str) -> bool:
    """Tell whether a person is who asked, or stands behind who asked.

    Args:
        connection: an open connection.
        person: in a session of their own.
        asker: id of the principal that asked.
    """
    mine = {person.id, *person.shells}
    return asker in mine or _maker(connection, asker) in mine


def behind(connection: sa.Connection, asker: str, shell_persons: Mapping[str, str]) -> frozenset[str]:
    """Give the ids of the persons who stand behind who asked, for a check without their sessions."""
    found = {asker, _maker(connection, asker) or asker}
    names = {shell_persons.get(one.removeprefix(SHELL), "") for one in found if one.startswith(SHELL)} - {""}
    if names:
        found |= set(connection.execute(sa.select(people.c.id).where(people.c.name.in_(sorted(names)))).scalars())
    return frozenset(found)


def _maker(connection: sa.Connection, token_id: str) -> str | None:
    """Give who made a token; None when it is none."""
    found: str | None = connection.execute(sa.select(tokens.c.human).where(tokens.c.id == token_id)).scalar()
    return found
