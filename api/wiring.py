"""What the doors bring to the house."""

from lachan.wiring import Room

WIRING = Room(tables="api.models", enforcement=("api.device.enforcement:DeviceDoor",))
