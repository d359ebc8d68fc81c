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
        """Give the JSON-able fields."""
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
        """Give the fields as they stand in the table."""
        return self.data


del Event.KINDS["UnknownFact"]


# identity and registry


@dataclass(frozen=True, kw_only=True)
class DeviceRegistered(Event):
    """One device was added to the registry; told by `lachan.devices` (an import tells of its rows together)."""

    name: str
    vendor: str
    model: str
    serial: str
    criticality: str


@dataclass(frozen=True, kw_only=True)
class DeviceChanged(Event):
    """A person or import changed one field of a device's registry row; told by `lachan.devices`."""

    field_name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class IdentityContested(Event):
    """Devices were written with an address that others of their site have; told by `lachan.devices`, under the first of those.

    ``devices`` are those that had it, ``by`` the new ones. Its actor is who wrote these.
    """

    devices: tuple[str, ...]
    by: tuple[str, ...]
    address: str
    site: str


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
    """A person took a device out of service for good; told by `lachan.devices`."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class UserAdded(Event):
    """An administrator let a person in, with these roles; told by `lachan.identity.people`."""

    user: str
    roles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SignInLinkMade(Event):
    """Somebody made a one-time sign-in link for a person; told by `lachan.identity.people`."""

    user: str


@dataclass(frozen=True, kw_only=True)
class SignedIn(Event):
    """A person's session began; told by `lachan.identity.people`."""

    user: str


@dataclass(frozen=True, kw_only=True)
class SignedOut(Event):
    """A person ended a session; told by `lachan.identity.people` (an expired session tells nothing)."""

    user: str


@dataclass(frozen=True, kw_only=True)
class TokenIssued(Event):
    """An administrator made a machine's token; told by `lachan.identity.tokens`, which keeps its hash only."""

    token_id: str
    name: str
    roles: tuple[str, ...]
    expires_at: str


@dataclass(frozen=True, kw_only=True)
class TokenRevoked(Event):
    """An administrator made a token worthless; told by `lachan.identity.tokens`."""

    token_id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class AuditorRead(Event):
    """An auditor looked at something; told by the people door, once a while for the same thing."""

    user: str
    resource: str


# pki and signer


@dataclass(frozen=True, kw_only=True)
class AuthorityCreated(Event):
    """An authority, root or issuing, got its certificate; told by `pki.setup`."""

    name: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class RootCrlRenewed(Event):
    """The root's key was brought back and has signed the root's next CRL; told by `pki.setup`."""

    number: int
    next_update: str


@dataclass(frozen=True, kw_only=True)
class AnchorAdded(Event):
    """The device door believes a manufacturer's authority from now on; told by `api.device.anchors`."""

    fingerprint: str
    anchor_of: str
    exceptions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AnchorRemoved(Event):
    """The device door believes a manufacturer's authority no longer; told by `api.device.anchors`."""

    fingerprint: str
    anchor_of: str


@dataclass(frozen=True, kw_only=True)
class EnrolmentSecretIssued(Event):
    """Somebody made a one-time secret that a device may enrol with; told by `pki.secrets`."""

    secret_id: str
    profile: str
    expires_at: str


@dataclass(frozen=True, kw_only=True)
class EnrolmentRefused(Event):
    """A device asked for a certificate and got none; told by `pki.enrolment`."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class CertificateIssued(Event):
    """A certificate was signed and recorded as valid; told by `pki.issuing` in the same unit."""

    serial_number: str
    fingerprint: str
    profile: str
    not_after: str


@dataclass(frozen=True, kw_only=True)
class CertificateSuspended(Event):
    """A certificate was put on hold, which can be lifted; told by `pki.revocation`."""

    serial_number: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CertificateReleased(Event):
    """The last hold of a certificate was lifted, so it is valid again; told by `pki.revocation`."""

    serial_number: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CertificateRevoked(Event):
    """A certificate was withdrawn for good; told by `pki.revocation`."""

    serial_number: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PossibleCloneSeen(Event):
    """Somebody showed a certificate that the device itself has replaced; told by `pki.replacing`, once a certificate and day."""

    serial_number: str
    address: str
    replaced_at: str


@dataclass(frozen=True, kw_only=True)
class SignatureRefused(Event):
    """The signer said no to a request; told by `lachan.signer.relay` from the signer's own log."""

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
    """A firmware image is whole in the store; told by `ota_signing.service`."""

    artifact_id: str
    sha256: str
    length: int
    vendor: str


