"""API tokens for machines: ``lachan_<id>_<secret>_<check>``, shown once, hashed at rest, always expiring.

The prefix lets scanners find a leaked one, the check refuses a typo without a query, the id finds the row. Elasticsearch
clients send the same token as ``ApiKey base64(id:rest)``.
"""

import base64
import re
import zlib
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lachan import clock
from lachan.errors import NotFound
from lachan.events import TokenIssued, TokenRevoked
from lachan.identity.errors import BadRoles, BadToken
from lachan.identity.models import tokens
from lachan.identity.permissions import Permission, Role
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

    Raises:
        Forbidden: the actor may not make tokens.
        BadRoles: a manufacturer without vendor, a collector without site, or a role that is for people.
    """
    require(actor, Permission.TOKENS_WRITE)
    wanted = frozenset(roles)
    if not wanted or not wanted <= MACHINE_ROLES:
        raise BadRoles(f"A token may have the roles {', '.join(sorted(MACHINE_ROLES))}.")
    if (Role.MANUFACTURER in wanted) != (vendor is not None) or (Role.COLLECTOR in wanted and not site):
        raise BadRoles
    token_id, secret = new_id(), random_text()
    expires = clock.now() + valid
    kind = PrincipalKind.COLLECTOR if Role.COLLECTOR in wanted else PrincipalKind.TOKEN
    connection.execute(
        tokens.insert().values(
            id=token_id, name=name, kind=kind, roles=sorted(wanted), vendor=vendor, site=site,
            hash=hashed(data, secret), created_at=clock.now(), expires_at=expires,
        )
    )  # fmt: skip
    event = TokenIssued(token_id=token_id, name=name, roles=tuple(sorted(wanted)), expires_at=clock.iso(expires))
    outbox.append(connection, event, actor=actor)
    body = f"{token_id.replace('-', '')}_{secret}"
    return f"lachan_{body}_{_check(body)}"


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
        roles=frozenset(Role(role) for role in row["roles"]),
    )  # fmt: skip


def revoke(connection: sa.Connection, token_id: str, *, actor: Principal) -> None:
    """End a token now.

    Raises:
        Forbidden: the actor may not.
        NotFound: there is no live token with that id.
    """
    require(actor, Permission.TOKENS_WRITE)
    live = sa.and_(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
    row = connection.execute(sa.select(tokens.c.name).where(live)).first()
    if row is None:
        raise NotFound(f"No live token {token_id}.")
    connection.execute(tokens.update().where(live).values(revoked_at=clock.now()))
    outbox.append(connection, TokenRevoked(token_id=token_id, name=row.name), actor=actor)


def _check(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
