"""The certification authorities: the signer's copies of their certificates (files) and everybody else's (rows).

`Authority` is the seam through which issuing, CRLs, OCSP and profiles see an issuing authority. Several stand beside each
other under one root: a profile names a *line*, the newest authority of that line issues, and the older ones (rollover) go on
to publish CRLs and to answer OCSP until they end. Names are `issuing` for the first of a line and `issuing-2` … for those
that followed; which rows and files are authorities, their certificates say (CA:TRUE). Beside them lie the certificates of
our own services, named by their profile.

The signer trusts only the files in its own folder: a changed database row must not change what it writes as issuer.
Everyone else reads the rows, and remembers them for `REMEMBER` seconds.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lachan import der
from lachan.database import Database
from lachan.files import write_atomically
from lachan.settings import Settings
from pki.errors import AuthorityMissing
from pki.models import authorities

ROOT = "root"
FIRST = "issuing"
OCSP_RESPONDER = "ocsp-responder"  # the profile of which every authority has a certificate of its own
REMEMBER = 2.0
_NAME = re.compile(r"(?P<line>[a-z]+)(?:-(?P<generation>[2-9]|[1-9][0-9]+))?")


@dataclass(frozen=True)
class Authority:
    """One issuing authority.

    Attributes:
        name: of its row, its files, its key and its addresses.
        certificate: its own certificate.
    """

    name: str
    certificate: x509.Certificate

    @property
    def line(self) -> str:
        """What profiles call it: the name of the first of its line."""
        return _split(self.name)[0]

    @property
    def generation(self) -> int:
        """Its place in the line, from 1; the last one issues."""
        return _split(self.name)[1]

    @property
    def key_name(self) -> str:
        """The name of its key in the signer's key store."""
        return f"pki-{self.name}"

    @property
    def certificate_path(self) -> str:
        """Where the status door gives its certificate (AIA caIssuers)."""
        return f"/ca/{self.name}.crt"

    @property
    def crl_path(self) -> str:
        """Where the status door gives its CRL (CDP)."""
        return f"/crl/{self.name}.crl"

    @cached_property
    def subject(self) -> bytes:
        """Its name in DER, as certificates and CRLs carry it as issuer."""
        return self.certificate.subject.public_bytes()

    @cached_property
    def key_identifier(self) -> bytes:
        """The value of the authority key identifier extension in DER (RFC 5280 4.2.1.1)."""
        key_id = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id).public_bytes()

    @cached_property
    def hashes(self) -> dict[str, tuple[bytes, bytes]]:
        """Hash algorithm → hash of its name and of its key's bits, as a CertID carries them (RFC 6960 4.1.1)."""
        return {name: (_hash(name, self.subject), key_hash(self.certificate, name)) for name in ("sha1", "sha256")}

    def service(self, profile: str) -> str:
        """Give the name of the certificate that one of our services has from this authority.

        Each authority has an OCSP responder of its own (RFC 6960 4.2.2.2); of the others one certificate is the present one.
        """
        return f"{profile}.{self.name}" if profile == OCSP_RESPONDER and self.name != FIRST else profile


@dataclass(frozen=True)
class Hierarchy:
    """Root and issuing authorities.

    Attributes:
        root: the root's certificate.
        authorities: by line, in each the newest (which issues) first.
    """

    root: x509.Certificate
    authorities: tuple[Authority, ...]

    @property
    def issuing(self) -> x509.Certificate:
        """The certificate of the authority that issues in the first line."""
        return current(self.authorities, FIRST).certificate

    @property
    def chain(self) -> list[x509.Certificate]:
        """Issuing authorities first, then the root."""
        return [*(authority.certificate for authority in self.authorities), self.root]


_remembered: WeakKeyDictionary[Database, tuple[float, Hierarchy]] = WeakKeyDictionary()


def folder(settings: Settings) -> Path:
    """Give the signer's own folder of certificates and of the record of linted profiles."""
    return settings.signer_home / "pki"


def keep(settings: Settings, name: str, certificate: bytes) -> None:
    """Store the signer's copy of a certificate (DER), in one step."""
    write_atomically(folder(settings) / f"{name}.crt", certificate)
    _files.cache_clear()
    _authorities_of.cache_clear()


def kept(settings: Settings, name: str) -> x509.Certificate:
    """Give the signer's copy of a certificate.

    Raises:
        AuthorityMissing: there is none.
    """
    try:
        return _in_folder(settings)[name]
    except KeyError:
        raise AuthorityMissing(f"The signer has no certificate {name!r}.") from None


def kept_authority(settings: Settings, name: str) -> Authority:
    """Give an issuing authority as the signer knows it.

    Raises:
        AuthorityMissing: the signer has none of that name.
    """
    for authority in _authorities_in_folder(settings):
        if authority.name == name:
            return authority
    raise AuthorityMissing(f"The signer has no authority {name!r}.")


