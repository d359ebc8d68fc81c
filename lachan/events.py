"""The vocabulary: every fact that one room tells another, as dataclasses, on one page.

What is an event: anything a human or a machine decided (design decision 3). Polls, heartbeats, log lines and unchanged
verdicts never are. Fields are JSON-able; ``device_id`` names the device that the fact is about, so that timelines,
vendor scope and exports find it.

Length: the vocabulary stands on one page on purpose, two lines a word.
"""

from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar

_SCALARS = frozenset({str, int, bool, type(None)})  # need no copying; most facts have nothing else


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all facts. ``device_id`` is None where a fact speaks of no single device."""

    KINDS: ClassVar[dict[str, type["Event"]]] = {}
    device_id: str | None = None

    def __init_subclass__(cls) -> None:
        Event.KINDS[cls.__name__] = cls

    def body(self) -> dict[str, Any]:
        """The JSON-able fields."""
        flat = dict(vars(self))
        return flat if all(type(value) in _SCALARS for value in flat.values()) else asdict(self)

    @staticmethod
    def load(name: str, body: dict[str, Any]) -> "Event":
        """Read the fact of a stored row; lists become tuples; fields this version does not know are dropped.

        A fact that this version does not know, or that lacks a field it asks for, is an `UnknownFact`: another version
        wrote it, and it must not stop whoever reads the table.
        """
        kind = Event.KINDS.get(name)
        if kind is None or any(key not in body for key in kind.required()):
            return UnknownFact(device_id=body.get("device_id"), name=name, data=dict(body))
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in body.items() if k in kind.__dataclass_fields__
        }
        return kind(**known)

    @classmethod
    def required(cls) -> frozenset[str]:
        """Name the fields that every stored fact of this kind has; a kind grows by optional fields only."""
        given = (f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING)
        return frozenset(given)


@dataclass(frozen=True, kw_only=True)
class UnknownFact(Event):
    """A fact of another version of lachan: its name and its fields as they stand in the table; it is never told."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The fields as they stand in the table."""
        return self.data


del Event.KINDS["UnknownFact"]


# identity and registry


@dataclass(frozen=True, kw_only=True)
class DeviceRegistered(Event):
    """Device registered."""

    name: str
    vendor: str
    model: str
    serial: str
    criticality: str


@dataclass(frozen=True, kw_only=True)
class DeviceChanged(Event):
    """Device changed."""

    field_name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class DevicesImported(Event):
    """Devices imported: a chunk of an import (``chunk`` is its number), or the whole of it (``chunks`` is their count).

    ``merkle_root`` is over the chunk's registered rows, or over the chunks' roots.
    """

    accepted: int
    rejected: int
    merkle_root: str
    import_id: str | None = None
    chunk: int | None = None
    chunks: int | None = None
    file_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceRetired(Event):
    """Device retired."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class UserAdded(Event):
    """User added."""

    user: str
    roles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SignInLinkMade(Event):
    """Sign in link made."""

    user: str


@dataclass(frozen=True, kw_only=True)
class SignedIn(Event):
    """Signed in."""

    user: str


@dataclass(frozen=True, kw_only=True)
class SignedOut(Event):
    """Signed out."""

    user: str


@dataclass(frozen=True, kw_only=True)
class TokenIssued(Event):
    """Token issued."""

    token_id: str
    name: str
    roles: tuple[str, ...]
    expires_at: str


@dataclass(frozen=True, kw_only=True)
class TokenRevoked(Event):
    """Token revoked."""

    token_id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class AuditorRead(Event):
    """Auditor read."""

    user: str
    resource: str


# pki and signer


@dataclass(frozen=True, kw_only=True)
class AuthorityCreated(Event):
    """Authority created."""

    name: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class EnrolmentSecretIssued(Event):
    """Enrolment secret issued."""

    secret_id: str
    profile: str
    expires_at: str


@dataclass(frozen=True, kw_only=True)
class EnrolmentRefused(Event):
    """Enrolment refused."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class CertificateIssued(Event):
    """Certificate issued."""

    serial_number: str
    fingerprint: str
    profile: str
    not_after: str


@dataclass(frozen=True, kw_only=True)
class CertificateSuspended(Event):
    """Certificate suspended."""

    serial_number: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CertificateReleased(Event):
    """Certificate released."""

    serial_number: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CertificateRevoked(Event):
    """Certificate revoked."""

    serial_number: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SignatureRefused(Event):
    """Signature refused."""

    kind: str
    subject: str
    reason: str
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class SignerDiscrepancy(Event):
    """Something was signed that is not in the books; ``closed`` if it was made worthless since."""

    kind: str
    subject: str
    number: int
    closed: bool = False


# ota_signing


@dataclass(frozen=True, kw_only=True)
class ArtifactUploaded(Event):
    """Artifact uploaded."""

    artifact_id: str
    sha256: str
    length: int
    vendor: str


@dataclass(frozen=True, kw_only=True)
class ReleaseProposed(Event):
    """Release proposed."""

    release_id: str
    vendor: str
    model: str
    version: str
    sha256: str
    approvals_needed: int


