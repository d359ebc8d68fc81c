"""What ``lachan init`` does for the PKI: the root ceremony, the issuing authority and the certificates of our own services.

Steps: lint every profile; make the root (P-384) in memory, sign the issuing authority (P-256, pathLen 0) and the root's CRL
with it, write its key encrypted to the offline folder; make the service keys in the signer; issue their certificates; write
rows and facts. Run again it changes nothing. Limits: the root's passphrase lies in the offline folder beside the key until
somebody takes the folder away; the root's CRL is renewed by bringing it back (``lachan pki root-crl``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from lachan import clock
from lachan.errors import Invalid
from lachan.events import AuthorityCreated, RootCrlRenewed
from lachan.files import write_new
from lachan.identity import Principal, system
from lachan.identity.secrets import random_text
from lachan.signer.context import InitContext, SignerContext
from lachan.work import outbox
from pki import authorities, lint, profiles
from pki.authorities import Authority
from pki.issuing import record, record_service, services
from pki.models import authorities as authority_rows
from pki.models import crls
from pki.signing import issue

ROOT_LIFE = timedelta(days=20 * 365)
ISSUING_LIFE = timedelta(days=5 * 365)
ROOT_CRL_LIFE = timedelta(days=365)


@dataclass(frozen=True)
class Root:
    """The root while it is at hand."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def init(context: InitContext) -> None:
    """Set the PKI up, unless that is done already.

    Raises:
        ProfileBroken: a profile does not pass the linter; nothing was made.
    """
    with context.db.read() as connection:
        if connection.execute(sa.select(authority_rows.c.name)).first():
            return
    folder = authorities.folder(context.settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lint.approve(folder, profiles.load())
    root = make_root()
    authorities.keep(context.settings, authorities.ROOT, root.certificate.public_bytes(Encoding.DER))
    for profile in profiles.load().values():
        if profile.names is profiles.Names.SERVICE:
            context.keys.generate(profile.service_key, "p256")
    context.db.run(lambda connection: _write_root(connection, root))
    add_authority(context, root, authorities.FIRST)
    store_offline(root, context.offline)


def add_authority(context: InitContext, root: Root, name: str) -> Authority:
    """Make an issuing authority under the root, with the service certificates that it must give; the root is at hand.

    One whose line has authorities already (``issuing-2``) issues from now on in the place of the one before it, which goes
    on to publish its CRL and to answer OCSP.

    Args:
        context: settings, database, key store.
        root: signs the new authority's certificate.
        name: the line's name for its first, ``LINE-N`` for the Nth.

    Raises:
        KeyExists: there is an authority of that name.
    """
    public = context.keys.generate(Authority(name, root.certificate).key_name, "p256")
    authority = Authority(name, sign_issuing(root, public, name, status_url=context.settings.status_url))
    # The row first: what the signer issues as soon as it has the file must find its issuer.
    context.db.run(lambda connection: _write_certificate(connection, name, authority.certificate))
    authorities.forget(context.db)
    authorities.keep(context.settings, name, authority.certificate.public_bytes(Encoding.DER))
    signer = SignerContext(context.keys, context.db, context.settings, context.settings.signer_home)
    issued = {
        profile.name: issue(signer, {"profile": profile.name, "authority": name})
        for certifier, profile in services(authorities.every(context.db))
        if certifier == authority
    }
    context.db.run(lambda connection: _write_services(connection, authority, issued))
    return authority


def make_root() -> Root:
    """Give a self-signed P-384 root; its key exists only in the answer."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("lachan root")
    certificate = (
        _builder(name, name, key.public_key(), ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_authority_usage(), critical=True)
        .sign(key, hashes.SHA384())
    )
    return Root(key, certificate)


def sign_issuing(root: Root, public: Any, name: str = authorities.FIRST, *, status_url: str) -> x509.Certificate:
    """Give an issuing authority's certificate: pathLen 0, so that it can certify no further authority.

    It says where the root's CRL and certificate are had (RFC 5280 4.2.1.13, 4.2.2.1), below ``status_url``.
    """
    key_id = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    top, base = Authority(authorities.ROOT, root.certificate), status_url.rstrip("/")
    crl, issuer = (x509.UniformResourceIdentifier(base + path) for path in (top.crl_path, top.certificate_path))
    told = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, issuer)
    return (
        _builder(root.certificate.subject, _name(f"lachan {name.replace('-', ' ')}"), public, ISSUING_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_authority_usage(), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .add_extension(x509.CRLDistributionPoints([x509.DistributionPoint([crl], None, None, None)]), critical=False)
        .add_extension(x509.AuthorityInformationAccess([told]), critical=False)
        .sign(root.key, hashes.SHA384())
    )


def bring_root(folder: Path, certificate: x509.Certificate) -> Root:
    """Read the root's key from the offline folder that was brought back.

    Raises:
        Invalid: the folder holds no such key, its passphrase does not open it, or it is another root's.
    """
    try:
        octets, passphrase = (folder / "root.key").read_bytes(), (folder / "root.passphrase").read_bytes().strip()
        key = serialization.load_pem_private_key(octets, passphrase)
    except OSError as error:
        raise Invalid(f"{folder} holds no root key: {error.strerror}.", field="folder") from None
    except ValueError:
        raise Invalid(f"The passphrase in {folder} does not open the root's key.", field="folder") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise Invalid(f"The key in {folder} is another root's.", field="folder")
    return Root(key, certificate)


def renew_root_crl(connection: sa.Connection, root: Root, *, actor: Principal) -> int:
    """Put the root's next CRL in force, in the caller's transaction; the root is at hand. Gives its number.

    It lists nothing: no authority under the root has been revoked.
    """
    number = 1 + (connection.execute(_HIGHEST).scalar() or 0)
    row = _root_crl(root, number)
    connection.execute(crls.insert().values(**row))
    fact = RootCrlRenewed(number=number, next_update=clock.iso(row["next_update"]))
    outbox.append(connection, fact, actor=actor)
    return number


_HIGHEST = sa.select(sa.func.max(crls.c.number)).where(crls.c.authority == authorities.ROOT)


def store_offline(root: Root, folder: Path) -> None:
    """Write the root's key, encrypted, and its passphrase in a file of its own (both 0600); take the folder away."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    passphrase = random_text(24).encode()
    encryption = serialization.BestAvailableEncryption(passphrase)
    key = root.key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    for name, content in (
        ("root.key", key),
        ("root.passphrase", passphrase + b"\n"),
        ("root.crt", authorities.pem(root.certificate)),
    ):
        write_new(folder / name, content)


def _write_root(connection: sa.Connection, root: Root) -> None:
    """Give the root's row and its first CRL."""
    _write_certificate(connection, authorities.ROOT, root.certificate)
    connection.execute(crls.insert().values(**_root_crl(root, 1)))


def _root_crl(root: Root, number: int) -> dict[str, Any]:
    """Sign a CRL of the root's, which is small: it stays in its row."""
    now = clock.now().replace(microsecond=0)
    empty = x509.CertificateRevocationListBuilder(root.certificate.subject, now, now + ROOT_CRL_LIFE)
    key_id = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    crl = (
        empty.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
        .sign(root.key, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )
    row = {"authority": authorities.ROOT, "number": number, "crl": crl, "size": len(crl), "this_update": now}
    return {**row, "revision": 0, "next_update": now + ROOT_CRL_LIFE}


def _write_services(connection: sa.Connection, authority: Authority, issued: dict[str, dict[str, Any]]) -> None:
    for profile, answer in issued.items():
        certificate = record(connection, answer, profile=profile, device_id=None, actor=system("init")).certificate
        record_service(connection, authority.service(profile), certificate)


def _write_certificate(connection: sa.Connection, name: str, certificate: x509.Certificate) -> None:
    row = {"name": name, "certificate": certificate.public_bytes(Encoding.DER), "created_at": clock.now()}
    connection.execute(authority_rows.insert().values(**row))
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    outbox.append(connection, AuthorityCreated(name=name, fingerprint=fingerprint), actor=system("init"))


def _name(common_name: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "lachan")
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(issuer: x509.Name, subject: x509.Name, public: Any, life: timedelta) -> x509.CertificateBuilder:
    now = clock.now().replace(microsecond=0)
    return (
        x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _authority_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
