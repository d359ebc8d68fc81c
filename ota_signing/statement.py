"""The release statement: the exact words that people approve and the signer signs for.

A statement is canonical JSON (RFC 8785), so that its SHA-256, the *digest* of a release, is the same wherever it is
computed from the same facts. It names the artifact by content, says how many approvals it needs and who proposed it:
none of these can be changed afterwards without making every approval worthless.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import orjson

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class ReleaseStatement:
    """What a release says.

    Attributes:
        release_id: of the release, so that approvals cannot be carried over to another.
        vendor: as in the device registry.
        model: as in the device registry.
        version: of the firmware.
        sha256: of the artifact, lower-case hex.
        length: of the artifact, bytes.
        approvals_needed: k; how many persons other than the proposer must approve.
        proposer: label of the principal who proposed it.
        downgrade: whether devices with a higher version shall install it, too.
    """

    release_id: str
    vendor: str
    model: str
    version: str
    sha256: str
    length: int
    approvals_needed: int
    proposer: str
    downgrade: bool

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> "ReleaseStatement":
        """Give the statement that a row of ``ota_releases`` makes now, whatever it made when it was approved."""
        return cls(
            release_id=row["id"], vendor=row["vendor"], model=row["model"], version=row["version"],
            sha256=row["sha256"], length=row["length"], approvals_needed=row["approvals_needed"],
            proposer=row["proposer"], downgrade=bool(row["downgrade"]),
        )  # fmt: skip

    def encode(self) -> bytes:
        """Give the canonical bytes (RFC 8785); for flat objects of text, whole numbers and flags orjson writes the same."""
        words = {name: getattr(self, name) for name in _FIELDS}
        return orjson.dumps({"type": "lachan-firmware-release/1", **words}, option=orjson.OPT_SORT_KEYS)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, lower-case hex."""
        return hashlib.sha256(self.encode()).hexdigest()

    @cached_property
    def target_path(self) -> str:
        """Path of the firmware in the TUF repository: vendor, model, version and a fixed name."""
        return "/".join((slug(self.vendor), slug(self.model), slug(self.version), "firmware.bin"))


_FIELDS = tuple(field.name for field in fields(ReleaseStatement))


def slug(text: str) -> str:
    """Give a URL-safe path segment for a name; names that must be altered get a hash, so that no two fall together."""
    if _PLAIN.fullmatch(text):
        return text
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("._") or "x"
    return f"{plain[:60]}~{hashlib.sha256(text.encode()).hexdigest()[:10]}"