@dataclass(frozen=True, kw_only=True)
class FirmwareApproved(Event):
    """Firmware approved."""

    release_id: str
    approver: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class FirmwareSigned(Event):
    """Firmware signed."""

    release_id: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class FirmwarePublished(Event):
    """Firmware published."""

    release_id: str
    version: str


@dataclass(frozen=True, kw_only=True)
class FirmwareHalted(Event):
    """Firmware halted."""

    release_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class FirmwareResumed(Event):
    """Firmware resumed."""

    release_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class FirmwareInstalled(Event):
    """Firmware installed."""

    release_id: str
    version: str
    outcome: str


# siem_rules


@dataclass(frozen=True, kw_only=True)
class RulesLoaded(Event):
    """Rules loaded."""

    digest: str
    count: int


@dataclass(frozen=True, kw_only=True)
class AlertRaised(Event):
    """Alert raised."""

    alert_id: str
    rule_id: str
    rule_title: str
    severity: str
    site: str = ""
    subject_bound: bool = False
    outcome: str = "attempt"
    sources: int = 1
    senders: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AlertAcknowledged(Event):
    """Alert acknowledged."""

    alert_id: str


@dataclass(frozen=True, kw_only=True)
class AlertAssigned(Event):
    """Alert assigned."""

    alert_id: str
    assignee: str


@dataclass(frozen=True, kw_only=True)
class AlertCommented(Event):
    """Alert commented."""

    alert_id: str
    comment: str


@dataclass(frozen=True, kw_only=True)
class AlertClosed(Event):
    """Alert closed."""

    alert_id: str
    verdict: str


# soar_playbooks


@dataclass(frozen=True, kw_only=True)
class PlaybookLoaded(Event):
    """Playbook loaded."""

    playbook_id: str
    version: str
    digest: str
    signer: str


@dataclass(frozen=True, kw_only=True)
class PlaybookRefused(Event):
    """Playbook refused."""

    file: str
    reason: str
    step: str = ""


@dataclass(frozen=True, kw_only=True)
class PlaybookModeChanged(Event):
    """Playbook mode changed."""

    playbook_id: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class PlaybookSignerChanged(Event):
    """Playbook signer trusted or revoked."""

    signer: str
    name: str
    change: str


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """Run started."""

    run_id: str
    playbook_id: str
    playbook_version: str
    mode: str
    alert_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ApprovalNeeded(Event):
    """Approval needed."""

    run_id: str
    needed: int
    reason: str
    containment_id: str = ""


@dataclass(frozen=True, kw_only=True)
class RunApproved(Event):
    """Run, or what it waits for, approved by one person."""

    run_id: str
    person: str
    containment_id: str = ""


@dataclass(frozen=True, kw_only=True)
class RunRejected(Event):
    """Run rejected."""

    run_id: str
    person: str


@dataclass(frozen=True, kw_only=True)
class RunResolved(Event):
    """A person said what became of a step whose outcome was unknown."""

    run_id: str
    step: str
    person: str
    happened: bool


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """Run finished."""

    run_id: str
    outcome: str


@dataclass(frozen=True, kw_only=True)
class RunOutcomeUnknown(Event):
    """Run outcome unknown."""

    run_id: str
    step: str


@dataclass(frozen=True, kw_only=True)
class ContainmentWaiting(Event):
    """Containment waiting."""

    run_id: str
    guard: str
    reason: str
    containment_id: str = ""


@dataclass(frozen=True, kw_only=True)
class DeviceContained(Event):
    """Device contained."""

    containment_id: str
    level: str
    reason: str
    run_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ContainmentRejected(Event):
    """What a containment waited for was rejected by a person."""

    containment_id: str
    person: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class EnforcementSettled(Event):
    """Enforcement settled."""

    containment_id: str
    point: str
    evidence: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReleaseApproved(Event):
    """Release approved."""

    containment_id: str
    person: str
    approvals: int = 1
    needed: int = 2


@dataclass(frozen=True, kw_only=True)
class ContainmentEnded(Event):
    """Containment ended."""

    containment_id: str
    by: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class HumanPaged(Event):
    """Human paged."""

    reason: str
    run_id: str = ""
    alert_id: str = ""


@dataclass(frozen=True, kw_only=True)
class KillSwitchChanged(Event):
    """Kill switch changed."""

    active: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class SessionsClosed(Event):
    """Sessions closed."""

    connections: int


# posture and trust


@dataclass(frozen=True, kw_only=True)
class EngagementRequested(Event):
    """Engagement requested."""

    engagement_id: str
    methods: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EngagementApproved(Event):
    """Engagement approved."""

    engagement_id: str
    approver: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class EngagementStopped(Event):
    """Engagement stopped."""

    engagement_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DeclarationAccepted(Event):
    """Declaration accepted."""

    declaration_id: str
    vendor: str
    model: str


@dataclass(frozen=True, kw_only=True)
class PostureAssessed(Event):
    """Posture assessed."""

    run_id: str
    merkle_root: str
    counts: dict[str, int]
    catalogue: str


@dataclass(frozen=True, kw_only=True)
class VerdictChanged(Event):
    """Verdict changed."""

    criterion: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TrustChanged(Event):
    """Trust changed."""

    before: str
    after: str
    reasons: tuple[str, ...]
