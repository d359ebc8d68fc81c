"""Signing and verifying playbooks: JSON Signature Scheme of CACAO 2.0 (section 10.16), ES256 over RFC 8785 JSON.

What is signed is the whole playbook with this one signature in ``signatures``, without its ``value``. A signature is
checked with the public key of the operator's trust list that has the same thumbprint; the key inside the file only names
it. Limits: one signature per file; ES256 alone.
"""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from lachan import clock
from soar_playbooks.errors import PlaybookInvalid, PlaybookUnsigned, SignatureInvalid, SignatureOutOfDate

_FIELDS = {"hash_algorithm": "sha-256", "algorithm": "ES256"}


def digest(document: Mapping[str, Any]) -> str:
    """Give SHA-256 (hex) of the canonical JSON of a whole document, signature included."""
    return hashlib.sha256(rfc8785.dumps(dict(document))).hexdigest()


def thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """Give SHA-256 (hex) of the SubjectPublicKeyInfo: how a signer is named."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    """Write a public key as PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode("ascii")


def load_public(pem: str) -> ec.EllipticCurvePublicKey:
    """Read the P-256 public key of a PEM text.

    Raises:
        PlaybookInvalid: no PEM, or another kind of key.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode("ascii"))
    except ValueError as error:
        raise PlaybookInvalid(f"not a public key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PlaybookInvalid("a signer's key is ECC P-256.")
    return key


def sign(
    document: Mapping[str, Any],
    key: ec.EllipticCurvePrivateKey,
    *,
    signee: str,
    valid_from: datetime | None = None,
    valid_until: datetime | None = None,
) -> dict[str, Any]:
    """Give a copy of the playbook with one signature of ``key``; an earlier one is replaced.

    Args:
        document: the playbook.
        key: the operator's private key; it never comes near the server.
        signee: who signs, for people to read.
        valid_from: before which nothing starts by it; none by default.
        valid_until: from which on nothing starts by it; none by default.
    """
    signed = copy.deepcopy(dict(document))
    moment = clock.iso(clock.now())
    signature = {
        "type": "jss",
        "id": f"jss--{uuid4()}",
        "created_by": signed.get("created_by", ""),
        "created": moment,
        "modified": moment,
        "signee": signee,
        "related_to": signed.get("id", ""),
        "related_version": signed.get("modified", ""),
        **_FIELDS,
        "public_key": public_pem(key.public_key()),
        "thumbprint": thumbprint(key.public_key()),
    }
    for name, moment_of in (("valid_from", valid_from), ("valid_until", valid_until)):
        if moment_of is not None:
            signature[name] = clock.iso(moment_of)
    signed["signatures"] = [signature]
    r, s = decode_dss_signature(key.sign(rfc8785.dumps(signed), ec.ECDSA(hashes.SHA256())))
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    signature["value"] = base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
    return signed


def signature_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Give the one signature of a playbook.

    Raises:
        PlaybookUnsigned: it has none, or more than one.
    """
    signatures = document.get("signatures") or []
    if len(signatures) != 1 or not isinstance(signatures[0], dict) or "value" not in signatures[0]:
        raise PlaybookUnsigned("the playbook carries no signature, or not exactly one.")
    found: dict[str, Any] = signatures[0]
    return found


def check_dates(signature: Mapping[str, Any], *, at: datetime) -> None:
    """See that a signature is valid at a moment, as it says itself.

    Raises:
        SignatureOutOfDate: it is before ``valid_from``, or at or after ``valid_until``.
        SignatureInvalid: one of them is no moment.
    """
    moments = {}
    for name in ("valid_from", "valid_until"):
        try:
            moments[name] = datetime.fromisoformat(signature[name]) if name in signature else None
        except (TypeError, ValueError):
            raise SignatureInvalid(f"{name} of the signature is no moment.") from None
    begin, end = moments["valid_from"], moments["valid_until"]
    if any(moment is not None and moment.tzinfo is None for moment in (begin, end)):
        raise SignatureInvalid("valid_from and valid_until of the signature need a time zone.")
    if begin is not None and at < begin:
        raise SignatureOutOfDate(f"The signature is valid from {clock.iso(begin)}.", valid_from=clock.iso(begin))
    if end is not None and at >= end:
        raise SignatureOutOfDate(f"The signature was valid until {clock.iso(end)}.", valid_until=clock.iso(end))


def verify(document: Mapping[str, Any], key: ec.EllipticCurvePublicKey) -> None:
    """Check the signature with a key that the caller trusts.

    Raises:
        PlaybookUnsigned: there is no signature.
        SignatureInvalid: the bytes differ from what was signed, or the signature speaks of another playbook or algorithm.
    """
    signature = signature_of(document)
    about = (signature.get("related_to"), signature.get("related_version"))
    if about != (document.get("id"), document.get("modified")):
        raise SignatureInvalid("the signature is about another playbook or version.")
    if "public_key" in signature and thumbprint(load_public(str(signature["public_key"]))) != signature.get(
        "thumbprint"
    ):
        raise SignatureInvalid("the signature carries another key than its thumbprint names.")
    if any(signature.get(name) != value for name, value in _FIELDS.items()):
        raise SignatureInvalid("the signature's algorithm is not ES256 over SHA-256.")
    bare = {**document, "signatures": [{name: value for name, value in signature.items() if name != "value"}]}
    try:
        raw = base64.urlsafe_b64decode(str(signature["value"]) + "==")
        if len(raw) != 64:
            raise SignatureInvalid("the signature has a wrong length.")
        der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        key.verify(der, rfc8785.dumps(bare), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, rfc8785.CanonicalizationError) as error:
        raise SignatureInvalid("the signature does not fit the playbook's bytes.") from error
