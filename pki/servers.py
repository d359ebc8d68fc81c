"""Server certificates for lachan's own doors."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from lachan.identity import system
from lachan.runtime import Runtime
from pki import names as pki_names
from pki.authorities import issuer_of, pem
from pki.errors import NamesNotOurs
from pki.issuing import record


def issue_server_certificate(rt: Runtime, names: Sequence[str]) -> tuple[bytes, bytes]:
    """Make a key and have a certificate for it issued under the ``server`` profile (90 days).

    Args:
        rt: the installation.
        names: DNS names and addresses, the first one also as CN; each must be one of the configured ones.

    Returns:
        The private key (PEM, PKCS#8, not encrypted) and the chain (PEM: certificate, issuing authority).

    Raises:
        NamesNotOurs: a name is none of this installation's.
        SignerUnavailable: the signer does not answer.
    """
    strange = sorted(set(names) - pki_names.of_doors(rt.settings))
    if strange or not names:
        raise NamesNotOurs(f"{', '.join(strange) or 'No name'} is not configured for this installation.")
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    answer = rt.signer.request("issue", profile="server", names=list(names), spki=spki)
    issued = rt.db.run(
        lambda connection: record(connection, answer, profile="server", device_id=None, actor=system("doors"))
    )
    secret = key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret, pem(issued.certificate, issuer_of(rt.db, issued.certificate).certificate)
