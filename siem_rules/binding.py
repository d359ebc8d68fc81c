"""Whom a line speaks of, and whether its sender may say so (design decision 8: nobody testifies against another).

| sender | may speak of |
|---|---|
| a device | itself |
| a collector with a site | registered devices of its site |
| anybody else, unauthenticated syslog included | nobody: kept, may alert, never bound |

A device that names nobody, or whose syslog head carries a name that no device has (cameras ship with "camera"), speaks of
itself. If the name is another registered device's, the line is a claim about that one, and stays a claim.
"""

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from lachan.database import Database
from lachan.devices import devices
from lachan.identity.principal import PrincipalKind
from siem_rules.delivery import Sender
from siem_rules.matcher import text
from siem_rules.schema.event import LogEvent

#: Registry answers are kept so long (seconds); a device registered now is known that much later.
_FRESH = 5.0
_CACHED = 10_000


@dataclass(frozen=True, slots=True)
class Known:
    """What the registry says of a device."""

    id: str
    name: str
    vendor: str
    site: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Binding:
    """Whom an event speaks of.

    Attributes:
        bound: whether the sender may speak of that device; only then is ``device`` set.
        device: the registry's device.
        subject: the name as the line gives it, for people.
        site: the device's site, or the collector's.
        principal: what keeps the claims of one sender apart from bound evidence: first member of every group.
    """

    bound: bool
    device: Known | None
    subject: str
    site: str
    principal: tuple[str, ...]


Resolve = Callable[[str, str | None], tuple[Known, ...]]


def bind(event: LogEvent, subject_field: str, resolve: Resolve) -> Binding:
    """Tell who the event speaks of by a rule's subject field.

    Args:
        event: the line.
        subject_field: the field that names the subject; ``host.*`` falls back to the speaker.
        resolve: devices with this name, id or address, of this site if one is given.
    """
    sender = event.sender
    about_host = subject_field.startswith("host.")
    named = _named(event, subject_field)
    head = event.fields.get("log.syslog.hostname") if about_host and named is None else None
    claim = (named or (text(head) if head is not None else ""))[:200]
    if sender.kind is PrincipalKind.DEVICE:
        itself = _itself(sender, claim, resolve, silent=named is None and about_host)
        if itself is not None:
            return _bound(itself, claim or itself.name)
    elif sender.site is not None and claim:
        found = _best(claim, resolve(claim, sender.site))
        if len(found) == 1 and found[0].site == sender.site:
            return _bound(found[0], claim)
    return Binding(False, None, claim, sender.site or "", ("claim", sender.label, claim))


def _itself(sender: Sender, claim: str, resolve: Resolve, *, silent: bool) -> Known | None:
    """Give the speaking device, if its line speaks of itself; ``silent`` lines name nobody but in their syslog head."""
    own = next((device for device in resolve(sender.id, None) if device.id == sender.id), None)
    if own is None or (not silent and not claim):
        return None
    if not claim or claim in (own.id, own.name, own.address):
        return own
    # Only a head's word is worth asking the registry for: a flood of made-up names must not become one of queries.
    return own if silent and not _best(claim, resolve(claim, None)) else None


def _best(claim: str, found: tuple[Known, ...]) -> tuple[Known, ...]:
    """Those that the claim means: by id or name; by address only if nobody is called so and it is an IP address.

    The address is free text of whoever registers a device. It must take no other device's name from it, nor the word
    that cameras write into their syslog heads.
    """
    named = tuple(device for device in found if claim in (device.id, device.name))
    return named or (found if _is_address(claim) else ())


def _is_address(claim: str) -> bool:
    try:
        ipaddress.ip_address(claim.strip("[]"))
    except ValueError:
        return "." in claim  # a host name of the operator's network
    return True


def _named(event: LogEvent, subject_field: str) -> str | None:
    names = ("host.id", "host.name") if subject_field.startswith("host.") else (subject_field,)
    for name in names:
        value = event.fields.get(name)
        if isinstance(value, list):
            value = value[0] if len(value) == 1 else "|".join(text(part) for part in value)
        if value is not None and text(value):
            return text(value)
    return None


def _bound(device: Known, subject: str) -> Binding:
    return Binding(True, device, subject, device.site, ("device", device.id))


class Registry:
    """Look devices up by name, id or address, with a short memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: dict[tuple[str, str | None], tuple[float, tuple[Known, ...]]] = {}

    def resolve(self, claim: str, site: str | None) -> tuple[Known, ...]:
        """Devices that are called so; with a site, only those of the site (addresses repeat between sites)."""
        key, now = (claim, site), time.monotonic()
        known = self._cache.get(key)
        if known is not None and now - known[0] < _FRESH:
            return known[1]
        columns = devices.c
        # Each by its own index: a look at all devices for whatever a sender writes would cost everybody's lines.
        called_so = sa.union(
            *(sa.select(columns.id).where(column == claim) for column in (columns.id, columns.name, columns.address))
        )
        query = sa.select(columns.id, columns.name, columns.vendor, columns.site, columns.address).where(
            columns.id.in_(called_so)
        )
        if site is not None:
            query = query.where(columns.site == site)
        called = sa.case((sa.or_(columns.id == claim, columns.name == claim), 0), else_=1)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(called).limit(3)).all()
        found = tuple(
            Known(str(row.id), str(row.name), str(row.vendor), row.site or "", row.address or "") for row in rows
        )
        if len(self._cache) >= _CACHED:
            self._cache.clear()
        self._cache[key] = (now, found)
        return found
