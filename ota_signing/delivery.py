"""The device's side: which release applies, its bytes, and what became of it.

The firmware of a model is its release that was published last and is not halted. A device is offered it when it is
newer than what the device runs, or when people approved it as a downgrade. A device sees releases of its own vendor
and model only. ``limited`` devices may update, since updating is often the remedy; quarantined ones may not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lachan import clock, devices, trust
from lachan.database import for_update
from lachan.errors import Invalid
from lachan.events import FirmwareInstalled
from lachan.identity import Permission, Principal, require
from lachan.ids import new_id
from lachan.statements import Statement
from lachan.work import outbox
from ota_signing.errors import NoSuchRelease, ReleaseHalted, TooManyReports, TrustWithheld
from ota_signing.models import installs, releases
from ota_signing.schemas import Install, InstallOutcome, ReleaseState
from ota_signing.store import Store
from ota_signing.versions import Version

if TYPE_CHECKING:
    from lachan.runtime import Runtime
    from lachan.settings import Settings


_r = releases.c
_MINE = sa.select(releases).where(_r.vendor == sa.bindparam("vendor_"), _r.model == sa.bindparam("model_"))
_NEWEST = Statement(
    _MINE.where(_r.state == ReleaseState.PUBLISHED, _r.listed).order_by(_r.published_at.desc(), _r.id.desc()).limit(1)
)
_BY_ID = Statement(_MINE.where(_r.id == sa.bindparam("id_")))
_BY_TARGET = Statement(_MINE.where(_r.target_path == sa.bindparam("path_"), _r.sha256 == sa.bindparam("sha256_")))
REPORTS = 30  # of one device within an hour


Release = Any  # a row of `releases`, as the statements below give it


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A release that a device should install; ``target_path`` is its name in the TUF repository."""

    release_id: str
    version: str
    sha256: str
    length: int
    target_path: str
    downgrade: bool


@dataclass(frozen=True, kw_only=True)
class Firmware:
    """A file that may be sent to a device."""

    release_id: str
    path: Path
    sha256: str
    signature: bytes


def newest(connection: sa.Connection, *, vendor: str, model: str) -> Release | None:
    """Give the release that devices of a model are to run; None without any."""
    found: Release | None = _NEWEST.first(connection, vendor_=vendor, model_=model)
    return found


def offered(release: Release | None, *, has: str | None) -> Offer | None:
    """Tell whether a device that runs this version should install the newest release of its model."""
    if release is None:
        return None
    running, gets = Version(has or ""), Version(release.version)
    if has and (gets == running or (gets < running and not release.downgrade)):
        return None
    return Offer(
        release_id=release.id, version=release.version, sha256=release.sha256, length=release.length,
        target_path=release.target_path, downgrade=release.downgrade,
    )  # fmt: skip


def offer(rt: "Runtime", device_id: str) -> Offer | None:
    """Tell what a device should install now; None when it is up to date.

    Raises:
        TrustWithheld: the device's trust decision is quarantine or deny.
        NotFound: there is no such device.
    """
    with rt.db.read() as connection:
        device = devices.get(connection, device_id)
        _check_trust(connection, device_id)
        release = newest(connection, vendor=device.vendor, model=device.model)
    return offered(release, has=device.firmware_version)


def firmware(rt: "Runtime", device_id: str, release_id: str) -> Firmware:
    """Give the file and signature of a release, for a device that it is made for.

    Raises:
        TrustWithheld: the device's trust decision is quarantine or deny.
        NoSuchRelease: there is none for this device's vendor and model, or it is not published yet.
        ReleaseHalted: it was halted.
    """
    return _firmware(rt, device_id, _BY_ID, id_=release_id)


def target(rt: "Runtime", device_id: str, path: str) -> Firmware:
    """Give the file of a TUF target path with its hash prefix (``vendor/model/version/<sha256>.firmware.bin``).

    Raises:
        TrustWithheld: the device's trust decision is quarantine or deny.
        NoSuchRelease: no such target exists for this device's vendor and model.
        ReleaseHalted: it was halted.
    """
    return _firmware(rt, device_id, _BY_TARGET, **_target(path))


def firmware_for(
    connection: sa.Connection, settings: "Settings", *, vendor: str, model: str, release_id: str = "", path: str = ""
) -> Firmware:
    """Do what `firmware` or (with a ``path``) `target` does, for a device whose trust was asked already.

    Raises:
        NoSuchRelease, ReleaseHalted: as these do.
    """
    if path:
        row = _BY_TARGET.first(connection, vendor_=vendor, model_=model, **_target(path))
    else:
        row = _BY_ID.first(connection, vendor_=vendor, model_=model, id_=release_id)
    return _told(settings, row)


def report(
    rt: "Runtime", device: Principal, *, release_id: str, version: str, outcome: InstallOutcome, detail: str = ""
) -> Install:
    """Run `reporting` and wait for it; raises as it does."""
    return rt.db.run(reporting(device, release_id=release_id, version=version, outcome=outcome, detail=detail))


