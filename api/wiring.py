"""What the doors bring to the house."""

from lachan.wiring import Room

WIRING = Room(
    tables="api.models",
    recurring={"trust.prune": (600, "api.device.trustwatch:prune")},
    enforcement=("api.device.enforcement:DeviceDoor",),
)