def issuer(settings: Settings, line: str) -> Authority:
    """Give the authority that issues for the profiles of a line, as the signer knows it.

    Raises:
        AuthorityMissing: the signer has none of that line.
    """
    return current(_authorities_in_folder(settings), line)


def current(found: tuple[Authority, ...], line: str) -> Authority:
    """Give the newest authority of a line.

    Raises:
        AuthorityMissing: none of them belongs to it.
    """
    for authority in found:
        if authority.line == line:
            return authority
    raise AuthorityMissing(f"No authority issues for the line {line!r}.")


def hierarchy(db: Database) -> Hierarchy:
    """Root and issuing authorities from the database.

    Raises:
        AuthorityMissing: `pki.setup` has not run.
    """
    until, known = _remembered.get(db, (0.0, None))
    if known is not None and time.monotonic() < until:
        return known
    return _read(db)


def forget(db: Database) -> None:
    """Read the rows again at the next question: this process changed them."""
    _remembered.pop(db, None)


def every(db: Database) -> tuple[Authority, ...]:
    """Give the issuing authorities from the database: by line, in each the newest first; none before `pki.setup` has run."""
    try:
        return hierarchy(db).authorities
    except AuthorityMissing:
        return ()


def get(db: Database, name: str) -> Authority:
    """Give the issuing authority of that name.

    Raises:
        AuthorityMissing: there is none.
    """
    for found in (hierarchy, _read):
        for authority in found(db).authorities:
            if authority.name == name:
                return authority
    raise AuthorityMissing(f"There is no authority {name!r}.")


def issuer_of(db: Database, certificate: x509.Certificate) -> Authority:
    """Give the authority whose name a certificate of ours carries as its issuer.

    Raises:
        AuthorityMissing: none has that name.
    """
    for found in (hierarchy, _read):  # one that was made a moment ago may not be remembered yet
        for authority in found(db).authorities:
            if authority.certificate.subject == certificate.issuer:
                return authority
    raise AuthorityMissing(f"No authority of ours is {certificate.issuer.rfc4514_string()}.")


def service_certificate(db: Database, name: str) -> x509.Certificate:
    """Give the present certificate of a service (`Authority.service`: ``ocsp-responder``, ``firmware-signing``).

    Raises:
        AuthorityMissing: `pki.setup` has not run.
    """
    with db.read() as connection:
        found = connection.execute(sa.select(authorities.c.certificate).where(authorities.c.name == name)).scalar()
    if found is None:
        raise AuthorityMissing
    return _parsed(found)


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates one after the other in PEM."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def key_hash(certificate: x509.Certificate, algorithm: str) -> bytes:
    """Hash of a key's bits: the key part of a CertID, and with SHA-1 the ResponderID byKey (RFC 6960 4.1.1, 4.2.1)."""
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    spki = der.Reader(public).inside(0x30)
    spki.skip()
    return _hash(algorithm, spki.take(0x03)[1:])


def _hash(algorithm: str, data: bytes) -> bytes:
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()


def _read(db: Database) -> Hierarchy:
    with db.read() as connection:
        rows = {row.name: _parsed(row.certificate) for row in connection.execute(sa.select(authorities))}
    found = _authorities(rows)
    if ROOT not in rows or not any(authority.line == FIRST for authority in found):
        raise AuthorityMissing
    known = Hierarchy(rows[ROOT], found)
    _remembered[db] = (time.monotonic() + REMEMBER, known)
    return known


def _authorities(certificates: dict[str, x509.Certificate]) -> tuple[Authority, ...]:
    found = [Authority(name, made) for name, made in certificates.items() if name != ROOT and _certifies(made)]
    return tuple(sorted(found, key=lambda authority: (authority.line, -authority.generation)))


def _certifies(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _split(name: str) -> tuple[str, int]:
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise AuthorityMissing(f"{name!r} is no name of an authority.")
    return parts["line"], int(parts["generation"] or 1)


def _in_folder(settings: Settings) -> dict[str, x509.Certificate]:
    return _files(*_standing(settings))


def _authorities_in_folder(settings: Settings) -> tuple[Authority, ...]:
    return _authorities_of(*_standing(settings))


def _standing(settings: Settings) -> tuple[Path, int]:
    """Give the signer's folder and when it changed last, by which what was read of it is remembered."""
    place = folder(settings)
    try:
        return place, place.stat().st_mtime_ns
    except FileNotFoundError:
        raise AuthorityMissing("The signer has no certificates.") from None


@lru_cache(maxsize=16)
def _authorities_of(place: Path, changed: int) -> tuple[Authority, ...]:
    return _authorities(_files(place, changed))


@lru_cache(maxsize=16)
def _files(place: Path, _changed: int) -> dict[str, x509.Certificate]:
    return {path.stem: _parsed(path.read_bytes()) for path in place.glob("*.crt")}


@lru_cache(maxsize=64)
def _parsed(certificate: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(certificate)
