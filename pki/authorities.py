"""The authorities' own certificates: the signer's copies (files) and everybody else's (rows).

The signer trusts only the files in its own folder: a changed database row must not change what it writes as issuer.
Everyone else reads the rows, and remembers root and issuing authority for `REMEMBER` seconds.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lachan.database import Database
from lachan.settings import Settings
from pki.errors import AuthorityMissing
from pki.models import authorities

ISSUING_KEY = "pki-issuing"
REMEMBER = 2.0


@dataclass(frozen=True)
class Hierarchy:
    """Root and issuing authority."""

    root: x509.Certificate
    issuing: x509.Certificate

    @property
    def chain(self) -> list[x509.Certificate]:
        """Issuing authority first."""
        return [self.issuing, self.root]


_remembered: WeakKeyDictionary[Database, tuple[float, Hierarchy]] = WeakKeyDictionary()


def folder(settings: Settings) -> Path:
    """The signer's own folder of certificates and of the record of linted profiles."""
    return settings.signer_home / "pki"


def keep(settings: Settings, name: str, certificate: bytes) -> None:
    """Store the signer's copy of a certificate (DER), in one step."""
    place = folder(settings) / f"{name}.crt"
    partial = place.with_suffix(".new")
    partial.write_bytes(certificate)
    os.replace(partial, place)


def kept(settings: Settings, name: str) -> x509.Certificate:
    """The signer's copy of a certificate.

    Raises:
        AuthorityMissing: there is none.
    """
    try:
        return _parsed((folder(settings) / f"{name}.crt").read_bytes())
    except FileNotFoundError:
        raise AuthorityMissing(f"The signer has no certificate {name!r}.") from None


def hierarchy(db: Database) -> Hierarchy:
    """Root and issuing authority from the database.

    Raises:
        AuthorityMissing: `pki.setup` has not run.
    """
    until, known = _remembered.get(db, (0.0, None))
    if known is not None and time.monotonic() < until:
        return known
    found = _rows(db)
    try:
        known = Hierarchy(_parsed(found["root"]), _parsed(found["issuing"]))
    except KeyError:
        raise AuthorityMissing from None
    _remembered[db] = (time.monotonic() + REMEMBER, known)
    return known


def service_certificate(db: Database, name: str) -> x509.Certificate:
    """The present certificate of a service profile (``ocsp-responder``, ``firmware-signing``).

    Raises:
        AuthorityMissing: `pki.setup` has not run.
    """
    try:
        return _parsed(_rows(db)[name])
    except KeyError:
        raise AuthorityMissing from None


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates one after the other in PEM."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _rows(db: Database) -> dict[str, bytes]:
    with db.read() as connection:
        return {row.name: row.certificate for row in connection.execute(sa.select(authorities))}


@lru_cache(maxsize=16)
def _parsed(certificate: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(certificate)
