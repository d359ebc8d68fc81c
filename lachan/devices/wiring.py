"""What the registry brings to the house."""

from lachan.wiring import Room

WIRING = Room(
    tables="lachan.devices.importing.models",
    jobs={"devices.import": "lachan.devices.importing.applying:run_job"},
    recurring={"devices.imports": (3600.0, "lachan.devices.importing.applying:sweep")},
)
