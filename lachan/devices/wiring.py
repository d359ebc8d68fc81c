"""What the registry brings to the house."""

from lachan.wiring import Every, Lane, Room, Work

WIRING = Room(
    tables="lachan.devices.importing.models",
    jobs={"devices.import": Work("lachan.devices.importing.applying:run_job", lane=Lane.SLOW, deadline=120.0)},
    recurring={
        "devices.imports": Every(3600.0, "lachan.devices.importing.applying:sweep", lane=Lane.SLOW, deadline=300.0)
    },
)
