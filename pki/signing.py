"""What runs inside the signer process: certificates, CRLs and OCSP answers from typed requests.

A request says *which profile for whom*, never what to sign: names are read again from the registry, the rest comes from
the profile's template, revocation status from the rows. So a taken-over web process can at worst ask for what the registry
already says. Steps, for any number of requests at once: `look` reads registry rows and trust signals of all of them in one
statement (so of one snapshot); `issue` answers each; what a profile's requests share (its template, the authority that issues
for it, whether it was linted) is found once a message. Limits: it reads committed rows only; the caller's own open
transaction is not visible here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization

from lachan import clock, der, trust
from lachan.devices import DeviceState, devices
from lachan.ids import random_octets
from lachan.signer.context import Handler, SignerContext, strict
from lachan.signer.errors import SignatureRefused
from lachan.statements import Statement
from pki import authorities, lint, names
from pki.authorities import Authority
from pki.csr import check_key
from pki.errors import AuthorityMissing, KeyUnfit, ProfileUnknown
from pki.models import certificates
from pki.profiles import ECDSA_SHA256, Issuer, Names, Profile, Template, compile_template
from pki.profiles import get as get_profile
from pki.settings import PkiSettings

BACKDATE = timedelta(minutes=5)  # clocks of devices are not exact


@dataclass(frozen=True)
class Candidate:
    """A device's registry row as far as a certificate needs it, and what is held against it."""

    id: str
    name: str
    vendor: str
    serial_number: str
    state: str
    signals: list[trust.Signal] = field(default_factory=list)


@dataclass(frozen=True)
class Press:
    """What all certificates of one profile under one authority share."""

    profile: Profile
    authority: Authority
    template: Template
    oldest: datetime  # no certificate begins before its issuer


@dataclass(frozen=True)
class Looked:
    """What the requests of one message share: the devices that they name, and a press for each profile (made at its first)."""

    devices: Mapping[str, Candidate] = field(default_factory=dict)
    presses: dict[str, Press] = field(default_factory=dict)


def look(signer: SignerContext, requests: Sequence[Mapping[str, Any]]) -> Looked:
    """Read the devices that requests name, with what is held against each, of one snapshot."""
    ids = sorted(
        {item for request in requests if isinstance(item := request.get("device_id"), str) and "\0" not in item}
    )
    if not ids:
        return Looked()
    asked = {"ids": json.dumps(ids) if signer.db.dialect == "sqlite" else ids}
    rows = signer.db.glance(lambda connection: _CANDIDATES[signer.db.dialect].all(connection, **asked))
    found: dict[str, Candidate] = {}
    for device_id, name, vendor, serial_number, state, *signal in rows:
        candidate = found.setdefault(device_id, Candidate(device_id, name, vendor, serial_number, state))
        if signal[0] is not None:
            candidate.signals.append(trust.of_columns(signal))
    return Looked(found)


def issue(signer: SignerContext, request: dict[str, Any], seen: Looked | None = None) -> dict[str, Any]:
    """Issue one certificate.

    Args:
        signer: keys, database, settings.
        request: ``profile`` and, as its names come from: ``device_id`` and ``spki`` (DER) for a device;
            ``names`` and ``spki`` for a door; nothing more for a service, or the name of an older ``authority`` that
            still needs its own (the OCSP responder).
        seen: what `look` found.

    Returns:
        ``certificate``: DER; ``authority``: the name of the one that issued it; ``subject``: as RFC 4514 writes it.

    Raises:
        SignatureRefused: unknown field, profile, device or name; unlinted profile; unfit key; device retired or
            contained.
        TooManySignatures: the device has had its number this hour.
    """
    seen = Looked() if seen is None else seen
    name = request.get("profile")
    press = seen.presses.get(name) if isinstance(name, str) else None
    if press is None:
        press = _press(signer, request)
        if press.profile.names is not Names.SERVICE:  # one of those may be asked for by an older authority
            seen.presses[press.profile.name] = press
    profile, authority = press.profile, press.authority
    identity, spki, device_id = _IDENTITIES[profile.names](signer, profile, request, seen.devices)
    certificate = build(signer, press, identity, spki, device_id=device_id)
    if profile.names is Names.SERVICE:
        authorities.keep(signer.settings, authority.service(profile.name), certificate)
    return {"certificate": certificate, "authority": authority.name, "subject": identity.text}


def build(signer: SignerContext, press: Press, identity: names.Identity, spki: bytes, *, device_id: str = "") -> bytes:
    """Fill the profile's template and sign it with the authority's key; the serial number is random (RFC 5280 4.1.2.2).

    Raises:
        SignatureRefused: the profile does not allow the key.
    """
    profile, authority = press.profile, press.authority
    try:
        key_id = check_key(spki, allowed=profile.keys)
    except KeyUnfit as error:
        raise SignatureRefused(error.detail) from error
    serial = int.from_bytes(random_octets(16), "big") >> 2 | 1 << 126  # always 16 octets, always positive
    now = clock.now().replace(microsecond=0)
    body = press.template.fill(
        serial=serial,
        not_before=max(now - BACKDATE, press.oldest),
        not_after=now + timedelta(days=profile.validity_days),
        subject=identity.subject,
        spki=spki,
        key_id=key_id,
        san=identity.san,
    )
    signature = signer.keys.sign(authority.key_name, body)
    signer.signed(f"{serial:x}", body, device_id=device_id, authority=authority.name)
    return der.signed(body, ECDSA_SHA256, signature)


