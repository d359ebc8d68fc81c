"""Playbooks of this installation: the trust list, loading, modes, and the check before every run.

Loading refuses what is unsigned, untrusted, revoked, changed or older than any version that was loaded or run. `verified`
repeats all of that at each start and each resumption of a run, from the stored bytes, so a row changed by hand starts
nothing. The server holds no playbook key: it can check, never sign. Limits: a database writer can delete a playbook.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from lachan import clock, verbs
from lachan.database import for_update, insert_ignore
from lachan.errors import LachanError
from lachan.events import PlaybookLoaded, PlaybookModeChanged, PlaybookSignerChanged
from lachan.identity import Permission, Principal, require
from lachan.statements import Statement, pipeline
from lachan.work import outbox
from soar_playbooks.cacao import jss, reader
from soar_playbooks.cacao.lint import VerbFacts
from soar_playbooks.cacao.model import Playbook
from soar_playbooks.errors import (
    PlaybookRevoked,
    PlaybookRolledBack,
    SignatureInvalid,
    SignerRevoked,
    SignerUntrusted,
    UnknownPlaybook,
)
from soar_playbooks.models import playbook_signers, playbook_versions, playbooks, runs


class Mode(StrEnum):
    """What a playbook may do by itself. It begins in propose; an administrator switches it."""

    PROPOSE = "propose"
    ENFORCE = "enforce"
    OFF = "off"


@dataclass(frozen=True)
class Loaded:
    """A loaded playbook's row."""

    id: str
    name: str
    version: str
    digest: str
    file: str
    mode: Mode
    loaded_by: str
    loaded_at: Any


# the trust list


def trust_signer(connection: sa.Connection, principal: Principal, *, pem: str, name: str) -> str:
    """Put a signer's public key on the trust list; give its thumbprint. A revoked one stays revoked.

    Raises:
        Forbidden: the principal may not write playbooks.
        PlaybookInvalid: no P-256 public key.
        SignerRevoked: the key was revoked before.
    """
    require(principal, Permission.PLAYBOOKS_MODE)
    key = jss.load_public(pem)
    thumbprint = jss.thumbprint(key)
    values = {"thumbprint": thumbprint, "name": name, "public_key": jss.public_pem(key), "added_by": principal.label}
    if insert_ignore(connection, playbook_signers, {**values, "added_at": clock.now()}, index=("thumbprint",)):
        outbox.append(
            connection, PlaybookSignerChanged(signer=thumbprint, name=name, change="trusted"), actor=principal
        )
        return thumbprint
    revoked = sa.select(playbook_signers.c.revoked_at).where(playbook_signers.c.thumbprint == thumbprint)
    if connection.execute(revoked).scalar() is not None:
        raise SignerRevoked(f"Signer {thumbprint[:16]} was revoked; make a new key.", signer=thumbprint)
    return thumbprint


def revoke_signer(connection: sa.Connection, principal: Principal, *, thumbprint: str) -> None:
    """Take a signer off the trust list for good: what it signed is refused from now on, also at running runs.

    Raises:
        Forbidden: the principal may not write playbooks.
        SignerUntrusted: it is not on the list.
    """
    require(principal, Permission.PLAYBOOKS_MODE)
    row = _signer(connection, thumbprint)
    where = sa.and_(playbook_signers.c.thumbprint == thumbprint, playbook_signers.c.revoked_at.is_(None))
    if connection.execute(playbook_signers.update().where(where).values(revoked_at=clock.now())).rowcount:
        event = PlaybookSignerChanged(signer=thumbprint, name=row["name"], change="revoked")
        outbox.append(connection, event, actor=principal)


def signers(connection: sa.Connection) -> list[dict[str, Any]]:
    """Give the trust list, revoked ones included."""
    query = sa.select(playbook_signers).order_by(playbook_signers.c.added_at)
    return [dict(row) for row in connection.execute(query).mappings()]


# loading


