"""What the ledger brings to the house."""

from lachan.wiring import Every, Lane, Room, Signing

WIRING = Room(
    tables="lachan.ledger.models",
    recurring={"ledger.seal": Every(1.0, "lachan.ledger.sealer:seal", lane=Lane.ORDINARY, deadline=60.0)},
    signing={
        "checkpoint": Signing("lachan.ledger.signing:checkpoint", rate=20, recorded="lachan.ledger.signing:is_known")
    },
    init=("lachan.ledger.setup:init",),
    health={"sealing": "lachan.ledger.health:check"},
)
