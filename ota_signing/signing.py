"""What runs inside the signer process: two requests that sign for firmware, ``release`` and ``tuf``.

``release {release_id}`` reads the release, its approvals and the people again, measures the artifact's file and signs
the approved digest (detached CMS). ``tuf {}`` makes the update framework's online metadata: it lists the published
releases that this signer signed for and whose approvals still hold, and nothing that anyone hands in. Neither takes a
byte or a digest from the caller.
"""

import base64
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from cryptography import x509
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import TargetFile

from lachan import clock
from lachan.files import write_atomically
from lachan.signer.context import strict
from lachan.signer.errors import SignatureRefused
from ota_signing import approvals, cms, tuf_metadata
from ota_signing.errors import ArtifactMissing, ReleaseRefused
from ota_signing.models import releases
from ota_signing.repository import Memory, Repository
from ota_signing.schemas import ReleaseState
from ota_signing.settings import OtaSettings
from ota_signing.statement import Statement
from ota_signing.store import Store

if TYPE_CHECKING:
    from lachan.settings import Settings
    from lachan.signer.context import SignerContext

FIRMWARE_KEY = "firmware-signing"
CERTIFICATES = ("firmware-signing.crt", "issuing.crt")  # leaf first; the root is what devices bring themselves
_one_at_a_time = threading.Lock()  # two requests at once must not use the same version
ROLE_KEYS = {"releases": "tuf-releases", "snapshot": "tuf-snapshot", "timestamp": "tuf-timestamp"}


def release(signer: "SignerContext", request: dict[str, Any]) -> dict[str, Any]:
    """Sign a release's artifact, if what stands in the database and on the disk allows it.

    Args:
        signer: keys, database and settings of the signer process.
        request: ``release_id``.

    Returns:
        ``release_id``, ``digest`` (of the statement) and ``signature`` (base64 of the CMS DER).

    Raises:
        SignatureRefused: approvals are missing or cover something else, or the file is not what was approved.
    """
    release_id = strict(request, {"release_id": str})["release_id"]
    try:
        with signer.db.read() as connection:
            statement = approvals.verify(connection, release_id, minimum=OtaSettings.of(signer.settings).ota_approvals)
        _measure(signer.settings, statement)
    except ReleaseRefused as error:
        raise _refusal(error) from error
    chain = _chain(signer)
    sign = _recorded(signer, FIRMWARE_KEY, statement.digest)
    signature = cms.detached(bytes.fromhex(statement.sha256), chain=chain, sign=sign, at=clock.now())
    _remember(signer, statement)
    return {"release_id": release_id, "digest": statement.digest, "signature": base64.b64encode(signature).decode()}


def tuf(signer: "SignerContext", request: dict[str, Any]) -> dict[str, Any]:
    """Bring the repository's online metadata up to date.

    Returns:
        ``releases``, ``snapshot``, ``timestamp``: encoded metadata as text; ``refused``: release id → reason, for
        published releases whose approvals do not hold any more.

    Raises:
        RepositoryBroken: the offline-signed metadata is missing or does not verify.
    """
    strict(request, {})
    with _one_at_a_time:
        return _tuf(signer)


def _tuf(signer: "SignerContext") -> dict[str, Any]:
    wanted, refused = _wanted(signer)
    memory = Memory(signer.folder / "tuf", Repository(signer.settings))
    _, targets = memory.trusted()
    keys = online_keys(signer.keys, lambda name: _recorded(signer, name, name))
    online = tuf_metadata.advance(
        clock.now(), memory.online(), targets_version=targets.signed.version, wanted=wanted, keys=keys
    )
    memory.remember(online)  # before anyone may see it: a version is never signed twice
    return {**{role: encoded.decode() for role, encoded in online.files()}, "refused": refused}


def online_keys(keys: Any, sign: Callable[[str], Callable[[bytes], bytes]]) -> tuf_metadata.OnlineKeys:
    """TUF signers over the signer's key store.

    Args:
        keys: the store, for the public halves.
        sign: key name → function that signs with it.
    """

    def signer(role: str) -> tuf_metadata.KeyStoreSigner:
        name = ROLE_KEYS[role]
        return tuf_metadata.KeyStoreSigner(SSlibKey.from_crypto(keys.public(name)), sign(name))

    return tuf_metadata.OnlineKeys(
        releases=signer("releases"), snapshot=signer("snapshot"), timestamp=signer("timestamp")
    )


def is_signed(connection: sa.Connection, subject: str) -> bool:
    """Whether the database holds the signature that the signer's log tells of (``subject`` is a statement's digest)."""
    query = sa.select(releases.c.id).where(releases.c.digest == subject, releases.c.signature.is_not(None))
    return connection.execute(query).first() is not None


def _wanted(signer: "SignerContext") -> tuple[dict[str, TargetFile], dict[str, str]]:
    wanted: dict[str, TargetFile] = {}
    refused: dict[str, str] = {}
    with signer.db.read() as connection:
        query = sa.select(releases.c.id).where(
            releases.c.state == ReleaseState.PUBLISHED, releases.c.signature.is_not(None)
        )
        for release_id in connection.execute(query).scalars().all():
            try:
                statement = approvals.verify(connection, release_id, minimum=1, people_too=False)
                _recall(signer, statement)
            except ReleaseRefused as error:
                refused[release_id] = str(error.fields["reason"])
            else:
                wanted[statement.target_path] = tuf_metadata.target(statement)
    return wanted, refused


def _remember(signer: "SignerContext", statement: Statement) -> None:
    """Keep what was signed for, so that the repository lists nothing else, whatever the database says later."""
    folder = signer.folder / "releases"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(folder / f"{statement.digest}.json", statement.encode(), mode=0o600)


def _recall(signer: "SignerContext", statement: Statement) -> None:
    if not (signer.folder / "releases" / f"{statement.digest}.json").is_file():
        raise ReleaseRefused("This signer never signed for it.", reason="never-signed", release_id=statement.release_id)


def _measure(settings: "Settings", statement: Statement) -> None:
    try:
        found = Store(settings).measure(statement.sha256)
    except ArtifactMissing as error:
        raise ReleaseRefused(error.detail, reason="artifact-missing", release_id=statement.release_id) from error
    if (found.sha256, found.length) != (statement.sha256, statement.length):
        raise ReleaseRefused(
            "The artifact's file is not what was approved.", reason="artifact-changed", release_id=statement.release_id
        )


def _chain(signer: "SignerContext") -> list[x509.Certificate]:
    folder = signer.folder / "pki"  # the signer's own copies: no row of the database decides what it signs as
    try:
        chain = [x509.load_der_x509_certificate((folder / name).read_bytes()) for name in CERTIFICATES]
    except (OSError, ValueError) as error:
        reason = "no-certificate"
        raise _refusal(ReleaseRefused(f"The firmware certificate cannot be read: {error}", reason=reason)) from error
    if chain[0].public_key() != signer.keys.public(FIRMWARE_KEY):
        raise _refusal(ReleaseRefused("The firmware certificate is for another key.", reason="wrong-certificate"))
    return chain


def _recorded(signer: "SignerContext", name: str, subject: str) -> Callable[[bytes], bytes]:
    def sign(data: bytes) -> bytes:
        signer.signed(subject, data)
        return signer.keys.sign(name, data)

    return sign


def _refusal(error: ReleaseRefused) -> SignatureRefused:
    return SignatureRefused(
        f"{error.fields['reason']}: {error.detail}", subject=error.fields.get("release_id", ""), **error.fields
    )
