"""Who is asking, and what they may do: one `Principal`, one permission table, tokens, people and their sessions."""

from lachan.identity.permissions import PERSON_ONLY, Permission, Role
from lachan.identity.principal import Principal, PrincipalKind, require, scope, system

__all__ = [
    "PERSON_ONLY",
    "Permission",
    "Principal",
    "PrincipalKind",
    "Role",
    "require",
    "scope",
    "system",
]
