"""What each fact is called on a timeline: its kind, and its sentence with the fact's own fields."""

from __future__ import annotations

from api.people.console.language import N_

# Fact → (kind of the timeline, sentence). The fields are those of `lachan.events`.
SENTENCES: dict[str, tuple[str, str]] = {
    "DeviceRegistered": ("people", N_("Registered as %(name)s: %(vendor)s %(model)s, serial number %(serial)s.")),
    "DeviceChanged": ("people", N_("%(field_name)s changed from %(before)s to %(after)s.")),
    "IdentityContested": (
        "people",
        N_(
            "Address %(address)s at %(site)s is claimed by other devices too; evidence about it binds on an operator's word only."
        ),
    ),
    "DevicesImported": ("people", N_("%(accepted)s devices imported, %(rejected)s rows refused.")),
    "DeviceRetired": ("people", N_("Retired: %(reason)s.")),
    "UserAdded": ("people", N_("%(user)s added as %(roles)s.")),
    "SignInLinkMade": ("people", N_("A sign-in link was made for %(user)s.")),
    "SignedIn": ("people", N_("%(user)s signed in.")),
    "SignedOut": ("people", N_("%(user)s signed out.")),
    "TokenIssued": ("people", N_("Token %(name)s issued until %(expires_at)s.")),
    "TokenRevoked": ("people", N_("Token %(name)s revoked.")),
    "AuditorRead": ("people", N_("%(user)s read %(resource)s.")),
    "AuthorityCreated": ("certificate", N_("Certificate authority %(name)s created.")),
    "RootCrlRenewed": ("certificate", N_("The root's CRL %(number)s is in force until %(next_update)s.")),
    "AnchorAdded": (
        "certificate",
        N_("Authority %(fingerprint)s is believed for devices of %(anchor_of)s (exceptions: %(exceptions)s)."),
    ),
    "AnchorRemoved": ("certificate", N_("Authority %(fingerprint)s of %(anchor_of)s is believed no longer.")),
    "EnrolmentSecretIssued": ("certificate", N_("One-time enrolment secret issued, good until %(expires_at)s.")),
    "EnrolmentRefused": ("certificate", N_("Enrolment refused: %(reason)s. %(detail)s")),
    "CertificateIssued": ("certificate", N_("Certificate %(serial_number)s issued, valid until %(not_after)s.")),
    "CertificateSuspended": ("certificate", N_("Certificate %(serial_number)s suspended: %(reason)s.")),
    "CertificateReleased": ("certificate", N_("Certificate %(serial_number)s in force again: %(reason)s.")),
    "CertificateRevoked": ("certificate", N_("Certificate %(serial_number)s revoked: %(reason)s.")),
    "PossibleCloneSeen": (
        "certificate",
        N_(
            "Possible clone: certificate %(serial_number)s, replaced since %(replaced_at)s, was shown from %(address)s."
        ),
    ),
    "SignatureRefused": ("certificate", N_("The signer refused %(kind)s for %(subject)s: %(reason)s.")),
    "SignerDiscrepancy": (
        "certificate",
        N_("The signer's log has %(kind)s for %(subject)s that the database does not."),
    ),
    "ArtifactUploaded": ("firmware", N_("Firmware file uploaded: %(length)s bytes, SHA-256 %(sha256)s.")),
    "ReleaseProposed": ("firmware", N_("Release %(version)s for %(vendor)s %(model)s proposed.")),
    "FirmwareApproved": ("firmware", N_("Release approved by %(approver)s.")),
    "FirmwareSigned": ("firmware", N_("Release signed.")),
    "FirmwarePublished": ("firmware", N_("Release %(version)s published.")),
    "FirmwareHalted": ("firmware", N_("Release halted: %(reason)s.")),
    "FirmwareResumed": ("firmware", N_("Release handed out again: %(reason)s.")),
    "FirmwareInstalled": ("firmware", N_("Firmware %(version)s reported: %(outcome)s.")),
    "RulesLoaded": ("alert", N_("%(count)s detection rules loaded.")),
    "AlertRaised": ("alert", N_("Alert: %(rule_title)s (%(severity)s, %(outcome)s).")),
    "AlertAcknowledged": ("people", N_("Alert acknowledged.")),
    "AlertAssigned": ("people", N_("Alert assigned to %(assignee)s.")),
    "AlertCommented": ("people", N_("Comment on the alert: %(comment)s")),
    "EvidenceForgotten": ("alert", N_("The detector forgot %(count)s %(what)s of %(sender)s for want of room.")),
    "AlertClosed": ("people", N_("Alert closed: %(verdict)s.")),
    "PlaybookLoaded": ("people", N_("Playbook %(playbook_id)s loaded, version %(version)s.")),
    "PlaybookRefused": ("containment", N_("Playbook %(file)s refused: %(reason)s.")),
    "PlaybookModeChanged": ("people", N_("Playbook switched from %(before)s to %(after)s.")),
    "PlaybookSignerChanged": ("people", N_("Playbook signer %(name)s: %(change)s.")),
    "RunStarted": ("containment", N_("A playbook began: %(mode)s.")),
    "RunJoined": ("containment", N_("Further alerts joined the playbook's run (graver: %(raised)s).")),
    "ApprovalNeeded": ("containment", N_("%(needed)s approvals are needed: %(reason)s")),
    "RunApproved": ("people", N_("%(person)s approved.")),
    "RunRejected": ("people", N_("%(person)s rejected.")),
    "RunResolved": ("people", N_("%(person)s said what became of step %(step)s.")),
    "RunFinished": ("containment", N_("The playbook ended: %(outcome)s.")),
    "RunOutcomeUnknown": ("containment", N_("Nobody knows whether step %(step)s happened; a person must look.")),
    "ContainmentWaiting": ("containment", N_("Containment waits for people (%(guard)s): %(reason)s")),
    "DeviceContained": ("containment", N_("Contained at level %(level)s: %(reason)s")),
    "ContainmentLengthened": ("containment", N_("%(by)s let the containment last longer.")),
    "ContainmentRejected": ("people", N_("%(person)s rejected the containment. %(note)s")),
    "EnforcementSettled": ("containment", N_("%(point)s was seen to have taken effect: %(evidence)s")),
    "ReleaseApproved": ("people", N_("%(person)s approved the release (%(approvals)s of %(needed)s).")),
    "ContainmentEnded": ("containment", N_("Containment ended by %(by)s. %(reason)s")),
    "HumanPaged": ("containment", N_("A person was paged: %(reason)s")),
    "KillSwitchChanged": ("people", N_("Kill switch changed (on: %(active)s): %(reason)s")),
    "SessionsClosed": ("containment", N_("%(connections)s open connections closed.")),
    "EngagementRequested": ("people", N_("Leave to probe asked for: %(methods)s.")),
    "EngagementApproved": ("people", N_("Leave to probe given by %(approver)s.")),
    "EngagementStopped": ("people", N_("Leave to probe ended: %(reason)s.")),
    "DeclarationAccepted": ("verdict", N_("Manufacturer's declaration for %(vendor)s %(model)s accepted.")),
    "PostureAssessed": ("verdict", N_("Posture assessed: %(counts)s.")),
    "VerdictChanged": ("verdict", N_("Criterion %(criterion)s changed from %(before)s to %(after)s: %(reason)s.")),
    "TrustChanged": ("containment", N_("Trust decision changed from %(before)s to %(after)s.")),
}

# Facts that are one of several parts of another one, where their ``chunk`` says so.
PARTS: dict[str, str] = {
    "DevicesImported": N_("Part of an import: %(accepted)s devices registered, %(rejected)s rows refused."),
}
