"""What ``lachan init`` does for the ledger: its key, the signer's memory of an empty tree, the public key for auditors."""

from lachan.ledger.merkle import EMPTY_ROOT
from lachan.ledger.note import Checkpoint
from lachan.ledger.signing import KEY, CheckpointMemory, remember, verifier
from lachan.signer.context import InitContext


def init(context: InitContext) -> None:
    """Make what is missing; a second call changes nothing."""
    home = context.settings.signer_home
    if KEY not in context.keys:
        remember(home, CheckpointMemory(Checkpoint("", 0, EMPTY_ROOT)))
        context.keys.generate(KEY, "ed25519")
    folder = context.settings.data / "ledger"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "key").write_text(verifier(context.keys).vkey + "\n")
