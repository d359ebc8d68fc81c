"""What enters and leaves this room: states, outcomes, and the values that travel."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ReleaseState(StrEnum):
    """The life of a release, in order; ``halted`` goes back to ``published`` when it is resumed."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    SIGNED = "signed"
    PUBLISHED = "published"
    HALTED = "halted"


class InstallOutcome(StrEnum):
    """What a device says became of an update."""

    INSTALLED = "installed"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An uploaded file; its bytes never change."""

    id: str
    vendor: str
    name: str
    sha256: str
    length: int
    uploaded_by: str
    uploaded_at: datetime


@dataclass(frozen=True, kw_only=True)
class Approval:
    """One person's approval and the digest that it covers."""

    person: str
    digest: str
    approved_at: datetime


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release as people and devices may see it. ``digest`` is what approvals must cover."""

    id: str
    vendor: str
    model: str
    version: str
    artifact_id: str
    sha256: str
    length: int
    approvals_needed: int
    downgrade: bool
    notes: str
    proposer: str
    digest: str
    target_path: str
    state: ReleaseState
    reason: str
    listed: bool
    proposed_at: datetime
    signed_at: datetime | None
    published_at: datetime | None
    approvals: tuple[Approval, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Install:
    """One report of a device about a release."""

    id: str
    device_id: str
    release_id: str
    version: str
    outcome: InstallOutcome
    detail: str
    reported_at: datetime