def load(connection: sa.Connection, principal: Principal, *, text: str, file: str) -> Loaded:
    """Load a signed playbook, or a newer version of one; a new one begins in propose mode.

    Args:
        connection: an open `Database.write`.
        principal: who loads it.
        text: the signed file's text.
        file: its name, for errors and people.

    Raises:
        Forbidden: the principal may not.
        PlaybookInvalid: not valid (`soar_playbooks.cacao.reader.read`), with file and step.
        PlaybookUnsigned, SignatureInvalid, SignerUntrusted, SignerRevoked, PlaybookRevoked, PlaybookRolledBack: with
            file and step.
    """
    require(principal, Permission.PLAYBOOKS_WRITE)
    playbook = reader.read(text, file=file, verbs=verb_facts())
    digest = jss.digest(playbook.document)
    lock = for_update(sa.select(playbooks).where(playbooks.c.id == playbook.id), connection)
    present = connection.execute(lock).mappings().first()
    try:
        signer = check(connection, playbook, digest=digest)
    except LachanError as error:
        raise _at(error, file=file, step=playbook.workflow_start) from error
    version = {"digest": digest, "playbook_id": playbook.id, "version": playbook.version, "signer": signer}
    row: dict[str, Any] = {"name": playbook.name, "version": playbook.version, "digest": digest, "file": file}
    row |= {"loaded_by": principal.label, "loaded_at": clock.now()}
    document = {"document": text, "loaded_at": clock.now()}
    insert_ignore(connection, playbook_versions, {**version, **document}, index=("digest",))
    if present is None:
        connection.execute(playbooks.insert().values(id=playbook.id, mode=Mode.PROPOSE, **row))
    else:
        connection.execute(playbooks.update().where(playbooks.c.id == playbook.id).values(**row))
    if present is None or present["digest"] != digest:
        event = PlaybookLoaded(playbook_id=playbook.id, version=playbook.version, digest=digest, signer=signer)
        outbox.append(connection, event, actor=principal)
    return get(connection, playbook.id)


def check(
    connection: sa.Connection, playbook: Playbook, *, digest: str, known: Any = None, starting: bool = True
) -> str:
    """Check signature, signer, revocation and version of a playbook; give the signer's thumbprint.

    Args:
        connection: any connection.
        playbook: which.
        digest: of its document.
        known: a row of the trust list that was just read; it counts if it is the signer's.
        starting: whether something is to begin by it; what began while the signature was in its dates is ended, and undone.

    Raises:
        PlaybookUnsigned, SignatureInvalid: no signature, or it does not fit.
        SignatureOutOfDate: its signature is not valid yet, or no longer.
        SignerUntrusted, SignerRevoked: the signer is not on the trust list, or no longer.
        PlaybookRevoked: its author revoked it.
        PlaybookRolledBack: a later version was loaded or run, or the same version with other content.
    """
    signature = jss.signature_of(playbook.document)
    thumbprint = str(signature.get("thumbprint", ""))
    row = known._asdict() if known is not None and known.thumbprint == thumbprint else _signer(connection, thumbprint)
    _signed(_Held(playbook.document, digest), row["public_key"])
    if starting:
        jss.check_dates(signature, at=clock.now())
    if row["revoked_at"] is not None:
        raise SignerRevoked(f"Signer {row['name']} is revoked.", signer=row["thumbprint"])
    if playbook.revoked:
        raise PlaybookRevoked(f"{playbook.name} is revoked by its author.")
    mine = {"id_": playbook.id, "version_": playbook.version, "digest_": digest}
    for done in pipeline(connection, [(_LOADED_LATER, mine), (_RAN_LATER, mine)]):
        version = done.rows[0][0]
        if version is not None:
            raise PlaybookRolledBack(
                f"Version {playbook.version} was followed by {version}.", version=playbook.version, newest=version
            )
    return str(row["thumbprint"])


@dataclass(frozen=True)
class _Held:
    """A document as a key of `_signed`: its canonical bytes are what its digest says."""

    document: Mapping[str, Any] = field(compare=False)
    digest: str


@lru_cache(maxsize=256)
def _signed(held: _Held, public_key: str) -> None:
    """Verify a signature, once for the same bytes and the same key.

    Raises:
        SignatureInvalid: it does not fit; nothing is remembered then.
    """
    jss.verify(held.document, jss.load_public(public_key))


