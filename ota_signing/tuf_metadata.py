"""The Update Framework's metadata (TUF specification 1.0): the roles, their lives, and what is signed offline.

Roles and their keys (docs/adr/0017 and 0025):

* ``root`` (2 of 3) and ``targets`` (2 of 3) are signed offline. ``targets`` lists nothing; it delegates all firmware to
* ``releases``, signed by the signer process, which lists nothing either and delegates to hashed bins;
* the bins (`ota_signing.bins`), signed with the key of ``releases``, list the releases whose approvals the signer has read
  again itself;
* ``snapshot`` and ``timestamp`` are signed by the signer whenever they change or grow old.

What is signed on ordinary days is made by `ota_signing.online`. Nothing here reads a clock, a database or a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from securesystemslib.signer import Key, Signature, Signer
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets
from tuf.api.serialization.json import JSONSerializer

from lachan import clock

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


def encode(metadata: Metadata[Any], signers: Sequence[Signer]) -> bytes:
    """Sign with every signer and encode."""
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def root(
    at: datetime, *, version: int, root_keys: Sequence[Key], targets_keys: Sequence[Key], snapshot: Key, timestamp: Key
) -> Metadata[Root]:
    """Give a root that trusts two of the root keys, two of the targets keys, and the online keys."""
    made = Root(version=version, expires=whole(at + ROOT_LIFE), consistent_snapshot=True)
    for role, keys, threshold in (
        ("root", root_keys, 2), ("targets", targets_keys, 2), ("snapshot", [snapshot], 1),
        ("timestamp", [timestamp], 1),
    ):  # fmt: skip
        for key in keys:
            made.add_key(key, role)
        made.roles[role].threshold = threshold
    return Metadata(made)


def targets(at: datetime, *, version: int, releases: Key) -> Metadata[Targets]:
    """Build top-level targets: no firmware of their own, one terminating delegation to ``releases``."""
    made = Targets(version=version, expires=whole(at + TARGETS_LIFE))
    role = DelegatedRole("releases", [releases.keyid], 1, terminating=True, paths=[PATHS])
    made.delegations = Delegations({releases.keyid: releases}, {"releases": role})
    return Metadata(made)


def version(encoded: bytes) -> int:
    """Tell the version that encoded metadata has.

    Raises:
        ValueError: it is no metadata.
    """
    try:
        return int(orjson.loads(encoded)["signed"]["version"])
    except (KeyError, TypeError) as error:
        raise ValueError("this is no metadata") from error


def listed(encoded: bytes) -> dict[str, str]:
    """Tell what encoded targets metadata of our own lists: target path → SHA-256."""
    found = orjson.loads(encoded)["signed"]["targets"]
    return {path: entry["hashes"]["sha256"] for path, entry in found.items()}


def half_over(expires: datetime, life: timedelta, now: datetime) -> bool:
    """Tell whether less than half of a role's life is left, or more than a life: its maker's clock was ahead."""
    return not now + life / 2 <= expires <= now + life + clock.SLACK


def whole(moment: datetime) -> datetime:
    """Give a moment without its fraction of a second, as TUF writes them."""
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
