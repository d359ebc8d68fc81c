"""What firmware brings to the house; reads as a table of contents."""

TABLES = "ota_signing.models"
JOBS = {
    "ota.sign": "ota_signing.publishing:sign_job",
    "ota.tuf.publish": "ota_signing.publishing:refresh_job",
}
RECURRING = {
    "ota.tuf.refresh": (60.0, "ota_signing.publishing:refresh"),
    "ota.sweep": (3600.0, "ota_signing.artifacts:sweep"),
}
VERBS = ("ota_signing.verbs:HOLD", "ota_signing.verbs:RESUME")
SIGNING = {"release": "ota_signing.signing:release", "tuf": "ota_signing.signing:tuf"}
SIGNED = {"release": "ota_signing.signing:is_signed"}
INIT = ("ota_signing.setup:init",)
