"""What a manufacturer declares about one model: a small, machine-read part of an IXIT (ETSI TS 103 701).

The newest declaration of a vendor and model counts. A manufacturer uploads for its own vendor only. Nothing in it is
ever fetched: its addresses are shown to people, no more (design decision 14).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import Any

import jsonschema
import rfc8785
import sqlalchemy as sa

from lachan import clock
from lachan.events import DeclarationAccepted
from lachan.identity import Permission, Principal, require, scope
from lachan.ids import new_id
from lachan.work import outbox
from posture.content import FOLDER
from posture.errors import DeclarationInvalid
from posture.evaluate import Declaration
from posture.models import declarations


def accept(connection: sa.Connection, document: Mapping[str, Any], *, actor: Principal) -> Declaration:
    """Check and store a declaration; the same one again changes nothing.

    Raises:
        DeclarationInvalid: it does not match the schema (``path``).
        Forbidden: the actor may not declare.
        NotFound: a manufacturer declares for another vendor.
    """
    validate(document)
    require(actor, Permission.POSTURE_DECLARE, vendor=str(document["vendor"]))
    digest = hashlib.sha256(rfc8785.dumps(dict(document))).hexdigest()
    present = current(connection, vendor=str(document["vendor"]), model=str(document["model"]))
    if present is not None and present.digest == digest:
        return present
    values = {"id": new_id(), "vendor": document["vendor"], "model": document["model"], "digest": digest}
    more = {"document": dict(document), "uploaded_by": actor.label, "uploaded_at": clock.now()}
    connection.execute(declarations.insert().values(**values, **more))
    event = DeclarationAccepted(declaration_id=values["id"], vendor=document["vendor"], model=document["model"])
    outbox.append(connection, event, actor=actor)
    return Declaration(values["id"], digest, dict(document))


def current(connection: sa.Connection, *, vendor: str, model: str) -> Declaration | None:
    """Give the declaration in force for a model, None when the manufacturer never sent one."""
    c = declarations.c
    query = sa.select(declarations).where(c.vendor == vendor, c.model == model).order_by(c.id.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return Declaration(row["id"], row["digest"], row["document"]) if row else None


def find(connection: sa.Connection, *, principal: Principal, after: str = "", limit: int = 100) -> list[dict[str, Any]]:
    """Give declarations newest first, before the id ``after``, that the principal may see."""
    query = sa.select(declarations).order_by(declarations.c.id.desc()).limit(limit)
    if after:
        query = query.where(declarations.c.id < after)
    return [dict(row) for row in connection.execute(scope(principal, query, declarations.c.vendor)).mappings()]


def validate(document: Any) -> None:
    """Check a document against ``criteria/declaration.schema.json``.

    Raises:
        DeclarationInvalid: with the path of the first mistake.
    """
    for error in sorted(_validator().iter_errors(document), key=lambda e: list(map(str, e.absolute_path))):
        path = ".".join(map(str, error.absolute_path)) or "(whole)"
        raise DeclarationInvalid(f"{path}: {error.message[:200]}", path=path)
    for path, text in (("issued", document["issued"]), ("support.end", document.get("support", {}).get("end"))):
        try:
            if text is not None:
                date.fromisoformat(text)
        except ValueError as error:
            raise DeclarationInvalid(f"{path}: {text} is no day of the calendar", path=path) from error


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads((FOLDER / "declaration.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)
