"""Whom a line speaks of, and whether its sender may say so (design decision 8: nobody testifies against another).

| sender | may speak of |
|---|---|
| a device | itself |
| a collector with a site | registered devices of its site |
| anybody else, unauthenticated syslog included | nobody: kept, may alert, never bound |

A device that names nobody, or whose syslog head carries a name that no device has (cameras ship with "camera"), speaks of
itself. If the name is another registered device's, the line is a claim about that one, and stays a claim.

What a manufacturer registers is a hint: it takes nobody's evidence and hides nobody's. Whom a collector means by a name or an
address is told by the best word that there is (`Worth`), and if two have that, by nobody's: it is contested, and binds none.
"""

import ipaddress
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import sqlalchemy as sa

from lachan.addresses import canonical
from lachan.database import Database
from lachan.devices import devices
from lachan.identity.principal import PrincipalKind
from siem_rules.delivery import Sender
from siem_rules.matcher import text
from siem_rules.schema.event import LogEvent

#: Registry answers are kept so long (seconds); a device registered now is known that much later.
_FRESH = 5.0
_CACHED = 10_000
_FEW = 2  # of those that one word names alike: two are as good as many


class Worth(IntEnum):
    """How well a word names a device; the lowest is the best."""

    ID_OR_NAME = 0  # its id, or a name that an operator vouches for
    ADDRESS = 1  # an address that an operator vouches for
    SEEN = 2  # where a device that an operator vouches for last used its certificate
    HINTED_NAME = 3  # a name that a manufacturer registered
    HINTED_SEEN = 4  # where a device that a manufacturer registered last used its certificate
    NONE = 5  # an address that a manufacturer registered


@dataclass(frozen=True, slots=True)
class Known:
    """What the registry says of a device."""

    id: str
    name: str
    vendor: str
    site: str
    address: str = ""
    vouched: bool = True
    seen_address: str = ""

    def worth(self, claim: str) -> Worth:
        """Tell how well a word names it, as of `lachan.addresses.canonical`; an address is one only if it reads like one."""
        if claim == self.id or (claim == self.name and self.vouched):
            return Worth.ID_OR_NAME
        if claim == self.address and self.vouched and _is_address(claim):
            return Worth.ADDRESS
        if claim == self.seen_address:
            return Worth.SEEN if self.vouched else Worth.HINTED_SEEN
        return Worth.HINTED_NAME if claim == self.name else Worth.NONE


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
        found = _best(canonical(claim), resolve(canonical(claim), sender.site))
        if len(found) == 1 and found[0].site == sender.site:
            return _bound(found[0], claim)
    return Binding(False, None, claim, sender.site or "", ("claim", sender.label, claim))


def _itself(sender: Sender, claim: str, resolve: Resolve, *, silent: bool) -> Known | None:
    """Give the speaking device, if its line speaks of itself; ``silent`` lines name nobody but in their syslog head."""
    own = next((device for device in resolve(sender.id, None) if device.id == sender.id), None)
    if own is None or (not silent and not claim):
        return None
    claim = canonical(claim)
    if not claim or claim in (own.id, own.name, own.address, own.seen_address):
        return own
    # Only a head's word is worth asking the registry for: a flood of made-up names must not become one of queries. Only an
    # operator's word makes it another device's.
    where = own.site if _is_address(claim) else None  # addresses repeat between sites
    return own if silent and not _best(claim, resolve(claim, where), worst=Worth.ADDRESS) else None


def _best(claim: str, found: tuple[Known, ...], *, worst: Worth = Worth.HINTED_SEEN) -> tuple[Known, ...]:
    """Those that the claim names best; several are as good as none.

    Address and name are free text of whoever registers a device. They must take no other device's name from it, nor the
    word that cameras write into their syslog heads.
    """
    best = min((device.worth(claim) for device in found), default=Worth.NONE)
    return tuple(device for device in found if best <= worst and device.worth(claim) is best)


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


_ASKED = sa.select(
    devices.c.id, devices.c.name, devices.c.vendor, devices.c.site, devices.c.address, devices.c.vouched,
    devices.c.seen_address,
)  # fmt: skip


def _called(claim: str) -> Iterator[sa.ColumnElement[bool]]:
    c = devices.c
    yield c.id == claim
    yield c.name == claim
    if _is_address(claim):
        yield sa.and_(c.address == claim, c.vouched)
        yield sa.and_(c.seen_address == claim, c.vouched)
        yield sa.and_(c.seen_address == claim, sa.not_(c.vouched))


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
        # Each by its own index: a look at all devices for whatever a sender writes would cost everybody's lines.
        here = () if site is None else (devices.c.site == site,)
        each = (sa.select(_ASKED.where(where, *here).limit(_FEW).subquery()) for where in _called(claim))
        with self._database.read() as connection:
            rows = connection.execute(sa.union_all(*each)).all()
        called = {row.id: row for row in rows}  # one may be called so twice
        found = tuple(
            Known(
                str(row.id), str(row.name), str(row.vendor), row.site or "", row.address or "", bool(row.vouched),
                row.seen_address or "",
            )
            for row in called.values()
        )  # fmt: skip
        if len(self._cache) >= _CACHED:
            self._cache.clear()
        self._cache[key] = (now, found)
        return found
