"""What can go wrong in this room; each class says what to do next."""

from lachan.errors import Conflict, Forbidden, Gone, Invalid, LachanError, NotFound, TooLarge, TooMany


class ArtifactTooLarge(TooLarge):
    """More bytes arrived than ``ota_artifact_max_bytes`` allows; nothing was kept."""

    title, hint = "The artifact is too large", "Send a smaller file, or have ota_artifact_max_bytes raised."


class ArtifactBroken(Invalid):
    """The upload is empty, ended early or is not the file that its sender announced; nothing was kept."""

    title, hint = "The upload is not the announced file", "Compute the SHA-256 again and send the whole file once more."


class ArtifactMissing(LachanError):
    """The row is there, the file is not."""

    status, title, hint = 500, "An artifact's file is missing", "Restore the artifacts folder from the backup."


class TooManyReports(TooMany):
    """The device tells of another outcome again and again; each is a fact that is kept for ever."""

    title, hint = "Too many reports", "Report once after each installation."


class NoSuchArtifact(NotFound):
    """No artifact of that id is visible to the caller."""

    title = "No such artifact"


class NoSuchRelease(NotFound):
    """No release of that id is visible to the caller."""

    title = "No such release"


class VersionSpent(Conflict):
    """A release of that vendor, model and version exists already."""

    title, hint = "That version is taken", "Give the firmware a new version; a number is never used twice."


class LowerVersion(Conflict):
    """A version not above the newest published one would roll devices back (unless flagged as a downgrade)."""

    title, hint = "The version is not above the published one", "Raise the version, or propose it with downgrade=true."


class WrongState(Conflict):
    """The release is not in the state that this step starts from."""

    title, hint = "The release is not ready for this step", "Read the release's state; steps go in order."


class DigestMoved(Conflict):
    """The caller approves another digest than the release has."""

    title, hint = "You approve something else", "Read the release again and approve the digest that it shows now."


class OwnProposal(Forbidden):
    """Whoever proposed a release cannot approve it."""

    title, hint = "Your own proposal", "Ask another approver: four eyes are needed."


class ReleaseRefused(Conflict):
    """What the signer found in the database does not allow this signature; ``fields['reason']`` is the code."""

    title, hint = (
        "The signer refuses this release",
        "Read the reason; propose the release again if its content changed.",
    )


class ReleaseHalted(Gone):
    """The release was stopped and is not handed out any more."""

    title, hint = "This release was halted", "Poll again: another release may apply."


class TrustWithheld(Forbidden):
    """The device's trust decision does not let it have firmware."""

    title, hint = "This device gets no firmware now", "Have its quarantine ended first."


class RepositoryBroken(LachanError):
    """Metadata of the update framework is missing or does not verify."""

    status, title, hint = 500, "The firmware repository does not verify", "Run `lachan doctor`; restore the tuf folder."
