"""What a ledger can refuse."""

from lachan.errors import Conflict, Invalid, NotFound, Unavailable


class ProofRefused(Invalid):
    """A Merkle proof does not lead to the root."""

    title, hint = "The proof does not hold", "The event, the proof or the checkpoint was changed after it was sealed."


class NoteRefused(Invalid):
    """A signed note or checkpoint is malformed or not signed by the expected key."""

    title, hint = "The checkpoint is not accepted", "Check that the public key belongs to this ledger."


class ExportRefused(Invalid):
    """An export does not hold; ``fields['findings']`` names what was changed."""

    title, hint = "The export is refused", "Do not rely on it; ask for a fresh export and compare checkpoints."


class NotSealed(NotFound):
    """Nothing is sealed yet, so there is nothing to prove."""

    title, hint = "Nothing is sealed yet", "Wait a second for the sealer, or run `lachan ledger checkpoint`."


class LedgerDiverged(Conflict):
    """The database and the signer's last checkpoint do not belong to one history."""

    title, hint = (
        "The ledger does not extend its last checkpoint",
        "Restore database and signer folder from one backup.",
    )


class LeaseHeld(Unavailable):
    """Another signer signs checkpoints now, or was faster this time."""

    title, hint = "Another signer signs checkpoints", "Run one signer for the ledger; its lease ends by itself."
