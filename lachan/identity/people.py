"""People: added by an administrator, signing in by a one-time link, working in a session.

There is no password and no default account. ``lachan user add`` prints the person's own link; its token stands in the
URL's fragment (never sent to a server's log), works once and for 15 minutes. A session lasts 12 hours, or 2 without use,
and carries a CSRF token for every write.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import for_update
from lachan.errors import NotFound
from lachan.events import SignedIn, SignedOut, SignInLinkMade, UserAdded
from lachan.identity.errors import BadCsrf, BadLink, BadRoles, NameTaken, NoSession
from lachan.identity.models import people, sessions, sign_in_links
from lachan.identity.permissions import Permission, Role
from lachan.identity.principal import PersonNeeded, Principal, PrincipalKind, require
from lachan.identity.secrets import hashed, random_text, same
from lachan.ids import new_id
from lachan.settings import Settings
from lachan.work import outbox

LINK_LIFE = timedelta(minutes=15)
SESSION_LIFE = timedelta(hours=12)
SESSION_IDLE = timedelta(hours=2)
HUMAN_ROLES = frozenset({Role.ANALYST, Role.APPROVER, Role.MANUFACTURER, Role.AUDITOR, Role.ADMIN})


def link_url(settings: Settings, token: str) -> str:
    """Give the address of a sign-in link; the token stands in the fragment, which no server sees."""
    return f"{settings.people_url.rstrip('/')}/sign-in#{token}"


@dataclass(frozen=True)
class NewSession:
    """What a sign-in gives: the cookie's secret (shown once), the CSRF token, and who it is."""

    secret: str
    csrf: str
    principal: Principal


def add(
    connection: sa.Connection, *, name: str, roles: Iterable[Role], actor: Principal, vendor: str | None = None
) -> str:
    """Add a person; returns their id.

    Raises:
        Forbidden: the actor may not add people; PersonNeeded: a token asks.
        NameTaken: somebody has that name.
        BadRoles: no role, a role that is for machines, or a manufacturer without vendor.
    """
    _require_no_machine(actor)
    wanted = frozenset(roles)
    if not wanted or not wanted <= HUMAN_ROLES or (Role.MANUFACTURER in wanted) != (vendor is not None):
        raise BadRoles(f"People may have the roles {', '.join(sorted(HUMAN_ROLES))}; a manufacturer needs a vendor.")
    if connection.execute(sa.select(people.c.id).where(people.c.name == name)).first():
        raise NameTaken(f"There is a person named {name}.")
    person_id = new_id()
    connection.execute(
        people.insert().values(id=person_id, name=name, roles=sorted(wanted), vendor=vendor, created_at=clock.now())
    )
    outbox.append(connection, UserAdded(user=name, roles=tuple(sorted(wanted))), actor=actor)
    return person_id


def make_link(connection: sa.Connection, data: Path, *, name: str, actor: Principal) -> str:
    """Make a person's one-time link token; earlier unused ones stop working.

    Raises:
        Forbidden: the actor may not; PersonNeeded: a token asks.
        NotFound: there is no such active person.
    """
    _require_no_machine(actor)
    person = connection.execute(sa.select(people).where(people.c.name == name, people.c.active)).mappings().first()
    if person is None:
        raise NotFound(f"No person named {name}.")
    connection.execute(sign_in_links.delete().where(sign_in_links.c.person_id == person["id"]))
    token = random_text()
    connection.execute(
        sign_in_links.insert().values(
            hash=hashed(data, token), person_id=person["id"], expires_at=clock.now() + LINK_LIFE
        )
    )
    outbox.append(connection, SignInLinkMade(user=name), actor=actor)
    return token


def _require_no_machine(actor: Principal) -> None:
    """Tokens make no people and no links: one that could would approve with a session that it made for itself."""
    require(actor, Permission.USERS_WRITE)
    if actor.kind not in (PrincipalKind.PERSON, PrincipalKind.SYSTEM):
        raise PersonNeeded(f"{actor.label} is no person.", permission=str(Permission.USERS_WRITE))


def check_link(connection: sa.Connection, data: Path, token: str) -> None:
    """Look whether a link could sign in, without writing: strangers' guesses must not queue for SQLite's one writer.

    Raises:
        BadLink: it was used, is too old, or is none.
    """
    link: Any = connection.execute(_link(data, token)).mappings().first()
    if link is None or link["used_at"] is not None or not clock.runs(link["expires_at"], term=LINK_LIFE):
        raise BadLink


def _link(data: Path, token: str) -> Any:
    return sa.select(sign_in_links).where(sign_in_links.c.hash == hashed(data, token))


def sign_in(connection: sa.Connection, data: Path, token: str) -> NewSession:
    """Turn a link's token into a session; once.

    Raises:
        BadLink: it was used, is too old, or is none.
    """
    link: Any = connection.execute(for_update(_link(data, token), connection)).mappings().first()
    if link is None or link["used_at"] is not None or not clock.runs(link["expires_at"], term=LINK_LIFE):
        raise BadLink
    connection.execute(sign_in_links.update().where(sign_in_links.c.hash == link["hash"]).values(used_at=clock.now()))
    secret, csrf, session_id, now = random_text(), random_text(), new_id(), clock.now()
    connection.execute(
        sessions.insert().values(
            id=session_id, hash=hashed(data, secret), person_id=link["person_id"], csrf=csrf, created_at=now,
            seen_at=now, expires_at=now + SESSION_LIFE,
        )
    )  # fmt: skip
    person: Any = connection.execute(sa.select(people).where(people.c.id == link["person_id"])).mappings().one()
    principal = _principal(person, session_id)
    outbox.append(connection, SignedIn(user=person["name"]), actor=principal)
    return NewSession(secret, csrf, principal)


def session(connection: sa.Connection, data: Path, secret: str) -> tuple[Principal, str]:
    """Whose session it is, and its CSRF token.

    Raises:
        NoSession: it ended, expired, idled out, or its person is no longer active.
    """
    joined = sa.select(sessions, people.c.name, people.c.roles, people.c.vendor, people.c.active).join(people)
    row: Any = connection.execute(joined.where(sessions.c.hash == hashed(data, secret))).mappings().first()
    now = clock.now()
    if (
        row is None
        or row["ended_at"] is not None
        or not row["active"]
        or not clock.runs(row["expires_at"], term=SESSION_LIFE)
        or row["seen_at"] + SESSION_IDLE <= now
    ):
        raise NoSession
    return _principal({**row, "id": row["person_id"]}, row["id"]), row["csrf"]


def touch(connection: sa.Connection, session_id: str) -> None:
    """Note that a session is in use (the doors coalesce this)."""
    connection.execute(sessions.update().where(sessions.c.id == session_id).values(seen_at=clock.now()))


def check_csrf(expected: str, given: str | None) -> None:
    """Let a write pass that carries the session's CSRF token.

    Raises:
        BadCsrf: it carries none or another.
    """
    if not given or not same(expected, given):
        raise BadCsrf


def sign_out(connection: sa.Connection, principal: Principal) -> None:
    """End the principal's session."""
    where = sa.and_(sessions.c.id == principal.session, sessions.c.ended_at.is_(None))
    if connection.execute(sessions.update().where(where).values(ended_at=clock.now())).rowcount:
        outbox.append(connection, SignedOut(user=principal.name), actor=principal)


def _principal(person: Any, session_id: str) -> Principal:
    return Principal(
        kind=PrincipalKind.PERSON, id=person["id"], name=person["name"], vendor=person["vendor"], session=session_id,
        roles=frozenset(Role(role) for role in person["roles"]),
    )  # fmt: skip
