"""What can go wrong on the way to a signature."""

from lachan.errors import Conflict, Forbidden, Invalid, LachanError, NotFound, Unavailable


class SignatureRefused(Forbidden):
    """Raised by a signing handler inside the signer: it will not sign this; ``fields['subject']`` names what was asked."""

    title, hint = "The signer refuses", "Read the reason; the refusal is in the ledger."


class TooManySignatures(SignatureRefused):
    """A device has had its signatures of this hour; ``retry_after`` in seconds, ``quiet`` if the log knows already."""

    title, hint = "The device has had its signatures of this hour", "Wait for the next hour."


class SignerRefused(Forbidden):
    """What the caller of the signer sees of a refusal; ``fields['reason']`` is the signer's sentence."""

    title, hint = "The signer refused to sign", "Read the reason; the refusal is in the ledger."


class SignerBusy(SignerRefused):
    """A rate limit of the signer is reached; ``fields['retry_after']`` tells the seconds."""

    status, title, hint = 429, "The signer's rate limit is reached", "Wait as Retry-After says, then try again."


class SignerUnavailable(Unavailable):
    """The signer does not answer, or answered with an internal failure."""

    title, hint = "The signer does not answer", "Start it (`lachan serve --role sign`); its log tells why it ended."


class BadFrame(LachanError):
    """What came over the socket is no message of ours."""

    title, hint = "Malformed signer message", "Client and signer must be of the same version."


class NoSuchKey(NotFound):
    """The key store has no key of that name."""

    title, hint = "No such key", "Run `lachan init`, or restore the signer's folder from its backup."


class KeyExists(Conflict):
    """A key of that name exists already; keys are never overwritten."""

    title, hint = "The key exists already", "Choose another name; a key is replaced by a new one beside it."


class KeyLocked(Invalid):
    """The passphrase is missing or does not open the key."""

    title, hint = "The key cannot be opened", "Set LACHAN_SIGNER_PASSPHRASE, or restore the file signer/passphrase."


class SignerRuns(Conflict):
    """Another signer uses the same folder."""

    title, hint = "A signer runs already", "End the other one; two signers would sign two histories."


class SignerStateLost(LachanError):
    """The signer's own memory of what it signed is missing or damaged, so it cannot refuse a rewrite."""

    title, hint = "The signer's state is lost", "Restore the signer's folder from its backup before anything is signed."
