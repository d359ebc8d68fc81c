"""What the PKI brings to the house."""

TABLES = "pki.models"
JOBS = {"pki.crl": "pki.crl:publish_due"}
RECURRING = {"pki.refresh": (60.0, "pki.crl:refresh")}
VERBS = ("pki.verbs:SUSPEND", "pki.verbs:RELEASE", "pki.verbs:REVOKE")
ENFORCEMENT = ("pki.enforcement:CertificateHold",)
SIGNING = {"issue": "pki.signing:ISSUE", "crl": "pki.status_signing:crl", "ocsp": "pki.status_signing:ocsp"}
INIT = ("pki.setup:init",)
SIGNED = {"issue": "pki.signing:is_recorded"}
