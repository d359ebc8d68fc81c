"""What firmware brings to the house; reads as a table of contents."""

from lachan.wiring import Room, Signing

WIRING = Room(
    tables="ota_signing.models",
    settings="ota_signing.settings:OtaSettings",
    jobs={
        "ota.sign": "ota_signing.publishing:sign_job",
        "ota.tuf.publish": "ota_signing.publishing:refresh_job",
    },
    recurring={
        "ota.tuf.refresh": (60.0, "ota_signing.publishing:refresh"),
        "ota.tuf.audit": (3600.0, "ota_signing.publishing:audit"),
        "ota.sweep": (3600.0, "ota_signing.artifacts:sweep"),
    },
    verbs=("ota_signing.verbs:HOLD", "ota_signing.verbs:RESUME"),
    signing={
        "release": Signing("ota_signing.signing:release", rate=5, recorded="ota_signing.signing:is_signed"),
        "tuf": Signing("ota_signing.signing:tuf", rate=20),
        "tuf_files": Signing("ota_signing.signing:tuf_files", rate=200),
    },
    init=("ota_signing.setup:init",),
)
