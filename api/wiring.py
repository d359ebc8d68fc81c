"""What the doors bring to the house."""

TABLES = "api.models"
ENFORCEMENT = ("api.device.enforcement:DeviceDoor",)
