"""What ``lachan init`` does for the PKI: the root ceremony, the issuing authority and the certificates of our own services.

Steps: lint every profile; make the root (P-384) in memory, sign the issuing authority (P-256, pathLen 0) and the root's CRL
with it, write its key encrypted to the offline folder; make the service keys in the signer; issue their certificates; write
rows and facts. Run again it changes nothing. Limits: the root's passphrase lies in the offline folder beside the key until
somebody takes the folder away; one issuing authority; the root's CRL is renewed by bringing the root key back.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from lachan import clock
from lachan.events import AuthorityCreated
from lachan.identity import system
from lachan.identity.secrets import random_text
from lachan.signer.context import InitContext, SignerContext
from lachan.work import outbox
from pki import authorities, lint, profiles
from pki.issuing import record, record_service
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
    context.keys.generate(authorities.ISSUING_KEY, "p256")
    issuing = sign_issuing(root, context.keys.public(authorities.ISSUING_KEY))
    authorities.keep(context.settings, "root", root.certificate.public_bytes(Encoding.DER))
    authorities.keep(context.settings, "issuing", issuing.public_bytes(Encoding.DER))
    services = [p for p in profiles.load().values() if p.names is profiles.Names.SERVICE]
    for profile in services:
        context.keys.generate(profile.service_key, "p256")
    signer = SignerContext(context.keys, context.db, context.settings, context.settings.signer_home)
    issued = {profile.name: issue(signer, {"profile": profile.name}) for profile in services}
    _write_rows(context, root, issuing, issued)
    store_offline(root, context.offline)


def make_root() -> Root:
    """A self-signed P-384 root; its key exists only in the answer."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("lachan root")
    certificate = (
        _builder(name, name, key.public_key(), ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_authority_usage(), critical=True)
        .sign(key, hashes.SHA384())
    )
    return Root(key, certificate)


def sign_issuing(root: Root, public: Any) -> x509.Certificate:
    """The issuing authority's certificate: pathLen 0, so that it can certify no further authority."""
    key_id = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(root.certificate.subject, _name("lachan issuing"), public, ISSUING_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_authority_usage(), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .sign(root.key, hashes.SHA384())
    )


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
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def _write_rows(context: InitContext, root: Root, issuing: x509.Certificate, issued: dict[str, dict[str, Any]]) -> None:
    now, actor = clock.now(), system("init")
    empty = x509.CertificateRevocationListBuilder(root.certificate.subject, now, now + ROOT_CRL_LIFE)
    key_id = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    crl = (
        empty.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .add_extension(x509.CRLNumber(1), critical=False)
        .sign(root.key, hashes.SHA384())
    )
    with context.db.write() as connection:
        for name, certificate in (("root", root.certificate), ("issuing", issuing)):
            row = {"name": name, "certificate": certificate.public_bytes(Encoding.DER), "created_at": now}
            connection.execute(authority_rows.insert().values(**row))
            fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
            outbox.append(connection, AuthorityCreated(name=name, fingerprint=fingerprint), actor=actor)
        for name, answer in issued.items():
            certificate = record(connection, answer, profile=name, device_id=None, actor=actor).certificate
            record_service(connection, name, certificate)
        connection.execute(
            crls.insert().values(
                authority="root", number=1, crl=crl.public_bytes(Encoding.DER), this_update=now,
                next_update=now + ROOT_CRL_LIFE, revision=0,
            )
        )  # fmt: skip


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