@dataclass(frozen=True)
class Enabled:
    """A loaded playbook that is not off, as it is stored, with its signer's row (None: it has none)."""

    loaded: Loaded
    document: str
    signer: Any

    def parsed(self) -> Playbook:
        """Give what the stored bytes say; unverified: `check_enabled` comes before anything is done by it."""
        return _read_cached(self.document)[0]


def enabled(connection: sa.Connection) -> list[Enabled]:
    """Give all loaded playbooks that are not off, with their stored bytes, by one statement."""
    found = []
    for row in _ENABLED.all(connection):
        values = row._asdict()
        document = values.pop("document")
        signer = _Signer(**{name: values.pop(f"signer_{name}") for name in _Signer._fields})
        loaded = Loaded(**values | {"mode": Mode(row.mode)})
        found.append(Enabled(loaded, document, signer if signer.thumbprint else None))
    return found


def check_enabled(connection: sa.Connection, playbook: Enabled) -> Playbook:
    """Check a loaded playbook that is to start; give it.

    Raises:
        SignatureInvalid: the stored bytes are not those that were loaded.
        PlaybookInvalid and those of `check`: otherwise.
    """
    parsed, digest = _read_cached(playbook.document)
    if digest != playbook.loaded.digest:
        raise SignatureInvalid("The stored playbook is not the one that was loaded.", step=parsed.workflow_start)
    check(connection, parsed, digest=digest, known=playbook.signer)
    return parsed


def verified(connection: sa.Connection, digest: str, *, starting: bool) -> Playbook:
    """Read a stored playbook that holds every check now; called at each start and each resumption of a run.

    Args:
        connection: any connection.
        digest: which version.
        starting: a start also refuses versions that were followed by a later one; a resumption finishes what it began.

    Raises:
        UnknownPlaybook: no such version is stored.
        SignatureInvalid: the stored bytes are not those that were loaded.
        PlaybookInvalid and those of `check`: otherwise.
    """
    stored, signer = pipeline(connection, [(_DOCUMENT, {"digest_": digest}), (_SIGNER_OF, {"digest_": digest})])
    if not stored.rows:
        raise UnknownPlaybook(f"No playbook with digest {digest[:16]} is stored.")
    playbook, found = _read_cached(stored.rows[0].document)
    if found != digest:
        raise SignatureInvalid("The stored playbook is not the one that was loaded.", step=playbook.workflow_start)
    try:
        check(connection, playbook, digest=digest, known=signer.rows[0] if signer.rows else None, starting=starting)
    except PlaybookRolledBack:
        if starting:
            raise
    return playbook


@lru_cache(maxsize=256)
def _read_cached(text: str) -> tuple[Playbook, str]:
    """Read a stored text, once for the same bytes; gives the playbook and its digest."""
    playbook = reader.read(text, file="stored", verbs=verb_facts())
    return playbook, jss.digest(playbook.document)


# modes


def set_mode(connection: sa.Connection, principal: Principal, *, playbook_id: str, mode: Mode) -> Loaded:
    """Switch what a playbook may do by itself.

    Raises:
        Forbidden: the principal is no administrator.
        UnknownPlaybook: it is not loaded.
    """
    require(principal, Permission.PLAYBOOKS_MODE)
    before = get(connection, playbook_id)
    connection.execute(playbooks.update().where(playbooks.c.id == before.id).values(mode=mode))
    if before.mode is not mode:
        event = PlaybookModeChanged(playbook_id=before.id, before=before.mode, after=mode)
        outbox.append(connection, event, actor=principal)
    return get(connection, before.id)


def get(connection: sa.Connection, playbook_id: str) -> Loaded:
    """Find a loaded playbook by its id, or by its exact name.

    Raises:
        UnknownPlaybook: it is not loaded, or several have that name.
    """
    query = sa.select(playbooks).where(sa.or_(playbooks.c.id == playbook_id, playbooks.c.name == playbook_id))
    found = connection.execute(query).mappings().all()
    if len(found) != 1:
        raise UnknownPlaybook(f"No one playbook {playbook_id} is loaded.")
    return Loaded(**{**found[0], "mode": Mode(found[0]["mode"])})


