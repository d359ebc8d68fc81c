"""The closed sets of certificate status: states, and the reasons of RFC 5280 5.3.1 that lachan uses."""

from enum import StrEnum


class CertificateState(StrEnum):
    """Where a certificate stands; expiry is a date, not a state."""

    VALID = "valid"
    HELD = "held"
    REVOKED = "revoked"


class Holder(StrEnum):
    """Who may lift a hold."""

    REQUEST = "request"
    CONTAINMENT = "containment"


class Reason(StrEnum):
    """Why a certificate is revoked; values are what people type, `number` is what CRL and OCSP carry."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key_compromise"
    AFFILIATION_CHANGED = "affiliation_changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation_of_operation"
    PRIVILEGE_WITHDRAWN = "privilege_withdrawn"

    @property
    def number(self) -> int:
        """CRLReason (RFC 5280 5.3.1)."""
        return NUMBERS[self]


CERTIFICATE_HOLD = 6
NUMBERS = {
    Reason.UNSPECIFIED: 0,
    Reason.KEY_COMPROMISE: 1,
    Reason.AFFILIATION_CHANGED: 3,
    Reason.SUPERSEDED: 4,
    Reason.CESSATION_OF_OPERATION: 5,
    Reason.PRIVILEGE_WITHDRAWN: 9,
}
