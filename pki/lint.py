"""Hold every profile against pkilint before anything is signed from it.

Steps: `lint` issues a sample from the profile's template with a throw-away key and throws the linter's findings back;
`approve` does so for all profiles and records their digests in the signer's folder; `is_approved` is what the signer asks.
Limits: what is linted is the template, not each certificate (6 ms each); a test lints really issued ones.
"""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lachan import clock, der
from lachan.files import write_atomically
from pki import names
from pki.authorities import FIRST, Authority
from pki.errors import ProfileBroken
from pki.profiles import ECDSA_SHA256, Issuer, Names, Profile, compile_template

RECORD = "linted-profiles.json"
# Findings that are mistakes of the linter's URL and domain patterns, each with its ground.
EXPECTED = (
    'pkix.invalid_uri_syntax: Invalid URI syntax: "urn:uuid:',  # RFC 9562 4; RFC 5280 4.2.1.6 allows URIs without authority
    'pkix.invalid_uri_syntax: Invalid URI syntax: "http://localhost:',  # RFC 3986 3.2.2: a host may be one label
    'pkix.invalid_domain_name_syntax: Invalid domain name syntax: "localhost"',  # one label is a name (RFC 1034 3.5)
)


def findings(certificate: bytes) -> list[str]:
    """Tell what pkilint says about one certificate, warnings and worse, as ``code: message``.

    Args:
        certificate: DER.
    """
    from pkilint import loader  # heavy, and needed once in a lifetime
    from pkilint.pkix import certificate as pkix
    from pkilint.pkix import extension, name
    from pkilint.validation import ValidationFindingSeverity

    validator = pkix.create_pkix_certificate_validator_container(
        pkix.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            pkix.create_issuer_validator_container([]),
            pkix.create_validity_validator_container(),
            pkix.create_subject_validator_container([]),
            pkix.create_extensions_validator_container([]),
            pkix.create_spki_validator_container([]),
        ],
    )
    document = loader.load_certificate(certificate, "sample")
    results = validator.validate(document.root)
    described = [item for result in results for item in result.finding_descriptions]
    bad = [item for item in described if item.finding.severity <= ValidationFindingSeverity.WARNING]
    found = [f"{item.finding.code}: {item.message or ''}".strip(" :") for item in bad]
    return [text for text in found if not text.startswith(EXPECTED)]


def lint(profile: Profile) -> None:
    """Issue a sample and have it judged.

    Raises:
        ProfileBroken: the linter found something; ``fields['findings']`` lists it.
    """
    found = findings(_sample(profile))
    if found:
        raise ProfileBroken(f"{profile.name}.json: {found[0]}", file=f"{profile.name}.json", findings=found)


def approve(folder: Path, profiles: dict[str, Profile]) -> None:
    """Lint what is not yet on the record, then write the record.

    Args:
        folder: the signer's own folder.
        profiles: by name.

    Raises:
        ProfileBroken: one is not sound; the record stays as it was.
    """
    known = _record(folder)
    for profile in profiles.values():
        if profile.digest not in known:
            lint(profile)
    text = json.dumps({p.digest: p.name for p in profiles.values()}, indent=1)
    write_atomically(folder / RECORD, text.encode())


def is_approved(folder: Path, profile: Profile) -> bool:
    """Tell whether this very content was linted in this installation."""
    return profile.digest in _record(folder)


def _record(folder: Path) -> dict[str, str]:
    path = folder / RECORD
    try:
        status = path.stat()
    except FileNotFoundError:
        return {}
    return _record_of(path, status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _record_of(path: Path, _inode: int, _changed: int) -> dict[str, str]:
    found: dict[str, str] = json.loads(path.read_text())
    return found


def _sample(profile: Profile) -> bytes:
    now = clock.now().replace(microsecond=0)
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lint")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = (
        x509.CertificateBuilder(issuer_name, issuer_name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    identity = {
        Names.DEVICE: lambda: names.device(
            device_id="01890a5d-ac96-774b-bcce-b302099a8057",
            name="sample",
            vendor="Vendor",
            serial_number="S-1",
            domain="devices.lachan.invalid",
        ),
        Names.SERVER: lambda: names.server(["localhost", "127.0.0.1"]),
        Names.SERVICE: lambda: names.service(profile.service_name),
    }[profile.names]()
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = compile_template(profile, Issuer(Authority(FIRST, issuer), "http://status.lachan.invalid")).fill(
        serial=(1 << 126) + 1,
        not_before=now,
        not_after=now + timedelta(days=profile.validity_days),
        subject=identity.subject,
        spki=spki,
        key_id=hashlib.sha1(spki[-65:], usedforsecurity=False).digest(),
        san=identity.san,
    )
    return der.signed(body, ECDSA_SHA256, key.sign(body, ec.ECDSA(hashes.SHA256())))
