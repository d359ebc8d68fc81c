"""What runs inside the signer process: ``release`` and ``tuf`` sign for firmware, ``tuf_files`` hands files out.

``release {release_id}`` reads the release, its approvals and the people again, measures the artifact's file and signs
the approved digest (detached CMS). ``tuf {}`` makes the update framework's online metadata: it lists the published
releases that this signer signed for and whose approvals still hold, and nothing that anyone hands in. Neither takes a
byte or a digest from the caller. What ``tuf`` made may be large, so its bins are fetched by ``tuf_files``, some at a time.
"""

import base64
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from cryptography import x509
from securesystemslib.signer import SSlibKey

from lachan import clock
from lachan.files import write_atomically
from lachan.signer.context import strict
from lachan.signer.errors import SignatureRefused
from ota_signing import approvals, bins, cms, listing, online, tuf_metadata
from ota_signing.errors import ArtifactMissing, ReleaseRefused
from ota_signing.memory import Memory
from ota_signing.models import releases
from ota_signing.repository import Repository
from ota_signing.settings import OtaSettings
from ota_signing.statement import ReleaseStatement
from ota_signing.store import Store

if TYPE_CHECKING:
    from lachan.settings import Settings
    from lachan.signer.context import SignerContext
    from lachan.signer.keys import KeyStore

FIRMWARE_KEY = "firmware-signing"
REFUSALS = 20_000  # told at a time, so that they fit into a frame; the next audit tells more
PORTION = 1 << 20  # bytes of metadata in one answer; a frame holds four times as much
CERTIFICATE = "firmware-signing.crt"
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
            statement = approvals.verify(
                connection, release_id, minimum=OtaSettings.of(signer.settings).ota_approvals,
                shell_persons=signer.settings.shell_persons,
            )  # fmt: skip
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

    Args:
        signer: keys, database and settings of the signer process.
        request: ``everything?``: also read the releases again of which no change is known.

    Returns:
        ``snapshot``, ``timestamp``: encoded metadata as text; ``revisions``: of each slot, what the bins were made for;
        ``refused``: release id → reason, for published releases whose approvals do not hold any more (`REFUSALS` at most).

    Raises:
        RepositoryBroken: the offline-signed metadata is missing or does not verify.
    """
    everything = strict(request, {"everything?": bool})["everything"] is True
    with _one_at_a_time:
        return _tuf(signer, everything)


def _tuf(signer: "SignerContext", everything: bool) -> dict[str, Any]:
    memory, refused = _memory(signer), dict[str, str]()
    _, targets = memory.trusted()
    keys = online_keys(signer.keys, lambda name: _recorded(signer, name, name))
    signed_for = _signed_for(signer)
    with signer.db.read() as connection:
        revisions = bins.revisions(connection)

    def listed(wanted: Sequence[int]) -> dict[int, dict[str, bytes]]:
        found, not_these = listing.verified(signer.db, wanted, was_signed=signed_for)
        refused.update(not_these)
        return found

    made, files = online.advance(
        clock.now(), memory.online(), targets_version=targets.signed.version, revisions=revisions, listing=listed,
        keys=keys, everything=everything,
    )  # fmt: skip
    memory.remember(made, files)  # before anyone may see it: a version is never signed twice
    return {
        "snapshot": made.snapshot.decode(), "timestamp": made.timestamp.decode(), "revisions": list(made.revisions),
        "refused": dict(list(refused.items())[:REFUSALS]),
    }  # fmt: skip


def tuf_files(signer: "SignerContext", request: dict[str, Any]) -> dict[str, Any]:
    """Hand out bins, and ``releases``, as they were signed last; nothing is signed.

    Args:
        signer: keys, database and settings of the signer process.
        request: ``roles``: their names.

    Returns:
        ``files``: role → encoded metadata as text, of the first names, at least one and about `PORTION` bytes in all.

    Raises:
        RepositoryBroken: there is no such file.
    """
    roles = strict(request, {"roles": list})["roles"]
    memory, files, size = _memory(signer), dict[str, str](), 0
    with _one_at_a_time:
        standing = memory.online()
        for role in roles:
            files[str(role)] = memory.file(str(role), standing).decode()
            size += len(files[str(role)])
            if size > PORTION:
                break
    return {"unsigned": True, "files": files}


def _memory(signer: "SignerContext") -> Memory:
    return Memory(signer.folder / "tuf", Repository(signer.settings))


def online_keys(keys: "KeyStore", sign: Callable[[str], Callable[[bytes], bytes]]) -> tuf_metadata.OnlineKeys:
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


def _remember(signer: "SignerContext", statement: ReleaseStatement) -> None:
    """Keep what was signed for, so that the repository lists nothing else, whatever the database says later."""
    folder = signer.folder / "releases"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(folder / f"{statement.digest}.json", statement.encode(), mode=0o600)


def _signed_for(signer: "SignerContext") -> Callable[[ReleaseStatement], bool]:
    folder = f"{signer.folder}/releases"
    return lambda statement: os.path.isfile(f"{folder}/{statement.digest}.json")


def _measure(settings: "Settings", statement: ReleaseStatement) -> None:
    try:
        found = Store(settings).measure(statement.sha256)
    except ArtifactMissing as error:
        raise ReleaseRefused(error.detail, reason="artifact-missing", release_id=statement.release_id) from error
    if (found.sha256, found.length) != (statement.sha256, statement.length):
        raise ReleaseRefused(
            "The artifact's file is not what was approved.", reason="artifact-changed", release_id=statement.release_id
        )


def _chain(signer: "SignerContext") -> list[x509.Certificate]:
    """Give the firmware certificate and its issuer; the root is what devices bring themselves."""
    folder = signer.folder / "pki"  # the signer's own copies: no row of the database decides what it signs as
    try:
        leaf = x509.load_der_x509_certificate((folder / CERTIFICATE).read_bytes())
        others = (x509.load_der_x509_certificate(path.read_bytes()) for path in sorted(folder.glob("*.crt")))
        chain = [leaf, next(other for other in others if other.subject == leaf.issuer)]
    except (OSError, ValueError, StopIteration) as error:
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
