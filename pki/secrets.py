"""One-time enrolment secrets: issued to a person or manufacturer, shown once, kept hashed, consumed by one certificate."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from lachan import clock, devices
from lachan.database import UtcDateTime
from lachan.events import EnrolmentSecretIssued
from lachan.identity import Permission, Principal, require
from lachan.identity.secrets import hashed
from lachan.ids import new_id
from lachan.runtime import Runtime
from lachan.statements import Statement
from lachan.work import outbox
from pki.errors import DeviceRetired, ProfileUnknown
from pki.models import secrets
from pki.profiles import Names, get
from pki.settings import PkiSettings

OCTETS = 20  # 160 random bits
PREFIX = "lce_"  # so that secret scanners and people know it when they see it


@dataclass(frozen=True)
class NewSecret:
    """A secret at the only moment when it can be read.

    Attributes:
        id: of its row.
        secret: what the device sends as password.
        device: the device's name, what it sends as user.
        profile: the profile it is good for.
        expires_at: until when.
    """

    id: str
    secret: str
    device: str
    profile: str
    expires_at: datetime


def issue_secret(
    rt: Runtime, connection: sa.Connection, principal: Principal, device_id: str, profile: str = "camera"
) -> NewSecret:
    """Make a secret for one device and profile; unused earlier ones for the same stop being good.

    Args:
        rt: the installation.
        connection: an open `Database.write`.
        principal: who asks; needs ``pki:secret``.
        device_id: for whom.
        profile: a profile of devices.

    Raises:
        Forbidden: the principal lacks the permission.
        NotFound: no such device, or another vendor's.
        ProfileUnknown: no profile of devices has that name.
        DeviceRetired: the device is retired.
    """
    device = devices.get(connection, device_id, principal=principal)
    require(principal, Permission.PKI_SECRET, vendor=device.vendor)
    if get(profile).names is not Names.DEVICE:
        raise ProfileUnknown(f"The profile {profile} is not for devices.")
    if device.state is devices.DeviceState.RETIRED:
        raise DeviceRetired(f"{device.name} is retired.")
    now = clock.now()
    same = sa.and_(secrets.c.device_id == device_id, secrets.c.profile == profile, secrets.c.consumed_at.is_(None))
    connection.execute(secrets.update().where(same, secrets.c.expires_at > now).values(expires_at=now))
    secret = PREFIX + base64.b32encode(os.urandom(OCTETS)).decode().lower()
    secret_id, expires_at = new_id(), now + timedelta(days=PkiSettings.of(rt.settings).pki_secret_days)
    connection.execute(
        secrets.insert().values(
            id=secret_id, device_id=device_id, profile=profile, digest=hashed(rt.settings.data, secret),
            issued_by=principal.label, created_at=now, expires_at=expires_at,
        )
    )  # fmt: skip
    event = EnrolmentSecretIssued(
        device_id=device_id, secret_id=secret_id, profile=profile, expires_at=clock.iso(expires_at)
    )
    outbox.append(connection, event, actor=principal)
    return NewSecret(secret_id, secret, device.name, profile, expires_at)


CONSUME = Statement(  # uses a secret up, in the unit that records; meets no row when somebody else just did
    secrets.update()
    .where(
        secrets.c.id == sa.bindparam("id"),
        secrets.c.consumed_at.is_(None),
        secrets.c.expires_at > sa.bindparam("now", type_=UtcDateTime),
    )
    .values(consumed_at=sa.bindparam("now", type_=UtcDateTime), certificate_id=sa.bindparam("certificate_id")),
    exact=True,
)
