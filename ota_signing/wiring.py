"""What firmware brings to the house; reads as a table of contents."""

from lachan.wiring import Every, Lane, Room, Signing, Work

WIRING = Room(
    tables="ota_signing.models",
    settings="ota_signing.settings:OtaSettings",
    jobs={
        "ota.sign": Work("ota_signing.publishing:sign_job", lane=Lane.SLOW, deadline=300.0),
        "ota.tuf.publish": Work("ota_signing.publishing:refresh_job", lane=Lane.SLOW, deadline=900.0),
    },
    recurring={
        "ota.tuf.refresh": Every(60.0, "ota_signing.publishing:refresh", lane=Lane.SLOW, deadline=900.0),
        "ota.tuf.audit": Every(3600.0, "ota_signing.publishing:audit", lane=Lane.SLOW, deadline=900.0),
        "ota.sweep": Every(3600.0, "ota_signing.artifacts:sweep", lane=Lane.SLOW, deadline=300.0),
    },
    verbs=("ota_signing.verbs:HOLD", "ota_signing.verbs:RESUME"),
    signing={
        "release": Signing("ota_signing.signing:release", rate=5, recorded="ota_signing.signing:is_signed"),
        "tuf": Signing("ota_signing.signing:tuf", rate=20),
        "tuf_files": Signing("ota_signing.signing:tuf_files", rate=200),
    },
    init=("ota_signing.setup:init",),
    health={"tuf": "ota_signing.health:check"},
)
