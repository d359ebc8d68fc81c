"""The metadata that devices read: versioned files (consistent snapshots) and one ``timestamp.json`` that names the snapshot.

It is written in the order that keeps every reader whole after a crash: bins and releases, snapshot, timestamp last, each in
one step; so a reader finds the old repository or the new one. `Repository.missing` compares what lies there with what the
snapshot says. Limits: older versions are kept for clients in the middle of an update, some of each file, not for a time.
"""

import fcntl
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp
from tuf.api.serialization import DeserializationError

from lachan.blobs import NoSuchBlob, blobs
from lachan.settings import Settings
from ota_signing import tuf_metadata

KEEP = 20  # older snapshots, for clients that are in the middle of an update
KEEP_BINS = 4  # older versions of a bin, which changes much less often
_NAME = re.compile(r"(?:(\d{1,9})\.(root|targets|releases(?:-[0-9a-f]{2})?|snapshot)|timestamp)\.json")


class Repository:
    """The public metadata of one installation."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.data / "tuf" / "metadata"
        self._blobs = blobs(settings, "tuf/metadata")
        self._lock = settings.data / "tuf" / ".lock"

    def get(self, name: str) -> bytes | None:
        """Read the file of a metadata name; None if no such name can be or is there."""
        if not _NAME.fullmatch(name):
            return None
        try:
            return b"".join(self._blobs.open(name))
        except NoSuchBlob:
            return None

    def path(self, name: str) -> Path | None:
        """Give the file of a metadata name; None if no such name can be, or it lies in no file."""
        return self._blobs.local_path(name) if _NAME.fullmatch(name) else None

    def newest(self, role: str) -> int:
        """Tell the highest version of a role that lies there; 0 without any."""
        found = (_NAME.fullmatch(name) for name in self._blobs.names())
        return max((int(match[1]) for match in found if match and match[2] == role), default=0)

    def read(self, role: str) -> bytes | None:
        """Read the newest encoded metadata of a role, None without any."""
        return self.get("timestamp.json" if role == "timestamp" else f"{self.newest(role)}.{role}.json")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers of this machine out."""
        self._lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def standing(self) -> tuple[Timestamp, Snapshot] | None:
        """Read what clients are told now; None if it is missing or damaged."""
        try:
            timestamp = Metadata[Timestamp].from_bytes(self.get("timestamp.json") or b"").signed
            encoded = self.get(f"{timestamp.snapshot_meta.version}.snapshot.json") or b""
            timestamp.snapshot_meta.verify_length_and_hashes(encoded)
            return timestamp, Metadata[Snapshot].from_bytes(encoded).signed
        except (DeserializationError, RepositoryError):
            return None

    def missing(self, snapshot: Snapshot, *, thorough: bool = False) -> list[str]:
        """Name the roles whose file does not lie there as a snapshot says.

        Args:
            snapshot: the snapshot.
            thorough: compare the bytes, not only their number.
        """
        return [
            name.removesuffix(".json")
            for name, meta in sorted(snapshot.meta.items())
            if name != "targets.json" and not self._lies(f"{meta.version}.{name}", meta, thorough)
        ]

    def listed(self, snapshot: Snapshot, role: str) -> dict[str, str]:
        """Tell what a bin lists for clients: target path → SHA-256."""
        name = f"{role}.json"
        return tuf_metadata.listed(self.get(f"{snapshot.meta[name].version}.{name}") or b"")

    def add(self, role: str, encoded: bytes) -> None:
        """Write one versioned file."""
        name = f"{tuf_metadata.version(encoded)}.{role}.json"
        if self.get(name) != encoded:
            self._blobs.put(name, encoded)

    def switch(self, timestamp: bytes) -> None:
        """Make a timestamp public, and with it all that it names; never one older than what is there."""
        if _version(self.get("timestamp.json") or b"") <= tuf_metadata.version(timestamp):
            self._blobs.put("timestamp.json", timestamp)

    def prune(self, snapshot: Snapshot, roles: list[str]) -> None:
        """Remove versions of these files that nobody reads any more."""
        names = {f"{role}.json": KEEP_BINS for role in roles} | {"releases.json": KEEP}
        for name, keep in names.items():
            if name in snapshot.meta:
                self._prune(name, snapshot.meta[name].version - keep)
        self._prune("snapshot.json", snapshot.version - KEEP)

    def _prune(self, name: str, newest: int) -> None:
        for old in range(newest, 0, -1):
            if not self._blobs.exists(f"{old}.{name}"):
                return
            self._blobs.delete(f"{old}.{name}")

    def _lies(self, name: str, meta: MetaFile, thorough: bool) -> bool:
        try:
            if self._blobs.size(name) != meta.length:
                return False
            return not thorough or hashlib.sha256(self.get(name) or b"").hexdigest() == (meta.hashes or {})["sha256"]
        except NoSuchBlob:
            return False


def _version(encoded: bytes) -> int:
    try:
        return tuf_metadata.version(encoded)
    except ValueError:
        return 0  # a torn or foreign file is replaced
