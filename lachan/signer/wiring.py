"""What the signer brings to the house."""

from lachan.wiring import Every, Lane, Room

WIRING = Room(
    tables="lachan.signer.models",
    recurring={
        "signer.reconcile": Every(60.0, "lachan.signer.reconcile:reconcile", lane=Lane.ORDINARY, deadline=120.0)
    },
    health={"signer": "lachan.signer.health:check"},
)