@dataclass(frozen=True, kw_only=True)
class ReleaseProposed(Event):
    """Somebody asked that an artifact become a release, which needs approvals; told by `ota_signing.service`."""

    release_id: str
    vendor: str
    model: str
    version: str
    sha256: str
    approvals_needed: int


@dataclass(frozen=True, kw_only=True)
class FirmwareApproved(Event):
    """One person approved a release for exactly this digest; told by `ota_signing.service`."""

    release_id: str
    approver: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class FirmwareSigned(Event):
    """The signer signed a release that had its approvals; told by `ota_signing.publishing`."""

    release_id: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class FirmwarePublished(Event):
    """A signed release may now be offered to devices; told by `ota_signing.service`."""

    release_id: str
    version: str


@dataclass(frozen=True, kw_only=True)
class FirmwareHalted(Event):
    """A release is offered to nobody any more; told by `ota_signing`, by a person's word or a failed audit."""

    release_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class FirmwareResumed(Event):
    """A person had a halted release offered again; told by `ota_signing.service`."""

    release_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class FirmwareInstalled(Event):
    """A device reported how an installation ended; told by `ota_signing.delivery`."""

    release_id: str
    version: str
    outcome: str


# siem_rules


@dataclass(frozen=True, kw_only=True)
class RulesLoaded(Event):
    """The detector took up another set of rules; kept for the tables that hold it."""

    digest: str
    count: int


@dataclass(frozen=True, kw_only=True)
class AlertRaised(Event):
    """An episode opened an alert or made one graver; told by `siem_rules.alerts`; playbooks start by it."""

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
    """A person took note of an alert; told by `siem_rules.service`."""

    alert_id: str


@dataclass(frozen=True, kw_only=True)
class AlertAssigned(Event):
    """A person gave an alert to somebody; told by `siem_rules.service`."""

    alert_id: str
    assignee: str


@dataclass(frozen=True, kw_only=True)
class EvidenceForgotten(Event):
    """The detector forgot so much of what a sender's lines had shown within an hour, for want of room; told by `siem_rules.forgotten`."""

    what: str
    sender: str
    count: int


@dataclass(frozen=True, kw_only=True)
class AlertCommented(Event):
    """A person wrote on an alert; told by `siem_rules.service`."""

    alert_id: str
    comment: str


@dataclass(frozen=True, kw_only=True)
class AlertClosed(Event):
    """A person ended an alert's episode with a verdict; told by `siem_rules.service`."""

    alert_id: str
    verdict: str


# soar_playbooks


@dataclass(frozen=True, kw_only=True)
class PlaybookLoaded(Event):
    """A signed playbook of a trusted signer was taken in; told by `soar_playbooks.playbooks`."""

    playbook_id: str
    version: str
    digest: str
    signer: str


@dataclass(frozen=True, kw_only=True)
class PlaybookRefused(Event):
    """A playbook could not be started or gone on with; told by `soar_playbooks.runs`."""

    file: str
    reason: str
    step: str = ""


@dataclass(frozen=True, kw_only=True)
class PlaybookModeChanged(Event):
    """A playbook was switched between proposing and enforcing; told by `soar_playbooks.playbooks`."""

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
    """A playbook began for a device; told by `soar_playbooks.runs.triggers`."""

    run_id: str
    playbook_id: str
    playbook_version: str
    mode: str
    alert_id: str = ""


@dataclass(frozen=True, kw_only=True)
class RunJoined(Event):
    """Alerts joined a run of their device; ``raised``: they made it graver. Told by `soar_playbooks.runs.joining`."""

    run_id: str
    alerts: tuple[str, ...] = ()
    raised: bool = False


