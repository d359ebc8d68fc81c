"""Subject and SAN of certificates, always from what lachan knows itself, never from a request.

Device: ``O=<vendor>, serialNumber=<serial>, CN=<name>``, SAN ``urn:uuid:<device id>`` and ``<name>.<device domain>``.
Server: the addresses under which this installation's doors are configured. Service: the name in its profile.
Limits: a vendor, serial or name that does not fit X.520's bounds is refused, not bent.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from cryptography import x509

from lachan import der
from lachan.addresses import written
from lachan.settings import Settings
from pki.settings import PkiSettings

LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
ORGANISATION = "2.5.4.10"
COMMON_NAME = "2.5.4.3"
SERIAL_NUMBER = "2.5.4.5"
_SHORT = {ORGANISATION: "O", COMMON_NAME: "CN"}  # RFC 4514 3; serialNumber has no short name there
_OURS = (ORGANISATION, "lachan")
_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ._/:()-"


class NameUnfit(ValueError):
    """A name cannot be written into a certificate as it is."""


@dataclass(frozen=True)
class Identity:
    """DER of subject Name and GeneralNames (empty: no SAN), and the subject for people (RFC 4514)."""

    subject: bytes
    san: bytes
    text: str


def device(*, device_id: str, name: str, vendor: str, serial_number: str, domain: str) -> Identity:
    """Give the identity of a registered device.

    Raises:
        NameUnfit: the name is no DNS label, the serial number no PrintableString, or one is too long (X.520: 64).
    """
    if not LABEL.fullmatch(name):
        raise NameUnfit(f"the device name {name!r} is no DNS label (letters, digits, hyphens; at most 63)")
    for what, text in (("vendor", vendor), ("serial number", serial_number)):
        if not 1 <= len(text) <= 64:
            raise NameUnfit(f"the {what} {text!r} must have 1 to 64 characters")
    try:
        serial = der.printable(serial_number)
    except der.MalformedDer as error:
        raise NameUnfit(f"the serial number: {error}") from error
    subject = der.sequence(
        _organisation(vendor),
        der.relative_name(SERIAL_NUMBER, serial),
        der.relative_name(COMMON_NAME, der.utf8(name)),
    )
    san = _general_names(uris=[f"urn:uuid:{device_id}"], dns=[f"{name}.{domain}".lower()])
    return Identity(subject, san, _text((COMMON_NAME, name), (SERIAL_NUMBER, serial_number), (ORGANISATION, vendor)))


@lru_cache(maxsize=256)
def _organisation(vendor: str) -> bytes:
    return der.relative_name(ORGANISATION, der.utf8(vendor))


def server(names: list[str]) -> Identity:
    """Give the identity of one of our doors; the first name is also the CN."""
    dns, addresses = [], []
    for name in names:
        try:
            addresses.append(ipaddress.ip_address(name).packed)
        except ValueError:
            dns.append(name.lower())
    subject = der.sequence(
        der.relative_name(ORGANISATION, der.utf8("lachan")), der.relative_name(COMMON_NAME, der.utf8(names[0][:64]))
    )
    return Identity(subject, _general_names(dns=dns, addresses=addresses), _text((COMMON_NAME, names[0][:64]), _OURS))


def service(common_name: str) -> Identity:
    """Give the identity of a part of lachan that signs."""
    organisation = der.relative_name(ORGANISATION, der.utf8("lachan"))
    subject = der.sequence(organisation, der.relative_name(COMMON_NAME, der.utf8(common_name)))
    return Identity(subject, b"", _text((COMMON_NAME, common_name), _OURS))


def _text(*attributes: tuple[str, str]) -> str:
    """Give a subject's attributes, the last one first, as RFC 4514 writes them; by hand where nothing is to be escaped."""
    if all(_is_plain(value) for _, value in attributes):
        return ",".join(f"{_SHORT.get(kind, kind)}={value}" for kind, value in attributes)
    named = [x509.NameAttribute(x509.ObjectIdentifier(kind), value) for kind, value in reversed(attributes)]
    return x509.Name(named).rfc4514_string()


def _is_plain(value: str) -> bool:
    """Whether there is certainly nothing to escape."""
    return value.isascii() and not value.encode().translate(None, _PLAIN) and value == value.strip() != ""


def of_doors(settings: Settings) -> frozenset[str]:
    """Every name that a server certificate of this installation may carry."""
    urls = (settings.people_url, settings.device_url, settings.status_url)
    hosts = {urlsplit(url).hostname or "" for url in urls}
    named = {*hosts, settings.host, *PkiSettings.of(settings).pki_server_names, "localhost", "127.0.0.1", "::1"}
    return frozenset(map(written, named - {""}))


def _general_names(*, uris: list[str] = [], dns: list[str] = [], addresses: list[bytes] = []) -> bytes:  # noqa: B006
    return der.sequence(
        *(der.tlv(0x86, uri.encode("ascii")) for uri in uris),
        *(der.tlv(0x82, name.encode("ascii")) for name in dns),
        *(der.tlv(0x87, packed) for packed in addresses),
    )
