"""OCSP answers, built and signed inside the signer process from the certificate rows.

Steps of `ocsp`: read the status of the serial numbers asked for, once for all requests of a message; sign each answer with
the delegated responder's key, include the certificate that this authority gave it (RFC 6960 4.2.2.2). Limits: one answer
speaks of one authority's certificates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lachan import clock, der
from lachan.signer.context import Handler, SignerContext, strict
from lachan.signer.errors import SignatureRefused
from lachan.statements import Statement, pipeline
from pki import authorities
from pki.authorities import OCSP_RESPONDER, Authority
from pki.errors import AuthorityMissing
from pki.models import certificates, unrecorded
from pki.profiles import ECDSA_SHA256, get
from pki.states import CERTIFICATE_HOLD, NUMBERS, CertificateState, Reason

OCSP_LIFE = timedelta(hours=1)
OCSP_AT_ONCE = 20
LONGEST = 32  # octets of a serial number
HASHES = {"sha1": "1.3.14.3.2.26", "sha256": "2.16.840.1.101.3.4.2.1"}
_BASIC = der.oid("1.3.6.1.5.5.7.48.1.1")
_NONCE = "1.3.6.1.5.5.7.48.1.2"


Standings = dict[tuple[str, str], Any]  # (authority, serial number as it is stored) → its row


def look(signer: SignerContext, requests: Sequence[Mapping[str, Any]]) -> Standings:
    """Read the status of all certificates that some requests ask about, in one go; what is no request is left to `sign`."""
    keys: dict[tuple[str, str], None] = {}
    for request in requests:
        authority, listed = request.get("authority"), request.get("certificates")
        if isinstance(authority, str) and isinstance(listed, list):
            for item in listed[:OCSP_AT_ONCE]:
                serial = item.get("serial_number") if isinstance(item, dict) else None
                if isinstance(serial, bytes) and len(serial) <= LONGEST:
                    keys[(authority, _stored(serial))] = None
    calls = [(_STANDING, {"authority_": authority, "serial_": serial}) for authority, serial in keys]
    with signer.db.read() as connection:
        found = pipeline(connection, calls) if calls else []
    return {key: done.rows[0] for key, done in zip(keys, found, strict=True) if done.rows}


def sign(signer: SignerContext, request: dict[str, Any], standings: Standings) -> dict[str, Any]:
    """Make one OCSP answer for certificates of one authority (RFC 6960 4.2.1).

    Args:
        signer: keys, database, settings.
        request: ``authority``: its name; ``certificates``: list of ``{"hash": "sha1"|"sha256", "serial_number": bytes}`` (the content octets
            of the INTEGER, echoed as they are); ``nonce``: bytes, may be empty.
        standings: what `look` found.

    Returns:
        ``response``: DER of an OCSPResponse.

    Raises:
        SignatureRefused: another field, authority or hash, none or too many certificates, a nonce over 128 octets.
    """
    asked = strict(request, {"authority": str, "certificates": list, "nonce": bytes})
    wanted = [_asked(item) for item in asked["certificates"]]
    nonce = asked["nonce"]
    if not 1 <= len(wanted) <= OCSP_AT_ONCE or len(nonce) > 128:
        raise SignatureRefused("An OCSP request names 1 to 20 certificates and a nonce of at most 128 octets.")
    try:
        authority = authorities.kept_authority(signer.settings, asked["authority"])
        responder = authorities.kept(signer.settings, authority.service(OCSP_RESPONDER))
    except AuthorityMissing as error:
        raise SignatureRefused(error.detail) from error
    now = clock.now().replace(microsecond=0)
    answers = [_single(authority, algorithm, serial, standings, now) for algorithm, serial in wanted]
    echo = der.explicit(1, der.sequence(der.extension(_NONCE, der.octets(nonce)))) if nonce else b""
    identity, included = _responder(responder)
    data = der.sequence(identity, der.generalized(now), der.sequence(*answers), echo)
    signature = signer.keys.sign(get(OCSP_RESPONDER).service_key, data)
    basic = der.signed(data, ECDSA_SHA256, signature, included)
    response = der.sequence(der.enumerated(0), der.explicit(0, der.sequence(_BASIC, der.octets(basic))))
    signer.signed(",".join(_stored(serial) for _, serial in wanted), data)
    return {"response": response}


ocsp = Handler(look, sign)


@lru_cache(maxsize=16)
def _responder(certificate: x509.Certificate) -> tuple[bytes, bytes]:
    """Give the ResponderID byKey of a responder, and its certificate as answers include it."""
    included = der.explicit(0, der.sequence(certificate.public_bytes(Encoding.DER)))
    return der.explicit(2, der.octets(authorities.key_hash(certificate, "sha1"))), included


def _single(authority: Authority, algorithm: str, serial: bytes, standings: Standings, now: datetime) -> bytes:
    return der.sequence(
        certificate_id(authority, algorithm, serial),
        _status(standings.get((authority.name, _stored(serial)))),
        der.generalized(now),
        der.explicit(0, der.generalized(now + OCSP_LIFE)),
    )


def certificate_id(authority: Authority, algorithm: str, serial: bytes) -> bytes:
    """Give the CertID of a certificate of an authority; ``serial`` as the content octets of its INTEGER."""
    name, key = authority.hashes[algorithm]
    identifier = der.sequence(der.oid(HASHES[algorithm]), der.NULL)
    return der.sequence(identifier, der.octets(name), der.octets(key), der.tlv(0x02, serial))


def _reason(row: Any) -> int:
    return CERTIFICATE_HOLD if row.state == CertificateState.HELD else NUMBERS[Reason(row.reason)]


def _stored(serial: bytes) -> str:
    return f"{int.from_bytes(serial, 'big', signed=True):x}"


def _status(row: Any) -> bytes:
    """CertStatus: good [0], revoked [1] (also on hold), unknown [2] (RFC 6960 4.2.1)."""
    if row is None:
        return b"\x82\x00"
    if row.state == CertificateState.VALID:
        return b"\x80\x00"
    reason = _reason(row)
    why = der.explicit(0, der.enumerated(reason)) if reason else b""
    return der.explicit(1, der.generalized(row.state_since), why)


def _asked(item: Any) -> tuple[str, bytes]:
    if not isinstance(item, dict) or set(item) != {"hash", "serial_number"} or item["hash"] not in HASHES:
        raise SignatureRefused("A certificate is asked for by hash (sha1, sha256) and serial_number.")
    serial = item["serial_number"]
    if not isinstance(serial, bytes) or not 1 <= len(serial) <= LONGEST:
        raise SignatureRefused("A serial number has 1 to 32 octets.")
    return item["hash"], serial


def _standing() -> Statement:
    c, u = certificates.c, unrecorded.c
    known = sa.select(c.state, c.state_since, c.reason)
    closed = sa.select(sa.literal(str(CertificateState.REVOKED), sa.String), u.since, u.reason)
    serial: Any = sa.bindparam("serial_")
    authority: Any = sa.bindparam("authority_")
    known = known.where(c.serial_number == serial, c.authority == authority)
    return Statement(known.union_all(closed.where(u.serial_number == serial, u.authority == authority)))


_STANDING = _standing()
