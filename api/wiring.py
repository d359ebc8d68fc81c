"""What the doors bring to the house."""

from lachan.wiring import Every, Lane, Room

WIRING = Room(
    tables="api.models",
    recurring={"trust.prune": Every(600.0, "api.device.trustwatch:prune", lane=Lane.ORDINARY, deadline=60.0)},
    enforcement=("api.device.enforcement:DeviceDoor",),
    described=("api.device.anchors:described",),
)
