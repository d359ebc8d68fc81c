"""Certificate profiles: declarative files, compiled to DER templates.

Steps: `load` reads ``profiles/*.json`` and holds each against ``schema.json``; `compile_template` turns one, for one
issuer, into the octets that never change; `Template.fill` puts serial number, validity, subject, key and SAN between them.
A profile is linted once (`pki.lint`), and the signer refuses one whose digest is not on that record.
Limits: profiles ship with lachan; certificates of authorities have no profile, so the signer cannot be asked for one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from lachan import der
from pki.authorities import FIRST, Authority
from pki.errors import ProfileBroken, ProfileUnknown

FOLDER = Path(__file__).with_name("profiles")
TEMPLATE_VERSION = 1  # raise it when the compiler changes, so that every profile is linted again
ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))
_VERSION_3 = der.explicit(0, der.integer(2))
_EKU = {
    "client_auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "server_auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "code_signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email_protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "ocsp_signing": ExtendedKeyUsageOID.OCSP_SIGNING,
}


class Names(StrEnum):
    """Where subject and SAN of a profile's certificates come from."""

    DEVICE = "device"
    SERVER = "server"
    SERVICE = "service"


@dataclass(frozen=True)
class Profile:
    """One kind of certificate; the fields are those of ``schema.json``."""

    name: str
    title: str
    authority: str
    names: Names
    validity_days: int
    keys: tuple[str, ...]
    key_usage: tuple[str, ...]
    extended_key_usage: tuple[str, ...]
    status: tuple[str, ...]
    service_name: str
    service_key: str
    digest: str


@dataclass(frozen=True)
class Issuer:
    """The authority whose name and addresses go into a template.

    Attributes:
        authority: name, certificate, paths.
        status_url: base of CDP and AIA, without a slash at the end.
    """

    authority: Authority
    status_url: str


# The subject key identifier extension up to its 20 octets (RFC 5280 4.2.1.2)
_KEY_ID = der.extension("2.5.29.14", der.octets(bytes(20)))[:-20]


@dataclass(frozen=True)
class Template:
    """The constant octets of one profile under one issuer."""

    profile: Profile
    issuer_name: bytes
    extensions: bytes
    issuer_not_after: datetime

    def fill(
        self,
        *,
        serial: int,
        not_before: datetime,
        not_after: datetime,
        subject: bytes,
        spki: bytes,
        key_id: bytes,
        san: bytes,
    ) -> bytes:
        """Give the TBSCertificate (RFC 5280 4.1.2).

        Args:
            serial: positive serial number.
            not_before: start of validity.
            not_after: end of validity; cut to the issuer's own.
            subject: DER Name.
            spki: DER SubjectPublicKeyInfo.
            key_id: SHA-1 of the key's bits, for the subject key identifier.
            san: DER GeneralNames, or nothing.
        """
        variable = _KEY_ID + key_id
        if san:
            variable += der.extension("2.5.29.17", san)
        return der.sequence(
            _VERSION_3,
            der.integer(serial),
            ECDSA_SHA256,
            self.issuer_name,
            der.sequence(der.moment(not_before), der.moment(min(not_after, self.issuer_not_after))),
            subject,
            spki,
            der.explicit(3, der.sequence(self.extensions, variable)),
        )


@lru_cache(maxsize=32)
def compile_template(profile: Profile, issuer: Issuer) -> Template:
    """Give the octets that all certificates of ``profile`` under ``issuer`` share."""
    authority = issuer.authority
    parts = [
        der.extension("2.5.29.19", x509.BasicConstraints(ca=False, path_length=None).public_bytes(), critical=True),
        der.extension("2.5.29.15", _key_usage(profile).public_bytes(), critical=True),
        der.extension("2.5.29.37", x509.ExtendedKeyUsage([_EKU[u] for u in profile.extended_key_usage]).public_bytes()),
        der.extension("2.5.29.35", authority.key_identifier),
        *_status_pointers(profile, issuer),
    ]
    return Template(
        profile=profile,
        issuer_name=authority.subject,
        extensions=b"".join(parts),
        issuer_not_after=authority.certificate.not_valid_after_utc,
    )


@lru_cache(maxsize=1)
def load() -> dict[str, Profile]:
    """All profiles by name.

    Raises:
        ProfileBroken: a file is no JSON, breaks the schema, or is named otherwise than its profile.
    """
    schema = json.loads((FOLDER / "schema.json").read_text())
    found = (read(path, schema) for path in sorted(FOLDER.glob("*.json")) if path.name != "schema.json")
    return {profile.name: profile for profile in found}


def get(name: str) -> Profile:
    """Give the profile of that name.

    Raises:
        ProfileUnknown: there is none.
    """
    try:
        return load()[name]
    except KeyError:
        raise ProfileUnknown(f"There is no certificate profile {name!r}.") from None


def read(path: Path, schema: dict[str, Any]) -> Profile:
    """One profile file, checked.

    Raises:
        ProfileBroken: see `load`; names file and, where JSON tells it, the line.
    """
    try:
        data = json.loads(path.read_text())
        jsonschema.validate(data, schema)
    except json.JSONDecodeError as error:
        raise ProfileBroken(f"{path.name}: {error.msg}", file=path.name, line=error.lineno) from error
    except jsonschema.ValidationError as error:
        raise ProfileBroken(f"{path.name}: {error.json_path}: {error.message}", file=path.name) from error
    if data["name"] != path.stem:
        raise ProfileBroken(f"{path.name} holds the profile {data['name']!r}.", file=path.name)
    service = data.get("service", {})
    canonical = json.dumps([TEMPLATE_VERSION, data], sort_keys=True, separators=(",", ":"))
    return Profile(
        name=data["name"],
        title=data["title"],
        authority=data.get("authority", FIRST),
        names=Names(data["names"]),
        validity_days=data["validity_days"],
        keys=tuple(data["keys"]),
        key_usage=tuple(data["key_usage"]),
        extended_key_usage=tuple(data["extended_key_usage"]),
        status=tuple(data["status"]),
        service_name=service.get("common_name", ""),
        service_key=service.get("key", ""),
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
    )


def _key_usage(profile: Profile) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digital_signature" in profile.key_usage,
        content_commitment="content_commitment" in profile.key_usage,
        key_encipherment="key_encipherment" in profile.key_usage,
        key_agreement="key_agreement" in profile.key_usage,
        data_encipherment=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _status_pointers(profile: Profile, issuer: Issuer) -> list[bytes]:
    """CDP, AIA and nocheck, as the profile's ``status`` says (RFC 5280 4.2.1.13 and 4.2.2.1)."""
    base, authority = issuer.status_url, issuer.authority
    uri = x509.UniformResourceIdentifier
    method = x509.oid.AuthorityInformationAccessOID
    parts: list[bytes] = []
    if "crl" in profile.status:
        point = x509.DistributionPoint([uri(f"{base}{authority.crl_path}")], None, None, None)
        parts.append(der.extension("2.5.29.31", x509.CRLDistributionPoints([point]).public_bytes()))
    access = [x509.AccessDescription(method.CA_ISSUERS, uri(f"{base}{authority.certificate_path}"))]
    if "ocsp" in profile.status:
        access.insert(0, x509.AccessDescription(method.OCSP, uri(f"{base}/ocsp")))
    parts.append(der.extension("1.3.6.1.5.5.7.1.1", x509.AuthorityInformationAccess(access).public_bytes()))
    if "nocheck" in profile.status:
        parts.append(der.extension("1.3.6.1.5.5.7.48.1.5", der.NULL))
    return parts