def is_recorded(connection: sa.Connection, subject: str) -> bool:
    """Whether the certificate with that serial number (hex) stands in the books; asked by `lachan.signer.reconcile`."""
    return _RECORDED.first(connection, serial_number=subject) is not None


def _press(signer: SignerContext, request: dict[str, Any]) -> Press:
    """Find what a request's certificate shares with others of its profile.

    Raises:
        SignatureRefused: unknown or unlinted profile, or nobody issues for it.
    """
    name = request.get("profile")
    try:
        profile = get_profile(name if isinstance(name, str) else "")
    except ProfileUnknown as error:
        raise SignatureRefused(error.detail) from error
    if not lint.is_approved(authorities.folder(signer.settings), profile):
        raise SignatureRefused(f"Profile {profile.name} was not linted here; run `lachan pki lint`.")
    authority = _authority(signer, profile, request)
    template = compile_template(profile, Issuer(authority, signer.settings.status_url.rstrip("/")))
    return Press(profile, authority, template, authority.certificate.not_valid_before_utc)


def _authority(signer: SignerContext, profile: Profile, request: dict[str, Any]) -> Authority:
    """Give the newest of the profile's line; for a service the one that is asked for."""
    try:
        if profile.names is Names.SERVICE and request.get("authority") is not None:
            return authorities.kept_authority(signer.settings, request["authority"])
        return authorities.issuer(signer.settings, profile.authority)
    except AuthorityMissing as error:
        raise SignatureRefused(error.detail) from error


Devices = Mapping[str, Candidate]
_Wanted = tuple[names.Identity, bytes, str]  # subject and SAN, SubjectPublicKeyInfo, device id
_DEVICE_FIELDS = {"profile": str, "device_id": str, "spki": bytes}


def _for_device(signer: SignerContext, profile: Profile, request: dict[str, Any], seen: Devices) -> _Wanted:
    fields = strict(request, _DEVICE_FIELDS)
    row = seen.get(fields["device_id"])
    if row is None:
        raise SignatureRefused(f"No device {fields['device_id'][:60]} is registered.")
    if row.state == DeviceState.RETIRED:
        raise SignatureRefused(f"Device {row.name} is retired.")
    if row.signals:
        answer = trust.decide(row.id, row.signals, at=clock.now()).answer
        if answer.rank >= trust.Answer.QUARANTINE.rank:
            raise SignatureRefused(f"Device {row.name} is contained ({answer}).")
    signer.counts.check(row.id)
    try:
        identity = names.device(
            device_id=row.id,
            name=row.name,
            vendor=row.vendor,
            serial_number=row.serial_number,
            domain=PkiSettings.of(signer.settings).pki_device_domain,
        )
    except names.NameUnfit as error:
        raise SignatureRefused(str(error)) from error
    return identity, fields["spki"], row.id


def _for_server(signer: SignerContext, profile: Profile, request: dict[str, Any], seen: Devices) -> _Wanted:
    fields = strict(request, {"profile": str, "names": list, "spki": bytes})
    wanted = [str(name) for name in fields["names"]]
    strange = set(wanted) - names.of_doors(signer.settings)
    if strange or not wanted:
        raise SignatureRefused(f"Not a name of this installation: {', '.join(sorted(strange)) or 'none given'}.")
    return names.server(wanted), fields["spki"], ""


def _for_service(signer: SignerContext, profile: Profile, request: dict[str, Any], seen: Devices) -> _Wanted:
    strict(request, {"profile": str, "authority?": str})
    public = signer.keys.public(profile.service_key)
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return names.service(profile.service_name), spki, ""


_IDENTITIES: Mapping[Names, Callable[[SignerContext, Profile, dict[str, Any], Devices], _Wanted]] = {
    Names.DEVICE: _for_device,
    Names.SERVER: _for_server,
    Names.SERVICE: _for_service,
}

_OF_CANDIDATE = sa.select(
    devices.c.id, devices.c.name, devices.c.vendor, devices.c.serial_number, devices.c.state, *trust.trust_signals.c
).select_from(devices.outerjoin(trust.trust_signals, trust.trust_signals.c.device_id == devices.c.id))
_IDS = sa.text("SELECT value FROM json_each(:ids)").bindparams(sa.bindparam("ids", type_=sa.Text))
_CANDIDATES = {
    "sqlite": Statement(_OF_CANDIDATE.where(devices.c.id.in_(_IDS))),
    "postgresql": Statement(
        _OF_CANDIDATE.where(devices.c.id == sa.func.any(sa.bindparam("ids", type_=sa.ARRAY(sa.String))))
    ),
}
_RECORDED = Statement(sa.select(certificates.c.id).where(certificates.c.serial_number == sa.bindparam("serial_number")))
ISSUE = Handler(look, issue)