def reporting(
    device: Principal, *, release_id: str, version: str, outcome: InstallOutcome, detail: str = ""
) -> Callable[[sa.Connection], Install]:
    """Make the unit that takes a device's word on an update; the same report again changes nothing.

    Args:
        device: as its certificate proves it.
        release_id: what it tried to install.
        version: what it runs now.
        outcome: what became of it.
        detail: the device's own words, at most 500 characters are kept; shown to people, never interpreted.

    Raises:
        NoSuchRelease: there is no such release for this device's vendor and model.
        Invalid: it claims to have installed it and names another version.
        TooManyReports: it has told of `REPORTS` other outcomes within an hour.
    """
    require(device, Permission.SELF)

    def unit(connection: sa.Connection) -> Install:
        row = _made_for(connection, _locked(connection, device.id), releases.c.id == release_id)
        if outcome is InstallOutcome.INSTALLED and version != row["version"]:
            raise Invalid(f"The release is {row['version']}, not {version}.", field="version")
        before = _last(connection, device.id)
        if before and (before.release_id, before.version, before.outcome) == (release_id, version, outcome):
            return before
        _refuse_flood(connection, device.id)
        made = Install(
            id=new_id(), device_id=device.id, release_id=release_id, version=version, outcome=outcome,
            detail=detail[:500], reported_at=clock.now(),
        )  # fmt: skip
        connection.execute(installs.insert().values(**made.__dict__))
        if outcome is not InstallOutcome.FAILED:
            _note_running(connection, device.id, version)
        event = FirmwareInstalled(device_id=device.id, release_id=release_id, version=version, outcome=outcome)
        outbox.append(connection, event, actor=device)
        return made

    return unit


def _note_running(connection: sa.Connection, device_id: str, version: str) -> None:
    """Write down what a device runs; the doors look at its row again, so that its next poll goes by it."""
    running = devices.devices.update().where(devices.devices.c.id == device_id)
    connection.execute(running.values(firmware_version=version))
    trust.touch(connection, device_id)


def _locked(connection: sa.Connection, device_id: str) -> devices.Device:
    """Give the device, its row locked, so that its reports are taken one after another."""
    row = sa.select(devices.devices.c.id).where(devices.devices.c.id == device_id)
    connection.execute(for_update(row, connection))
    return devices.get(connection, device_id)


def _refuse_flood(connection: sa.Connection, device_id: str) -> None:
    c, now = installs.c, clock.now()
    lately = sa.and_(
        c.device_id == device_id, c.reported_at > now - timedelta(hours=1), c.reported_at <= now + clock.SLACK
    )
    if connection.execute(sa.select(sa.func.count()).where(lately)).scalar_one() >= REPORTS:
        raise TooManyReports(f"{REPORTS} reports within an hour are enough.", retry_after=600)


def history(connection: sa.Connection, device_id: str, *, limit: int = 50) -> list[Install]:
    """Give a device's reports, newest first."""
    query = sa.select(installs).where(installs.c.device_id == device_id)
    rows = connection.execute(query.order_by(installs.c.reported_at.desc(), installs.c.id.desc()).limit(limit))
    return [Install(**{**row, "outcome": InstallOutcome(row["outcome"])}) for row in rows.mappings()]


def _firmware(rt: "Runtime", device_id: str, statement: Statement, **which: str) -> Firmware:
    with rt.db.read() as connection:
        device = devices.get(connection, device_id)
        _check_trust(connection, device_id)
        row = statement.first(connection, vendor_=device.vendor, model_=device.model, **which)
    return _told(rt.settings, row)


def _told(settings: "Settings", row: Release | None) -> Firmware:
    if row is not None and row.state == ReleaseState.HALTED:
        raise ReleaseHalted(f"Release {row.version} was halted.", release_id=row.id)
    if row is None or row.state != ReleaseState.PUBLISHED or row.signature is None:
        raise NoSuchRelease("There is no such release for this device.")
    path = Store(settings).path(row.sha256)
    return Firmware(release_id=row.id, path=path, sha256=row.sha256, signature=bytes(row.signature))


def _target(path: str) -> dict[str, str]:
    """Take a TUF target path apart: where it is listed, and the hash before its name."""
    folder, _, name = path.rpartition("/")
    sha256, _, plain = name.partition(".")
    return {"path_": f"{folder}/{plain}", "sha256_": sha256}


def _made_for(connection: sa.Connection, device: devices.Device, where: sa.ColumnElement[bool]) -> sa.RowMapping:
    query = sa.select(releases).where(where, releases.c.vendor == device.vendor, releases.c.model == device.model)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NoSuchRelease("There is no such release for this device.")
    return row


def _check_trust(connection: sa.Connection, device_id: str) -> None:
    decision = trust.decision(connection, device_id)
    if decision.answer.rank >= trust.Answer.QUARANTINE.rank:
        raise TrustWithheld(f"The device's trust decision is {decision.answer}.", answer=str(decision.answer))


def _last(connection: sa.Connection, device_id: str) -> Install | None:
    return next(iter(history(connection, device_id, limit=1)), None)
