"""The registry: who each device is, whose it is, where it stands, how much depends on it."""

from lachan.devices import importing
from lachan.devices.models import Criticality, Device, DeviceState, NewDevice, devices
from lachan.devices.service import (
    AlreadyRegistered,
    by_name,
    find,
    get,
    lock,
    locked,
    locked_and,
    parse_new,
    place,
    register,
    retire,
    set_criticality,
    touch_seen,
)

__all__ = [
    "AlreadyRegistered",
    "Criticality",
    "Device",
    "DeviceState",
    "NewDevice",
    "by_name",
    "devices",
    "find",
    "get",
    "importing",
    "lock",
    "locked",
    "locked_and",
    "parse_new",
    "place",
    "register",
    "retire",
    "set_criticality",
    "touch_seen",
]
