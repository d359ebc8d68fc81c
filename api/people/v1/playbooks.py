"""Playbooks over HTTP: what is loaded, by whom it was signed, and what it may do by itself."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from api.people.access import may, runtime
from api.problems import documented
from lachan.identity import Permission, Principal
from lachan.runtime import Runtime
from soar_playbooks import playbooks
from soar_playbooks.playbooks import Mode

router = APIRouter(prefix="/api/v1/playbooks", tags=["playbooks"])
Reader = Annotated[Principal, Depends(may(Permission.PLAYBOOKS_READ))]
Open = Annotated[Runtime, Depends(runtime)]


class PlaybookOut(BaseModel):
    """A loaded playbook."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["playbook--694acdac-23ea-466c-aa07-2dc2a6c38a8e"])
    name: str
    version: str = Field(description="CACAO's `modified`; an older one is refused.")
    digest: str = Field(description="SHA-256 of the canonical JSON, signature included.")
    file: str
    mode: Mode
    loaded_by: str
    loaded_at: datetime


class PlaybookDetail(PlaybookOut):
    """A loaded playbook with its document."""

    document: dict[str, Any] = Field(description="CACAO 2.0 with lachan's extension.")


class Playbooks(BaseModel):
    """All loaded playbooks; there are few."""

    items: list[PlaybookOut]


class NewPlaybook(BaseModel):
    """A signed playbook to load."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(max_length=200, pattern=r"^[\w.-]+$", description="The file's name, for errors.")
    text: str = Field(max_length=500_000, description="The signed file, unchanged.")


class NewMode(BaseModel):
    """What the playbook may do by itself from now on."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode


@router.get("", summary="List loaded playbooks")
def list_playbooks(caller: Reader, rt: Open) -> Playbooks:
    """Give all loaded playbooks by name."""
    with rt.db.read() as connection:
        return Playbooks(items=[PlaybookOut.model_validate(row) for row in playbooks.listing(connection)])


@router.get("/{playbook_id}", summary="Read one playbook", responses=documented(404))
def read_playbook(playbook_id: str, caller: Reader, rt: Open) -> PlaybookDetail:
    """Give a playbook's row and the signed document."""
    with rt.db.read() as connection:
        row = playbooks.get(connection, playbook_id)
        return PlaybookDetail(**row.__dict__, document=playbooks.document(connection, row.digest))


@router.post("", status_code=201, summary="Load a signed playbook", responses=documented(403, 409, 422))
def load_playbook(
    body: NewPlaybook, caller: Annotated[Principal, Depends(may(Permission.PLAYBOOKS_WRITE))], rt: Open
) -> PlaybookOut:
    """Load a signed playbook or a later version of one; a new one begins in propose mode."""
    return rt.db.run(
        lambda connection: PlaybookOut.model_validate(
            playbooks.load(connection, caller, text=body.text, file=body.file)
        )
    )


@router.put("/{playbook_id}/mode", summary="Propose, enforce, or off", responses=documented(404))
def set_playbook_mode(
    playbook_id: str,
    body: NewMode,
    caller: Annotated[Principal, Depends(may(Permission.PLAYBOOKS_MODE))],
    rt: Open,
) -> PlaybookOut:
    """Switch what the playbook may do by itself; recorded in the ledger."""
    return rt.db.run(
        lambda connection: PlaybookOut.model_validate(
            playbooks.set_mode(connection, caller, playbook_id=playbook_id, mode=body.mode)
        )
    )
