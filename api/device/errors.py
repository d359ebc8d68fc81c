"""Why the device door refuses somebody. Each class is one answer; `reason` says it to machines."""

from lachan.errors import Forbidden, Unauthenticated, Unavailable


class CertificateMissing(Unauthenticated):
    """No client certificate came with this connection."""

    title, hint = "A device certificate is needed", "Connect with the certificate that enrolment gave you."
    challenge = "Certificate"


class CertificateRefused(Forbidden):
    """A certificate came, and it does not make its bearer one of our devices."""

    title, hint = "The certificate is not accepted", "Enrol again: ask for a new enrolment secret."


class DeviceContained(Forbidden):
    """The trust decision keeps this device out."""

    title, hint = "The device is contained", "Nothing to do on the device; its operator must release it."


class DeviceLimited(Forbidden):
    """The trust decision withholds this one operation."""

    title, hint = "Withheld while the device is degraded", "Try again when the operator has lifted the limit."


class TrustUnknown(Unavailable):
    """The door does not know the present trust decisions and therefore lets nobody in."""

    title, hint = "Trust decisions are not known", "Try again shortly; `lachan doctor` shows what is missing."
