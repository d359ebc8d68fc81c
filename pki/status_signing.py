"""CRL and OCSP answers, built and signed inside the signer process from the certificate rows.

Both are written as DER directly: a builder's loop is quadratic in the number of entries. Steps of `crl`: read the rows,
one entry each, wrap, sign with the issuing key. Steps of `ocsp`: read the status of the serial numbers asked for, sign with
the delegated responder's key, include its certificate (RFC 6960 4.2.2.2). Limits: one full CRL, no deltas or shards yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lachan import clock, der
from lachan.signer.context import SignerContext, strict
from lachan.signer.errors import SignatureRefused
from pki import authorities
from pki.models import certificates, crls
from pki.profiles import ECDSA_SHA256, get
from pki.states import CERTIFICATE_HOLD, NUMBERS, Reason, State

CRL_LIFE = timedelta(hours=24)
OCSP_LIFE = timedelta(hours=1)
KEEP_EXPIRED = timedelta(days=2)  # a revoked certificate stays listed past its end (RFC 5280 5)
OCSP_AT_ONCE = 20
HASHES = {"sha1": "1.3.14.3.2.26", "sha256": "2.16.840.1.101.3.4.2.1"}
_BASIC = der.oid("1.3.6.1.5.5.7.48.1.1")
_NONCE = "1.3.6.1.5.5.7.48.1.2"


@dataclass(frozen=True)
class Entry:
    """A certificate that is not in force: serial number, since when, CRLReason."""

    serial: int
    since: datetime
    reason: int

    def der(self) -> bytes:
        """A revokedCertificates element; reason 0 is left out (RFC 5280 5.3.1)."""
        more = der.sequence(der.extension("2.5.29.21", der.enumerated(self.reason))) if self.reason else b""
        return der.sequence(der.integer(self.serial), der.moment(self.since), more)


def crl(signer: SignerContext, request: dict[str, Any]) -> dict[str, Any]:
    """Make the issuing authority's next full CRL.

    Args:
        signer: keys, database, settings.
        request: no fields.

    Returns:
        ``crl`` (DER), ``number``, ``this_update`` and ``next_update`` (RFC 3339).

    Raises:
        SignatureRefused: the request has fields.
    """
    strict(request, {})
    now = clock.now().replace(microsecond=0)
    with signer.db.read() as connection:
        entries = list(_entries(connection, now))
        last = connection.execute(sa.select(sa.func.max(crls.c.number)).where(crls.c.authority == "issuing")).scalar()
    number = (last or 0) + 1
    issuer = authorities.kept(signer.settings, "issuing")
    body = crl_body(issuer, entries, number=number, this_update=now, next_update=now + CRL_LIFE)
    signed = der.signed(body, ECDSA_SHA256, signer.keys.sign(authorities.ISSUING_KEY, body))
    signer.signed(f"crl:{number}", body)
    return {
        "crl": signed,
        "number": number,
        "this_update": clock.iso(now),
        "next_update": clock.iso(now + CRL_LIFE),
    }


def crl_body(
    issuer: x509.Certificate, entries: Iterable[Entry], *, number: int, this_update: datetime, next_update: datetime
) -> bytes:
    """The TBSCertList of a version 2 CRL (RFC 5280 5.1.2); without entries the list itself is left out."""
    listed = b"".join(entry.der() for entry in entries)
    key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)
    extensions = der.sequence(
        der.extension("2.5.29.35", authority.public_bytes()), der.extension("2.5.29.20", der.integer(number))
    )
    return der.sequence(
        der.integer(1),
        ECDSA_SHA256,
        issuer.subject.public_bytes(),
        der.moment(this_update),
        der.moment(next_update),
        der.sequence(listed) if listed else b"",
        der.explicit(0, extensions),
    )


def ocsp(signer: SignerContext, request: dict[str, Any]) -> dict[str, Any]:
    """Make one OCSP answer for certificates of the issuing authority (RFC 6960 4.2.1).

    Args:
        signer: keys, database, settings.
        request: ``certificates``: list of ``{"hash": "sha1"|"sha256", "serial_number": bytes}`` (the content octets
            of the INTEGER, echoed as they are); ``nonce``: bytes, may be empty.

    Returns:
        ``response``: DER of an OCSPResponse.

    Raises:
        SignatureRefused: another field, another hash, none or too many certificates, a nonce over 128 octets.
    """
    asked = strict(request, {"certificates": list, "nonce": bytes})
    wanted = [_asked(item) for item in asked["certificates"]]
    nonce = asked["nonce"]
    if not 1 <= len(wanted) <= OCSP_AT_ONCE or len(nonce) > 128:
        raise SignatureRefused("An OCSP request names 1 to 20 certificates and a nonce of at most 128 octets.")
    responder = authorities.kept(signer.settings, "ocsp-responder")
    now = clock.now().replace(microsecond=0)
    answers = _single_responses(signer, wanted, now)
    echo = der.explicit(1, der.sequence(der.extension(_NONCE, der.octets(nonce)))) if nonce else b""
    data = der.sequence(
        der.explicit(2, der.octets(issuer_hashes(responder, "sha1")[1])),
        der.generalized(now),
        der.sequence(answers),
        echo,
    )
    signature = signer.keys.sign(get("ocsp-responder").service_key, data)
    included = der.explicit(0, der.sequence(responder.public_bytes(Encoding.DER)))
    basic = der.signed(data, ECDSA_SHA256, signature, included)
    response = der.sequence(der.enumerated(0), der.explicit(0, der.sequence(_BASIC, der.octets(basic))))
    signer.signed(",".join(_stored(serial) for _, serial in wanted), data)
    return {"response": response}


def _single_responses(signer: SignerContext, wanted: list[tuple[str, bytes]], now: datetime) -> bytes:
    issuer = authorities.kept(signer.settings, "issuing")
    statuses = _statuses(signer, [_stored(serial) for _, serial in wanted])
    return b"".join(
        der.sequence(
            certificate_id(issuer, algorithm, serial),
            _status(statuses.get(_stored(serial))),
            der.generalized(now),
            der.explicit(0, der.generalized(now + OCSP_LIFE)),
        )
        for algorithm, serial in wanted
    )


def issuer_hashes(issuer: x509.Certificate, algorithm: str) -> tuple[bytes, bytes]:
    """Hash of the issuer's name and of its key bits, as a CertID carries them (RFC 6960 4.1.1)."""
    spki = der.Reader(issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).inside(0x30)
    spki.skip()
    key = spki.take(0x03)[1:]

    def digest(data: bytes) -> bytes:
        return hashlib.new(algorithm, data, usedforsecurity=False).digest()

    return digest(issuer.subject.public_bytes()), digest(key)


