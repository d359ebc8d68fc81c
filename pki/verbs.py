"""Requests that other rooms make of the PKI, by name: ``pki.suspend``, ``pki.release``, ``pki.revoke``."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from lachan.verbs import Verb
from pki import revocation
from pki.schemas import Revocation, Suspension


def _suspend(rt: Runtime, connection: sa.Connection, principal: Principal, parameters: Suspension) -> dict[str, Any]:
    return {"certificates": revocation.suspend(rt, connection, principal, **parameters.model_dump())}


def _release(rt: Runtime, connection: sa.Connection, principal: Principal, parameters: Suspension) -> dict[str, Any]:
    return {"certificates": revocation.release(rt, connection, principal, **parameters.model_dump())}


def _revoke(rt: Runtime, connection: sa.Connection, principal: Principal, parameters: Revocation) -> dict[str, Any]:
    return {"certificates": revocation.revoke(rt, connection, principal, **parameters.model_dump())}


SUSPEND = Verb(
    name="pki.suspend", parameters=Suspension, permission=Permission.PKI_SUSPEND, run=_suspend, undo="pki.release"
)
RELEASE = Verb(
    name="pki.release", parameters=Suspension, permission=Permission.PKI_RELEASE, run=_release, undo="pki.suspend"
)
REVOKE = Verb(name="pki.revoke", parameters=Revocation, permission=Permission.PKI_REVOKE, run=_revoke)
