"""What runs inside the signer process: certificates, CRLs and OCSP answers from typed requests.

A request says *which profile for whom*, never what to sign: names are read again from the registry, the rest comes from
the profile's template, revocation status from the rows. So a taken-over web process can at worst ask for what the registry
already says. Limits: it reads committed rows only; the caller's own open transaction is not visible here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization

from lachan import clock, der, trust
from lachan.devices import State as DeviceState
from lachan.devices import devices
from lachan.signer.context import SignerContext, strict
from lachan.signer.errors import SignatureRefused
from pki import authorities, lint, names
from pki.csr import check_key
from pki.errors import KeyUnfit, ProfileUnknown
from pki.models import certificates
from pki.profiles import ECDSA_SHA256, Issuer, Names, Profile, compile_template
from pki.profiles import get as get_profile

BACKDATE = timedelta(minutes=5)  # clocks of devices are not exact


def issue(signer: SignerContext, request: dict[str, Any]) -> dict[str, Any]:
    """Issue one certificate.

    Args:
        signer: keys, database, settings.
        request: ``profile`` and, as its names come from: ``device_id`` and ``spki`` (DER) for a device;
            ``names`` and ``spki`` for a door; nothing more for a service.

    Returns:
        ``certificate``: DER.

    Raises:
        SignatureRefused: unknown field, profile, device or name; unlinted profile; unfit key; device retired or
            contained.
    """
    name = request.get("profile")
    try:
        profile = get_profile(name if isinstance(name, str) else "")
    except ProfileUnknown as error:
        raise SignatureRefused(error.detail) from error
    if not lint.is_approved(authorities.folder(signer.settings), profile):
        raise SignatureRefused(f"Profile {profile.name} was not linted here; run `lachan pki lint`.")
    identity, spki = _IDENTITIES[profile.names](signer, profile, request)
    certificate = build(signer, profile, identity, spki)
    if profile.names is Names.SERVICE:
        authorities.keep(signer.settings, profile.name, certificate)
    return {"certificate": certificate}


def build(signer: SignerContext, profile: Profile, identity: names.Identity, spki: bytes) -> bytes:
    """Fill the profile's template and sign it with the issuing key; the serial number is random (RFC 5280 4.1.2.2).

    Raises:
        SignatureRefused: the profile does not allow the key.
    """
    try:
        key_id = check_key(spki, allowed=profile.keys)
    except KeyUnfit as error:
        raise SignatureRefused(error.detail) from error
    issuer = authorities.kept(signer.settings, "issuing")
    template = compile_template(profile, Issuer(issuer, signer.settings.status_url.rstrip("/")))
    serial = int.from_bytes(os.urandom(16), "big") >> 2 | 1 << 126  # always 16 octets, always positive
    now = clock.now().replace(microsecond=0)
    body = template.fill(
        serial=serial,
        not_before=max(now - BACKDATE, issuer.not_valid_before_utc),
        not_after=now + timedelta(days=profile.validity_days),
        subject=identity.subject,
        spki=spki,
        key_id=key_id,
        san=identity.san,
    )
    signature = signer.keys.sign(authorities.ISSUING_KEY, body)
    signer.signed(f"{serial:x}", body)
    return der.signed(body, ECDSA_SHA256, signature)


def is_recorded(connection: sa.Connection, subject: str) -> bool:
    """Whether the certificate with that serial number (hex) stands in the books; asked by `lachan.signer.reconcile`."""
    query = sa.select(certificates.c.id).where(certificates.c.serial_number == subject)
    return connection.execute(query).first() is not None


def _for_device(signer: SignerContext, profile: Profile, request: dict[str, Any]) -> tuple[names.Identity, bytes]:
    fields = strict(request, {"profile": str, "device_id": str, "spki": bytes})
    device_id = fields["device_id"]
    with signer.db.read() as connection:
        row = connection.execute(sa.select(devices).where(devices.c.id == device_id)).first()
        answer = trust.decision(connection, device_id).answer
    if row is None:
        raise SignatureRefused(f"No device {device_id} is registered.")
    if row.state == DeviceState.RETIRED:
        raise SignatureRefused(f"Device {row.name} is retired.")
    if answer.rank >= trust.Answer.QUARANTINE.rank:
        raise SignatureRefused(f"Device {row.name} is contained ({answer}).")
    try:
        identity = names.device(
            device_id=row.id,
            name=row.name,
            vendor=row.vendor,
            serial_number=row.serial_number,
            domain=signer.settings.pki_device_domain,
        )
    except names.NameUnfit as error:
        raise SignatureRefused(str(error)) from error
    return identity, fields["spki"]


def _for_server(signer: SignerContext, profile: Profile, request: dict[str, Any]) -> tuple[names.Identity, bytes]:
    fields = strict(request, {"profile": str, "names": list, "spki": bytes})
    wanted = [str(name) for name in fields["names"]]
    strange = set(wanted) - names.of_doors(signer.settings)
    if strange or not wanted:
        raise SignatureRefused(f"Not a name of this installation: {', '.join(sorted(strange)) or 'none given'}.")
    return names.server(wanted), fields["spki"]


def _for_service(signer: SignerContext, profile: Profile, request: dict[str, Any]) -> tuple[names.Identity, bytes]:
    strict(request, {"profile": str})
    public = signer.keys.public(profile.service_key)
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return names.service(profile.service_name), spki


_IDENTITIES: Mapping[Names, Callable[[SignerContext, Profile, dict[str, Any]], tuple[names.Identity, bytes]]] = {
    Names.DEVICE: _for_device,
    Names.SERVER: _for_server,
    Names.SERVICE: _for_service,
}