def certificate_id(issuer: x509.Certificate, algorithm: str, serial: bytes) -> bytes:
    """The CertID of a certificate of ``issuer``; ``serial`` as the content octets of its INTEGER."""
    name, key = issuer_hashes(issuer, algorithm)
    identifier = der.sequence(der.oid(HASHES[algorithm]), der.NULL)
    return der.sequence(identifier, der.octets(name), der.octets(key), der.tlv(0x02, serial))


def _entries(connection: sa.Connection, now: datetime) -> Iterable[Entry]:
    c = certificates.c
    query = sa.select(c.serial_number, c.state, c.state_since, c.reason).where(
        c.state != State.VALID, c.not_after > now - KEEP_EXPIRED
    )
    for row in connection.execute(query.order_by(c.state_since)):
        yield Entry(int(row.serial_number, 16), row.state_since, _reason(row))


def _reason(row: Any) -> int:
    return CERTIFICATE_HOLD if row.state == State.HELD else NUMBERS[Reason(row.reason)]


def _stored(serial: bytes) -> str:
    return f"{int.from_bytes(serial, 'big', signed=True):x}"


def _statuses(signer: SignerContext, serials: list[str]) -> dict[str, Any]:
    c = certificates.c
    query = sa.select(c.serial_number, c.state, c.state_since, c.reason).where(c.serial_number.in_(serials))
    with signer.db.read() as connection:
        return {row.serial_number: row for row in connection.execute(query)}


def _status(row: Any) -> bytes:
    """CertStatus: good [0], revoked [1] (also on hold), unknown [2] (RFC 6960 4.2.1)."""
    if row is None:
        return b"\x82\x00"
    if row.state == State.VALID:
        return b"\x80\x00"
    reason = _reason(row)
    why = der.explicit(0, der.enumerated(reason)) if reason else b""
    return der.explicit(1, der.generalized(row.state_since), why)


def _asked(item: Any) -> tuple[str, bytes]:
    if not isinstance(item, dict) or set(item) != {"hash", "serial_number"} or item["hash"] not in HASHES:
        raise SignatureRefused("A certificate is asked for by hash (sha1, sha256) and serial_number.")
    serial = item["serial_number"]
    if not isinstance(serial, bytes) or not 1 <= len(serial) <= 32:
        raise SignatureRefused("A serial number has 1 to 32 octets.")
    return item["hash"], serial
