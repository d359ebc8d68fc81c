"""Certificate paths: does a chain lead to an anchor under OpenSSL's strict rules, and which exceptions does the anchor name.

Steps of `check`: OpenSSL builds and verifies the path for TLS clients (``X509_V_FLAG_X509_STRICT``, purpose sslclient, so
that an extended key usage of an intermediate authority binds too) → if it holds, it holds → if what breaks is a rule that the
anchor excepts (`StrictRule`), the path is built without the strict flag, and every rule that it breaks must be excepted: OpenSSL
stops at the first. Limits: pyOpenSSL has no call for the purpose of a store, the binding it is made of does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL, crypto


class StrictRule(Enum):
    """The strict rules that a manufacturer's certificates may break by an exception: OpenSSL's error code, and RFC 5280.

    Values are ``(code, clause)``; names, with ``-`` for ``_`` and in lower case, are what people type.
    """

    PATH_LENGTH_WITHOUT_KEY_CERT_SIGN = (81, "4.2.1.9")
    KEY_CERT_SIGN_WITHOUT_CA = (82, "4.2.1.3")
    EMPTY_ISSUER = (83, "4.1.2.4")
    EMPTY_SUBJECT = (84, "4.1.2.6")
    NO_AUTHORITY_KEY_IDENTIFIER = (85, "4.2.1.1")
    NO_SUBJECT_KEY_IDENTIFIER = (86, "4.2.1.2")
    EMPTY_ALTERNATIVE_NAME = (87, "4.2.1.6")
    ALTERNATIVE_NAME_NOT_CRITICAL = (88, "4.2.1.6")
    BASIC_CONSTRAINTS_NOT_CRITICAL = (89, "4.2.1.9")
    AUTHORITY_WITHOUT_KEY_USAGE = (92, "4.2.1.3")
    NO_KEY_USAGE = (0, "4.2.1.3")  # ours: of the device's certificate; OpenSSL takes that for any usage

    @property
    def word(self) -> str:
        """What people type."""
        return self.name.lower().replace("_", "-")


E = TypeVar("E", bound=x509.ExtensionType)
WORDS = {rule.word: rule for rule in StrictRule}
_CODES = {rule.value[0]: rule for rule in StrictRule}
_STRICT = frozenset({78, 80, *_CODES, 90, 91, 93, 94}) - {0}  # with those that nobody is excepted from
_PURPOSE = 26  # X509_V_ERR_INVALID_PURPOSE; who issues and is no authority (79, 32) is an unknown issuer


@dataclass(frozen=True)
class PathFault:
    """Why a chain does not hold under an anchor.

    Attributes:
        reason: unknown-issuer, wrong-purpose or not-strict.
        words: what is wrong, OpenSSL's words.
    """

    reason: str
    words: str


def check(
    leaf: x509.Certificate,
    rest: Sequence[x509.Certificate],
    anchor: x509.Certificate,
    *,
    exceptions: frozenset[StrictRule],
    at: datetime,
) -> PathFault | None:
    """Tell what keeps a chain from holding under an anchor; None when it holds.

    Args:
        leaf: the device's certificate.
        rest: what came with it, in any order.
        anchor: an authority that is believed; need not be a root.
        exceptions: strict rules that this anchor's certificates may break.
        at: the moment to verify for.
    """
    fault, path = _verified(leaf, rest, anchor, at=at, strict=True)
    if fault in _CODES and _CODES[fault] in exceptions:
        fault, path = _verified(leaf, rest, anchor, at=at, strict=False)
        if fault is None and (left := [rule for rule in broken(path) if rule not in exceptions]):
            return PathFault("not-strict", f"It breaks the rule {left[0].word} (RFC 5280 {left[0].value[1]}).")
    if fault is None:
        # An authority is no device.
        same = leaf.fingerprint(hashes.SHA256()) == anchor.fingerprint(hashes.SHA256())
        return PathFault("unknown-issuer", "It is the authority itself.") if same else None
    words = SSL._ffi.string(SSL._lib.X509_verify_cert_error_string(fault)).decode()  # type: ignore[attr-defined]
    if fault in _STRICT:
        return PathFault("not-strict", f"{words}.")
    return PathFault("wrong-purpose" if fault == _PURPOSE else "unknown-issuer", f"{words}.")


def _verified(
    leaf: x509.Certificate, rest: Sequence[x509.Certificate], anchor: x509.Certificate, *, at: datetime, strict: bool
) -> tuple[int | None, list[x509.Certificate]]:
    """Give OpenSSL's error, None when the path holds, and the path."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(anchor))
    flags = crypto.X509StoreFlags.PARTIAL_CHAIN  # an issuing authority may be the anchor itself
    store.set_flags(flags | crypto.X509StoreFlags.X509_STRICT if strict else flags)
    store.set_time(at)
    SSL._lib.X509_STORE_set_purpose(store._store, SSL._lib.X509_PURPOSE_SSL_CLIENT)  # type: ignore[attr-defined]
    between = [crypto.X509.from_cryptography(item) for item in rest]
    context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), between)
    try:
        if not strict:
            return None, [found.to_cryptography() for found in context.get_verified_chain()]
        context.verify_certificate()
        return None, []
    except crypto.X509StoreContextError as error:
        return int(error.errors[0]), []


