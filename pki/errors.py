"""What can go wrong with certificates; ``api/problems.py`` (and EST, as plain text) turns these into answers."""

from lachan.errors import Conflict, Forbidden, Invalid, LachanError, NotFound, TooMany, Unauthenticated, Unavailable


class ProfileBroken(LachanError):
    """A profile file does not hold against its schema or against the linter."""

    title, hint = "A certificate profile is not sound", "Correct the named file, then run `lachan pki lint`."


class ProfileUnknown(NotFound):
    """No profile has this name."""

    title, hint = "No such certificate profile", "Use one of the names that `lachan pki status` lists."


class AuthorityMissing(Unavailable):
    """The certification authority was not set up in this data folder."""

    title, hint = "No certification authority yet", "Run `lachan init` first."


class CsrMalformed(Invalid):
    """The certification request cannot be read, or its signature does not verify."""

    status, title, hint = (
        400,
        "The certification request is not usable",
        "Make a new PKCS#10 request and send it again.",
    )


class ProofMismatch(CsrMalformed):
    """challengePassword is present and is not this TLS connection's channel binding (RFC 7030 3.5)."""

    title, hint = (
        "Proof of possession does not belong to this connection",
        "Send the request over the connection it names.",
    )


class KeyUnfit(CsrMalformed):
    """The profile does not allow this kind of key, or it is too weak."""

    title, hint = "The key is not allowed", "Use an ECDSA key on P-256."


class KeyInUse(Conflict):
    """The same public key is already certified for another device."""

    title, hint = "The key belongs to another device", "Generate the key on the device itself and enrol again."


class IdentityMismatch(Forbidden):
    """The request names somebody else than who is asking."""

    title, hint = "The request names another device", "Put the registered name into CN, or leave the subject empty."


class SecretRefused(Unauthenticated):
    """Device name or one-time secret is wrong, expired or used; which of them is not told."""

    title, hint = "Device name or secret not accepted", "Ask for a new secret: lachan pki secret issue DEVICE."


class SecretForOtherProfile(Forbidden):
    """The secret was issued for another profile than the one that the URL names."""

    title, hint = (
        "The secret is for another profile",
        "Use the EST label of the profile that the secret was issued for.",
    )


class TooManyAttempts(TooMany):
    """Too many wrong secrets for this device or from this address."""

    title, hint = "Too many wrong secrets", "Wait as Retry-After says, then use the right secret."


class TooManyRenewals(TooMany):
    """The device renewed its certificate far too often."""

    title, hint = "Too many renewals", "Keep the certificate you have, and wait as Retry-After says."


class TooManyCertificates(Forbidden):
    """The device has as many certificates as a device may have at a time."""

    title = "Too many certificates"
    hint = "Use one that the device has, or have those revoked that it needs no more: lachan pki revoke DEVICE --serial HEX."


class HolderContained(Forbidden):
    """The trust decision on the holder is quarantine or deny: no new certificate, whatever is shown."""

    title, hint = "A contained device gets no certificate", "Have the containment released by two people first."


class DeviceRetired(Forbidden):
    """The device is retired in the registry."""

    title, hint = "The device is retired", "Register it anew if it is back in service."


class CertificateNotCurrent(Forbidden):
    """The certificate shown is unknown here, suspended, revoked or expired."""

    title, hint = "The certificate shown is not in force", "Enrol anew with a one-time secret."


class CertificatesSuspended(Forbidden):
    """Everything the device has is on hold, so a secret brings nothing new."""

    title, hint = "The device's certificates are suspended", "Release or revoke them first: lachan pki release DEVICE."


class NoCertificate(NotFound):
    """There is no certificate that this request could be about."""

    title, hint = "No such certificate", "List them: lachan pki status --device NAME."


class RevokedForGood(Conflict):
    """A revoked certificate can be neither suspended nor released (RFC 5280 5.3.1)."""

    title, hint = "Revocation is final", "Enrol the device anew."


class HeldByContainment(Conflict):
    """The suspension was made by a containment; only its release lifts it."""

    title, hint = "A containment holds the certificate", "Release the containment: two people, `lachan release`."


class NamesNotOurs(Forbidden):
    """A server certificate was asked for a name that is none of the configured addresses."""

    title, hint = "Not a name of this installation", "Set people_url, device_url, status_url or pki_server_names."


class IssueUnderWay(Unavailable):
    """Another issue for the same device is under way."""

    title, hint = "Another certificate for this device is being issued", "Try again shortly."


class IssueClosed(Unavailable):
    """The certificate was signed too long ago and its serial number was revoked before it was recorded."""

    title, hint = "The certificate came too late", "Send the request again; it gets a new certificate."
