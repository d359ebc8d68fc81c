"""CRLs, built and signed inside the signer process from the certificate rows, and given away as a file.

Written as DER directly: a builder's loop is quadratic in the number of entries. Steps of `crl`: bring the entries up to the
rows (`pki.listed`), hash what is signed piece by piece, sign the hash with the authority's key, write the pieces to a file
without a name, which travels by its descriptor (docs/adr/0024). Limits: one full CRL per authority, no deltas or shards yet.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from lachan import clock, der
from lachan.signer.context import SignerContext, strict
from lachan.signer.errors import SignatureRefused
from pki import authorities
from pki.authorities import Authority
from pki.errors import AuthorityMissing
from pki.listed import Listed
from pki.models import crls
from pki.profiles import ECDSA_SHA256

CRL_LIFE = timedelta(hours=24)


def crl(signer: SignerContext, request: dict[str, Any]) -> dict[str, Any]:
    """Make an authority's next full CRL.

    Args:
        signer: keys, database, settings.
        request: ``authority``: its name.

    Returns:
        ``crl`` (DER, an open file), its ``size`` in octets, ``digest`` of the part signed (SHA-256, hex), ``number``,
        ``this_update`` and ``next_update`` (RFC 3339).

    Raises:
        SignatureRefused: the request has other fields, or the signer has no such authority.
    """
    name = strict(request, {"authority": str})["authority"]
    try:
        authority = authorities.kept_authority(signer.settings, name)
    except AuthorityMissing as error:
        raise SignatureRefused(error.detail) from error
    listed: Listed = signer.memory.setdefault(f"crl:{name}", Listed(name))
    now = clock.now().replace(microsecond=0)
    with listed.lock:
        listed.refresh(signer.db)
        with signer.db.read() as connection:
            last = connection.execute(sa.select(sa.func.max(crls.c.number)).where(crls.c.authority == name)).scalar()
        number = (last or 0) + 1
        body = crl_body(authority, listed.parts(), number=number, this_update=now, next_update=now + CRL_LIFE)
        digest = _hashed(body)
        signature = signer.keys.sign_digest(authority.key_name, digest)
        signer.signed_digest(f"{name}:{number}", digest)
        file, size = _written(signer, body, signature)
    return {
        "crl": file,
        "size": size,
        "digest": digest.hex(),
        "number": number,
        "this_update": clock.iso(now),
        "next_update": clock.iso(now + CRL_LIFE),
    }


def crl_body(
    authority: Authority, entries: Sequence[bytes], *, number: int, this_update: datetime, next_update: datetime
) -> list[bytes]:
    """Give the TBSCertList of a version 2 CRL (RFC 5280 5.1.2) in pieces; without entries the list itself is left out."""
    front = b"".join(
        (der.integer(1), ECDSA_SHA256, authority.subject, der.moment(this_update), der.moment(next_update))
    )
    length = sum(map(len, entries))
    if length:
        front += der.head(0x30, length)
    back = der.explicit(
        0,
        der.sequence(
            der.extension("2.5.29.35", authority.key_identifier), der.extension("2.5.29.20", der.integer(number))
        ),
    )
    return [der.head(0x30, len(front) + length + len(back)), front, *entries, back]


def _hashed(parts: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _written(signer: SignerContext, body: Sequence[bytes], signature: bytes) -> tuple[io.BufferedIOBase, int]:
    """Give the signed CRL as a file that nobody else can find, at its beginning, and its size."""
    end = ECDSA_SHA256 + der.bits(signature)
    front = der.head(0x30, sum(map(len, body)) + len(end))
    file: Any = tempfile.TemporaryFile(dir=signer.folder)  # noqa: SIM115 - it travels, and is closed when it has
    try:
        for part in (front, *body, end):
            file.write(part)
        size = file.tell()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, size
