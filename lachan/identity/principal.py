"""`Principal`: whoever is asking, however they proved it; and the two questions every room asks of it.

`require` answers "may they?", `scope` narrows a query to what they may see. A manufacturer meets other vendors' things as
if they did not exist.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import sqlalchemy as sa

from lachan.errors import Forbidden, NotFound
from lachan.identity.permissions import PERSON_ONLY, ROLE_PERMISSIONS, Permission, Role

S = TypeVar("S", bound=sa.Select[Any])


class PrincipalKind(StrEnum):
    """How somebody is known to us."""

    PERSON = "person"
    TOKEN = "token"
    DEVICE = "device"
    COLLECTOR = "collector"
    SYSTEM = "system"
    NOBODY = "nobody"


class PersonNeeded(Forbidden):
    """Approvals need a person's own session, never a token or certificate (design decision 15)."""

    title, hint = (
        "A person's session is needed",
        "Sign in at the console with your own link; tokens cannot approve.",
    )


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Somebody who asks.

    Attributes:
        kind: how they are known.
        id: id of the person, token, device or part of lachan.
        name: what people call it.
        roles: what they may do, through `ROLE_PERMISSIONS`.
        vendor: a manufacturer's only vendor; None sees all.
        site: a collector's only site.
        session: id of a person's session; None without one.
        human: id of the person, or shell, who stands behind a token; empty for others, who are themselves.
        shells: ids of the shell accounts that count as this person (`lachan.identity.humans`).
    """

    kind: PrincipalKind
    id: str
    name: str
    roles: frozenset[Role] = field(default_factory=frozenset)
    vendor: str | None = None
    site: str | None = None
    session: str | None = None
    human: str = ""
    shells: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """How events name them: ``person:an``, ``device:<id>``, ``system:detector``."""
        return f"{self.kind}:{self.id if self.kind is PrincipalKind.DEVICE else self.name}"

    def may(self, permission: Permission) -> bool:
        """Tell whether one of the roles has the permission (system parts have all but those of persons)."""
        if permission in PERSON_ONLY and (self.kind is not PrincipalKind.PERSON or not self.session):
            return False
        if self.kind is PrincipalKind.SYSTEM:
            return True
        return any(permission in ROLE_PERMISSIONS[role] for role in self.roles)


def system(name: str) -> Principal:
    """Give the principal of a part of lachan itself."""
    return Principal(kind=PrincipalKind.SYSTEM, id=name, name=name)


NOBODY = Principal(kind=PrincipalKind.NOBODY, id="nobody", name="nobody")


def require(principal: Principal, permission: Permission, *, vendor: str | None = None) -> None:
    """Let pass who may, and nobody else.

    Args:
        principal: who asks.
        permission: what for.
        vendor: the vendor whose thing it is, where it has one.

    Raises:
        PersonNeeded: the permission needs a person's session and this is none.
        Forbidden: no role of theirs has the permission.
        NotFound: it belongs to a vendor that they may not see.
    """
    if not principal.may(permission):
        if permission in PERSON_ONLY and any(permission in ROLE_PERMISSIONS[role] for role in principal.roles):
            raise PersonNeeded(f"{permission} needs a person's session.", permission=str(permission))
        raise Forbidden(f"{principal.label} lacks {permission}.", permission=str(permission))
    if principal.vendor is not None and vendor is not None and principal.vendor != vendor:
        raise NotFound


def scope(principal: Principal, statement: S, vendor_column: sa.ColumnElement[Any]) -> S:
    """Narrow a query to the vendor that the principal may see."""
    if principal.vendor is None:
        return statement
    return statement.where(vendor_column == principal.vendor)
