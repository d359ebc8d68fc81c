"""The Update Framework's metadata (TUF specification 1.0), built with python-tuf from what the signer found to be true.

Roles and their keys (docs/adr/0017):

* ``root`` (2 of 3) and ``targets`` (2 of 3) are signed offline. ``targets`` lists nothing; it delegates all firmware to
* ``releases``, signed by the signer process, only for releases whose approvals it has read again itself;
* ``snapshot`` and ``timestamp`` are signed by the signer whenever they change or grow old.

Nothing here reads a clock, a database or a file: `advance` takes what stands now and says what must replace it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.signer import Key, Signature, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from ota_signing.statement import Statement

ROOT_LIFE = timedelta(days=730)
TARGETS_LIFE = timedelta(days=365)
RELEASES_LIFE = timedelta(days=30)
SNAPSHOT_LIFE = timedelta(days=7)
TIMESTAMP_LIFE = timedelta(days=1)
PATHS = "*/*/*/*"  # vendor/model/version/file; a pattern's * stays within one segment


@dataclass(frozen=True, kw_only=True)
class OnlineKeys:
    """The three roles whose keys live in the signer."""

    releases: Signer
    snapshot: Signer
    timestamp: Signer


@dataclass(frozen=True, kw_only=True)
class Online:
    """The online half of the repository: encoded metadata, None before the first of its kind."""

    releases: bytes | None = None
    snapshot: bytes | None = None
    timestamp: bytes | None = None

    def files(self) -> list[tuple[str, bytes]]:
        """The roles that stand, in the order in which they may become public."""
        named = (("releases", self.releases), ("snapshot", self.snapshot), ("timestamp", self.timestamp))
        return [(role, encoded) for role, encoded in named if encoded is not None]


def encode(metadata: Metadata[Any], signers: Sequence[Signer]) -> bytes:
    """Sign with every signer and encode."""
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def root(
    at: datetime, *, version: int, root_keys: Sequence[Key], targets_keys: Sequence[Key], snapshot: Key, timestamp: Key
) -> Metadata[Root]:
    """A root that trusts two of the root keys, two of the targets keys, and the online keys."""
    made = Root(version=version, expires=_whole(at + ROOT_LIFE), consistent_snapshot=True)
    for role, keys, threshold in (
        ("root", root_keys, 2), ("targets", targets_keys, 2), ("snapshot", [snapshot], 1),
        ("timestamp", [timestamp], 1),
    ):  # fmt: skip
        for key in keys:
            made.add_key(key, role)
        made.roles[role].threshold = threshold
    return Metadata(made)


def targets(at: datetime, *, version: int, releases: Key) -> Metadata[Targets]:
    """Top-level targets: no firmware of their own, one terminating delegation to ``releases``."""
    made = Targets(version=version, expires=_whole(at + TARGETS_LIFE))
    role = DelegatedRole("releases", [releases.keyid], 1, terminating=True, paths=[PATHS])
    made.delegations = Delegations({releases.keyid: releases}, {"releases": role})
    return Metadata(made)


def target(statement: Statement) -> TargetFile:
    """The entry of one release: its file by length and hash, and whom it is for."""
    custom = {
        "release_id": statement.release_id, "vendor": statement.vendor, "model": statement.model,
        "version": statement.version, "downgrade": statement.downgrade, "digest": statement.digest,
    }  # fmt: skip
    return TargetFile(statement.length, {"sha256": statement.sha256}, statement.target_path, {"custom": custom})


def advance(
    now: datetime, current: Online, *, targets_version: int, wanted: Mapping[str, TargetFile], keys: OnlineKeys
) -> Online:
    """What must stand now, given what stood before.

    A role is signed again when what it says changes, or when half of its life is over; each new one has the next
    version and makes the roles above it change. The timestamp is new every time.

    Args:
        now: aware UTC.
        current: what was signed last.
        targets_version: of the offline-signed top-level targets.
        wanted: path → entry of every release that may be handed out.
        keys: signers of the three roles.

    Returns:
        All three roles; releases and snapshot byte for byte as they were if they need no change.
    """
    releases = _releases(now, current.releases, wanted, keys.releases)
    meta = {"targets.json": MetaFile(targets_version), "releases.json": _file(releases)}
    snapshot = _snapshot(now, current.snapshot, meta, keys.snapshot)
    timestamp = _timestamp(now, current.timestamp, _file(snapshot), keys.timestamp)
    return Online(releases=releases, snapshot=snapshot, timestamp=timestamp)


def version(encoded: bytes) -> int:
    """The version that encoded metadata has."""
    return int(Metadata[Any].from_bytes(encoded).signed.version)


def listed(encoded: bytes) -> dict[str, str]:
    """Target path → SHA-256 of everything that encoded targets metadata lists."""
    found = Metadata[Targets].from_bytes(encoded).signed.targets
    return {path: entry.hashes["sha256"] for path, entry in found.items()}


def half_over(expires: datetime, life: timedelta, now: datetime) -> bool:
    """Whether less than half of a role's life is left."""
    return now > expires - life / 2


def _releases(now: datetime, before: bytes | None, wanted: Mapping[str, TargetFile], key: Signer) -> bytes:
    number = 1
    if before is not None:
        old = Metadata[Targets].from_bytes(before).signed
        if old.targets == dict(wanted) and not half_over(old.expires, RELEASES_LIFE, now):
            return before
        number = old.version + 1
    return encode(Metadata(Targets(version=number, expires=_whole(now + RELEASES_LIFE), targets=dict(wanted))), [key])


def _snapshot(now: datetime, before: bytes | None, meta: dict[str, MetaFile], key: Signer) -> bytes:
    number = 1
    if before is not None:
        old = Metadata[Snapshot].from_bytes(before).signed
        if old.meta == meta and not half_over(old.expires, SNAPSHOT_LIFE, now):
            return before
        number = old.version + 1
    return encode(Metadata(Snapshot(version=number, expires=_whole(now + SNAPSHOT_LIFE), meta=meta)), [key])


def _timestamp(now: datetime, before: bytes | None, meta: MetaFile, key: Signer) -> bytes:
    number = 1 if before is None else version(before) + 1
    return encode(Metadata(Timestamp(version=number, expires=_whole(now + TIMESTAMP_LIFE), snapshot_meta=meta)), [key])


def _file(encoded: bytes) -> MetaFile:
    return MetaFile.from_data(version(encoded), encoded, ["sha256"])


def _whole(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


class KeyStoreSigner(Signer):
    """A TUF signer over a P-256 key that stays where it is.

    Args:
        key: the public half.
        sign: makes a DER ECDSA signature with SHA-256.
    """

    def __init__(self, key: Key, sign: Any) -> None:
        self._key, self._sign = key, sign

    @property
    def public_key(self) -> Key:
        """The public half."""
        return self._key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: Any = None) -> "KeyStoreSigner":
        """Not offered: keys of the signer have no URI.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError

    def sign(self, payload: bytes) -> Signature:
        """Sign the payload."""
        return Signature(self._key.keyid, self._sign(payload).hex())