@dataclass(frozen=True, kw_only=True)
class ApprovalNeeded(Event):
    """A run or a containment waits for people; told by `soar_playbooks`."""

    run_id: str
    needed: int
    reason: str
    containment_id: str = ""


@dataclass(frozen=True, kw_only=True)
class RunApproved(Event):
    """Run, or what it waits for, approved by one person; ``shown`` is the digest of what they saw."""

    run_id: str
    person: str
    containment_id: str = ""
    shown: str = ""


@dataclass(frozen=True, kw_only=True)
class RunRejected(Event):
    """A person refused what a run waited for; told by `soar_playbooks.runs.decisions`."""

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
    """A run reached its end, well or not; told by `soar_playbooks.runs`."""

    run_id: str
    outcome: str


@dataclass(frozen=True, kw_only=True)
class RunOutcomeUnknown(Event):
    """Nobody knows whether a step took effect; told by `soar_playbooks.runs.executor`, for a person to say."""

    run_id: str
    step: str


@dataclass(frozen=True, kw_only=True)
class ContainmentWaiting(Event):
    """A guard held a containment back until people decide; told by `soar_playbooks.containment`."""

    run_id: str
    guard: str
    reason: str
    containment_id: str = ""


@dataclass(frozen=True, kw_only=True)
class DeviceContained(Event):
    """A containment took effect at this level; told by `soar_playbooks.containment`."""

    containment_id: str
    level: str
    reason: str
    run_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ContainmentLengthened(Event):
    """A containment in effect lasts until ``until`` now (empty: until released); told by `soar_playbooks.containment`."""

    containment_id: str
    until: str
    by: str


@dataclass(frozen=True, kw_only=True)
class ContainmentRejected(Event):
    """What a containment waited for was rejected by a person."""

    containment_id: str
    person: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class EnforcementSettled(Event):
    """An enforcement point is as wanted; told by `soar_playbooks.containment.reconciler`, with evidence."""

    containment_id: str
    point: str
    evidence: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReleaseApproved(Event):
    """One person agreed to a release from containment; told by `soar_playbooks.containment.approvals`."""

    containment_id: str
    person: str
    approvals: int = 1
    needed: int = 2


@dataclass(frozen=True, kw_only=True)
class ContainmentEnded(Event):
    """A containment's row ended, by release, expiry or replacement; told by `soar_playbooks.containment`."""

    containment_id: str
    by: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class HumanPaged(Event):
    """Somebody must look at once; told by `soar_playbooks` where it may not act by itself."""

    reason: str
    run_id: str = ""
    alert_id: str = ""


@dataclass(frozen=True, kw_only=True)
class KillSwitchChanged(Event):
    """Somebody stopped all automatic containment, or allowed it again; told by `soar_playbooks.containment`."""

    active: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class SessionsClosed(Event):
    """The device door cut live connections of a device it no longer admits; told by `api.device.reporter`."""

    connections: int


# posture and trust


@dataclass(frozen=True, kw_only=True)
class EngagementRequested(Event):
    """Somebody asked for leave to probe a device; told by `posture.engagements`."""

    engagement_id: str
    methods: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EngagementApproved(Event):
    """Somebody else gave that leave for exactly this digest; told by `posture.engagements`."""

    engagement_id: str
    approver: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class EngagementStopped(Event):
    """A person withdrew the leave to probe; told by `posture.engagements`."""

    engagement_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DeclarationAccepted(Event):
    """A manufacturer's declaration is the current one of its model; told by `posture.declarations`."""

    declaration_id: str
    vendor: str
    model: str


@dataclass(frozen=True, kw_only=True)
class PostureAssessed(Event):
    """A device was judged by all criteria; told by `posture.service`."""

    run_id: str
    merkle_root: str
    counts: dict[str, int]
    catalogue: str


@dataclass(frozen=True, kw_only=True)
class VerdictChanged(Event):
    """A criterion's verdict is another than before; told by `posture.service` (an unchanged one tells nothing)."""

    criterion: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TrustChanged(Event):
    """The decision on a device became another; kept for the tables that hold it."""

    before: str
    after: str
    reasons: tuple[str, ...]
