"""What the signer brings to the house."""

from lachan.wiring import Room

WIRING = Room(
    tables="lachan.signer.models",
    recurring={"signer.reconcile": (60.0, "lachan.signer.reconcile:reconcile")},
)