def listing(connection: sa.Connection) -> list[Loaded]:
    """Give all loaded playbooks by name."""
    return [Loaded(**{**row._asdict(), "mode": Mode(row.mode)}) for row in _LISTING.all(connection)]


def document(connection: sa.Connection, digest: str) -> dict[str, Any]:
    """Give the stored document of a version, for people to read.

    Raises:
        UnknownPlaybook: no such version is stored.
    """
    query = sa.select(playbook_versions.c.document).where(playbook_versions.c.digest == digest)
    text = connection.execute(query).scalar()
    if text is None:
        raise UnknownPlaybook(f"No playbook with digest {digest[:16]} is stored.")
    found: dict[str, Any] = json.loads(text)
    return found


def verb_facts() -> Mapping[str, VerbFacts]:
    """Tell what the lint needs to know of this installation's verbs; `run_id` and `until` are given by the executor."""
    facts: dict[str, VerbFacts] = {}
    for name, verb in verbs.registry().items():
        fields = verb.parameters.model_fields
        wanted = {key: field.is_required() for key, field in fields.items() if key not in {"run_id", "until"}}
        facts[name] = VerbFacts(wanted, verb.undo)
    return facts


def _signer(connection: sa.Connection, thumbprint: str) -> Any:
    row = _SIGNER.first(connection, thumbprint_=thumbprint)
    if row is None:
        raise SignerUntrusted(
            f"Signer {thumbprint[:16] or 'without name'} is not on the trust list.", signer=thumbprint
        )
    return row._asdict()


def _later(table: sa.Table, version: str) -> Statement:
    """Find the first of a playbook's versions in a table that is later, or the same with another digest: seeks, no scans."""
    id_, mine, digest = (sa.bindparam(name, type_=sa.String) for name in ("id_", "version_", "digest_"))
    column, other = table.c[version], table.c.digest
    same = sa.and_(column == mine, other != digest)
    here = table.c.playbook_id == id_
    first = sa.select(column).where(here, column > mine).order_by(column).limit(1)
    twin = sa.select(column).where(here, same).limit(1)
    return Statement(sa.select(sa.func.coalesce(first.scalar_subquery(), twin.scalar_subquery())))


class _Signer(NamedTuple):
    """A row of the trust list, read with a playbook."""

    thumbprint: str
    name: str
    public_key: str
    added_by: str
    added_at: Any
    revoked_at: Any


_ENABLED = Statement(
    sa.select(
        playbooks,
        playbook_versions.c.document,
        *(playbook_signers.c[name].label(f"signer_{name}") for name in _Signer._fields),
    )
    .join(playbook_versions, playbook_versions.c.digest == playbooks.c.digest)
    .outerjoin(playbook_signers, playbook_signers.c.thumbprint == playbook_versions.c.signer)
    .where(playbooks.c.mode != str(Mode.OFF))
    .order_by(playbooks.c.name, playbooks.c.id)
)
_LISTING = Statement(sa.select(playbooks).order_by(playbooks.c.name, playbooks.c.id))
_DOCUMENT = Statement(
    sa.select(playbook_versions.c.document).where(playbook_versions.c.digest == sa.bindparam("digest_"))
)
_SIGNER = Statement(sa.select(playbook_signers).where(playbook_signers.c.thumbprint == sa.bindparam("thumbprint_")))
_SIGNER_OF = Statement(
    sa.select(playbook_signers)
    .join(playbook_versions, playbook_versions.c.signer == playbook_signers.c.thumbprint)
    .where(playbook_versions.c.digest == sa.bindparam("digest_"))
)
_LOADED_LATER = _later(playbook_versions, "version")
_RAN_LATER = _later(runs, "playbook_version")


def _at(error: LachanError, *, file: str, step: str) -> LachanError:
    """Give the same error with file and step; a signature covers all steps, so the start stands for them."""
    return type(error)(f"{file}: {step}: {error.detail}", **{**error.fields, "file": file, "step": step})
