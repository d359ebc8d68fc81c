"""What the PKI brings to the house."""

from lachan.wiring import Every, Lane, Room, Signing, Work

WIRING = Room(
    tables="pki.models",
    settings="pki.settings:PkiSettings",
    jobs={"pki.crl": Work("pki.crl:publish_due", lane=Lane.ORDINARY, deadline=120.0)},
    recurring={"pki.refresh": Every(60.0, "pki.crl:refresh", lane=Lane.ORDINARY, deadline=120.0)},
    verbs=("pki.verbs:SUSPEND", "pki.verbs:RELEASE", "pki.verbs:REVOKE"),
    enforcement=("pki.enforcement:CertificateHold",),
    signing={
        "issue": Signing(
            "pki.signing:ISSUE", rate=500, recorded="pki.signing:is_recorded", close="pki.unrecorded:close"
        ),
        "crl": Signing("pki.crl_signing:crl", rate=5),
        "ocsp": Signing("pki.status_signing:ocsp", rate=1000),
    },
    init=("pki.setup:init",),
    health={"crl": "pki.crl:health"},
)
