"""API tokens for machines: ``lachan_<id>_<secret>_<check>``, shown once, hashed at rest, always expiring.

The prefix lets scanners find a leaked one, the check refuses a typo without a query, the id finds the row. Elasticsearch
clients send the same token as ``ApiKey base64(id:rest)``.
"""

import base64
import re
import zlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.database import for_update
from lachan.errors import Forbidden, NotFound
from lachan.events import TokenIssued, TokenRevoked
from lachan.identity.errors import BadRoles, BadToken, Outlives
from lachan.identity.models import tokens
from lachan.identity.permissions import ROLE_PERMISSIONS, Permission, Role
from lachan.identity.principal import Principal, PrincipalKind, require
from lachan.identity.secrets import hashed, random_text, same
from lachan.ids import new_id
from lachan.work import outbox

_SHORT = re.compile(r"[0-9a-f]{32}")
MACHINE_ROLES = frozenset(Role) - {Role.DEVICE, Role.APPROVER}


def issue(
    connection: sa.Connection,
    data: Path,
    *,
    name: str,
    roles: Iterable[Role],
    actor: Principal,
    valid: timedelta,
    vendor: str | None = None,
    site: str | None = None,
) -> str:
    """Make a token; the text returned is never to be had again.

    A token's token has no later end, no role and no vendor that the first has not, and is revoked with it.

    Raises:
        Forbidden: the actor may not make tokens, or not such a one.
        BadRoles: a manufacturer without vendor, a collector without site, or a role that is for people.
        Outlives: the actor is a token and ends sooner.
        BadToken: the actor is a token and was revoked meanwhile.
    """
    require(actor, Permission.TOKENS_WRITE)
    wanted = _fitting(roles, vendor, site)
    token_id, secret = new_id(), random_text()
    expires = clock.now() + valid
    parent = actor.id if actor.kind in (PrincipalKind.TOKEN, PrincipalKind.COLLECTOR) else None
    if parent is not None:
        _within(connection, actor, wanted, vendor, expires)
    kind = PrincipalKind.COLLECTOR if Role.COLLECTOR in wanted else PrincipalKind.TOKEN
    connection.execute(
        tokens.insert().values(
            id=token_id, name=name, kind=kind, roles=sorted(wanted), vendor=vendor, site=site,
            hash=hashed(data, secret), created_at=clock.now(), expires_at=expires, parent_id=parent,
            human=actor.human or actor.id,
        )
    )  # fmt: skip
    event = TokenIssued(token_id=token_id, name=name, roles=tuple(sorted(wanted)), expires_at=clock.iso(expires))
    outbox.append(connection, event, actor=actor)
    body = f"{token_id.replace('-', '')}_{secret}"
    return f"lachan_{body}_{_check(body)}"


def _fitting(roles: Iterable[Role], vendor: str | None, site: str | None) -> frozenset[Role]:
    wanted = frozenset(roles)
    if not wanted or not wanted <= MACHINE_ROLES:
        raise BadRoles(f"A token may have the roles {', '.join(sorted(MACHINE_ROLES))}.")
    if (Role.MANUFACTURER in wanted) != (vendor is not None) or (Role.COLLECTOR in wanted and not site):
        raise BadRoles
    return wanted


def _within(
    connection: sa.Connection, actor: Principal, wanted: frozenset[Role], vendor: str | None, expires: datetime
) -> None:
    """See that a token's token stays within it; its row is locked, so that a revocation comes before or takes both."""
    more = set[Permission]().union(*(ROLE_PERMISSIONS[role] for role in wanted))
    mine = set[Permission]().union(*(ROLE_PERMISSIONS[role] for role in actor.roles))
    if not more <= mine or (actor.vendor is not None and vendor != actor.vendor):
        raise Forbidden(f"{actor.label} cannot give what it has not.")
    row = (
        connection.execute(for_update(sa.select(tokens).where(tokens.c.id == actor.id), connection)).mappings().first()
    )
    if row is None or row["revoked_at"] is not None or row["expires_at"] <= clock.now():
        raise BadToken("The token that asks has ended.")
    if expires > row["expires_at"]:
        raise Outlives(
            f"It would end at {clock.iso(expires)}, the token that makes it at {clock.iso(row['expires_at'])}."
        )


def parse(text: str) -> tuple[str, str]:
    """Give the id and secret in a token's text.

    Raises:
        BadToken: it is no token of ours, or mistyped.
    """
    body, _, check = text.removeprefix("lachan_").rpartition("_")
    short, _, secret = body.partition("_")
    if not text.startswith("lachan_") or not _SHORT.fullmatch(short) or not same(_check(body), check):
        raise BadToken("The text is no lachan token, or it was mistyped.")
    return f"{short[:8]}-{short[8:12]}-{short[12:16]}-{short[16:20]}-{short[20:]}", secret


def api_key(text: str) -> str:
    """Give the same token as the value of ``Authorization: ApiKey …`` (base64 of ``id:key``)."""
    return base64.b64encode(f"lachan:{text}".encode()).decode()


def from_header(value: str) -> str:
    """Give the token in an Authorization header's value (``Bearer`` or ``ApiKey``).

    Raises:
        BadToken: the header has another form.
    """
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "apikey":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except ValueError:
            raise BadToken("ApiKey wants base64 of id:key.") from None
    raise BadToken("The Authorization header names neither Bearer nor ApiKey.")


def verify(connection: sa.Connection, data: Path, text: str) -> Principal:
    """Whose token it is.

    Raises:
        BadToken: it is malformed, unknown, expired or revoked.
    """
    token_id, secret = parse(text)
    row: Any = connection.execute(sa.select(tokens).where(tokens.c.id == token_id)).mappings().first()
    if row is None or not same(row["hash"], hashed(data, secret)):
        raise BadToken("The token is not known.")
    if row["revoked_at"] is not None or row["expires_at"] <= clock.now():
        raise BadToken("The token expired or was revoked.")
    return Principal(
        kind=PrincipalKind(row["kind"]), id=row["id"], name=row["name"], vendor=row["vendor"], site=row["site"],
        human=row["human"],
        roles=frozenset(Role(role) for role in row["roles"]),
    )  # fmt: skip


def revoke(connection: sa.Connection, token_id: str, *, actor: Principal) -> None:
    """End a token now, and every token that it has made.

    Raises:
        Forbidden: the actor may not.
        NotFound: there is no live token with that id.
    """
    require(actor, Permission.TOKENS_WRITE)
    if not _end(connection, tokens.c.id == token_id, actor):
        raise NotFound(f"No live token {token_id}.")
    parents = [token_id]
    while parents:  # a token's own tokens, and theirs: whatever became of those between
        made = connection.execute(sa.select(tokens.c.id).where(tokens.c.parent_id.in_(parents))).scalars().all()
        _end(connection, tokens.c.parent_id.in_(parents), actor)
        parents = list(made)


def _end(connection: sa.Connection, which: sa.ColumnElement[bool], actor: Principal) -> bool:
    """End the live ones of some tokens; tell whether there were any."""
    live = sa.and_(which, tokens.c.revoked_at.is_(None))
    ended = tokens.update().where(live).values(revoked_at=clock.now()).returning(tokens.c.id, tokens.c.name)
    rows = connection.execute(ended).all()
    for row in rows:
        outbox.append(connection, TokenRevoked(token_id=row.id, name=row.name), actor=actor)
    return bool(rows)


def _check(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