def broken(path: Sequence[x509.Certificate]) -> Iterator[StrictRule]:
    """Give the strict rules that a path breaks, as OpenSSL's ``check_extensions`` has them; the leaf is first."""
    for place, certificate in enumerate(path):
        yield from _broken_by(certificate, last=place == len(path) - 1)


def _broken_by(certificate: x509.Certificate, *, last: bool) -> Iterator[StrictRule]:
    constraints, usage = extension(certificate, x509.BasicConstraints), extension(certificate, x509.KeyUsage)
    names = extension(certificate, x509.SubjectAlternativeName)
    theirs, own = extension(certificate, x509.AuthorityKeyIdentifier), extension(certificate, x509.SubjectKeyIdentifier)
    is_ca = constraints is not None and constraints.value.ca
    if is_ca and constraints is not None:
        yield from _broken_by_authority(constraints, usage, identified=own is not None)
    elif usage is not None and usage.value.key_cert_sign:
        yield StrictRule.KEY_CERT_SIGN_WITHOUT_CA
    empty = not list(certificate.subject)
    found = {
        StrictRule.EMPTY_ISSUER: not list(certificate.issuer),
        StrictRule.EMPTY_SUBJECT: empty and (is_ca or names is None),
        StrictRule.ALTERNATIVE_NAME_NOT_CRITICAL: empty and names is not None and not names.critical,
        StrictRule.EMPTY_ALTERNATIVE_NAME: names is not None and not list(names.value),
        StrictRule.NO_AUTHORITY_KEY_IDENTIFIER: not last and (theirs is None or theirs.value.key_identifier is None),
    }
    yield from (rule for rule, breaks in found.items() if breaks)


def _broken_by_authority(
    constraints: x509.Extension[x509.BasicConstraints], usage: x509.Extension[x509.KeyUsage] | None, *, identified: bool
) -> Iterator[StrictRule]:
    if constraints.value.path_length is not None and usage is not None and not usage.value.key_cert_sign:
        yield StrictRule.PATH_LENGTH_WITHOUT_KEY_CERT_SIGN
    if not constraints.critical:
        yield StrictRule.BASIC_CONSTRAINTS_NOT_CRITICAL
    if usage is None:
        yield StrictRule.AUTHORITY_WITHOUT_KEY_USAGE
    if not identified:
        yield StrictRule.NO_SUBJECT_KEY_IDENTIFIER


def extension(certificate: x509.Certificate, kind: type[E]) -> x509.Extension[E] | None:
    """Give an extension of a certificate; None when it has none of the kind."""
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
