"""The registry: who each device is, whose it is, where it stands, how much depends on it."""

from lachan.devices.importing import BadFile, BadRow, ImportResult, import_rows, parse_file, parse_text
from lachan.devices.models import Criticality, Device, NewDevice, State, devices
from lachan.devices.service import (
    AlreadyRegistered,
    by_name,
    find,
    get,
    lock,
    parse_new,
    register,
    retire,
    set_criticality,
    touch_seen,
)

__all__ = [
    "AlreadyRegistered",
    "BadFile",
    "BadRow",
    "Criticality",
    "Device",
    "ImportResult",
    "NewDevice",
    "State",
    "by_name",
    "devices",
    "find",
    "get",
    "import_rows",
    "lock",
    "parse_file",
    "parse_new",
    "parse_text",
    "register",
    "retire",
    "set_criticality",
    "touch_seen",
]
