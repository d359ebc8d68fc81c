"""What a room's signing handler is handed inside the signer process, and the helper that keeps its requests narrow."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from lachan.database import Database
from lachan.settings import Settings
from lachan.signer.counts import HourlyCounts
from lachan.signer.errors import SignatureRefused
from lachan.signer.keys import KeyStore


@dataclass(frozen=True)
class InitContext:
    """What a room's ``INIT`` function is handed.

    Attributes:
        settings: of the new installation.
        db: its database, schema in place.
        keys: the signer's key store.
        offline: folder for keys that leave the machine.
    """

    settings: Settings
    db: Database
    keys: KeyStore
    offline: Path


@dataclass(frozen=True)
class LoggedSignature:
    """One signature as the log keeps it.

    Attributes:
        subject: whose or which thing.
        digest: SHA-256 of the bytes that were signed, hex.
        device_id: for which device, if for one.
        authority: in which authority's name, if in one's.
    """

    subject: str
    digest: str
    device_id: str = ""
    authority: str = ""


@dataclass(frozen=True)
class SignerContext:
    """The world of one signing request.

    Attributes:
        keys: the private keys.
        db: read the approvals and registry rows again here; never open ``write`` (the caller may hold SQLite's lock).
        settings: of this installation.
        folder: the signer's own folder, for memory that must not lie in the database.
        counts: signatures per device and hour; a handler that signs for a device asks `HourlyCounts.check` first.
        signatures: what `signed` recorded.
        memory: what a room's handlers keep from one request to the next while this signer runs.
    """

    keys: KeyStore
    db: Database
    settings: Settings
    folder: Path
    counts: HourlyCounts = field(default_factory=HourlyCounts)
    signatures: list[LoggedSignature] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)

    def signed(self, subject: str, data: bytes, *, device_id: str = "", authority: str = "") -> None:
        """Record one signature for the log, and count it; an answer without any is not let out.

        Args:
            subject: what ``SIGNED`` finds it by: the certificate's serial in hex, the release's digest, the tree's size.
            data: the bytes that were signed (the TBS part, the note's text …); their SHA-256 is kept.
            device_id: for which device, if for one.
            authority: in which authority's name, if in one's.
        """
        self.signatures.append(LoggedSignature(subject, hashlib.sha256(data).hexdigest(), device_id, authority))
        if device_id:
            self.counts.add(device_id)

    def signed_digest(self, subject: str, digest: bytes) -> None:
        """Record one signature over what was hashed already: `signed` for what is too large to be held as bytes."""
        self.signatures.append(LoggedSignature(subject, digest.hex()))


@dataclass(frozen=True)
class Handler:
    """A room's signing handler that looks once for many requests; what `resolve` finds may also be a plain function.

    Attributes:
        look: reads all that these requests need, of one snapshot; must bear fields of any type (`sign` refuses them).
        sign: answers one of them with what `look` found.
    """

    look: Callable[[SignerContext, Sequence[Mapping[str, Any]]], Any]
    sign: Callable[[SignerContext, dict[str, Any], Any], dict[str, Any]]


def strict(request: Mapping[str, Any], wanted: Mapping[str, type | UnionType]) -> dict[str, Any]:
    """Give the request's fields, exactly those wanted and of those types.

    Args:
        request: what came over the socket.
        wanted: name → type (``str``, ``bytes``, ``int | None`` …); a name ending in ``?`` may be missing.

    Returns:
        The fields; optional ones that are missing are None.

    Raises:
        SignatureRefused: a field is unknown, missing or of another type; so CA:TRUE or a SAN cannot be slipped in.
    """
    if request.keys() == wanted.keys() and all(type(request[name]) is kind for name, kind in wanted.items()):
        return dict(request)  # the usual case
    names = {name.removesuffix("?"): (kind, name.endswith("?")) for name, kind in wanted.items()}
    for name in request:
        if name not in names:
            raise SignatureRefused(f"the request has a field that this signature does not know: {name[:60]!r}")
    found: dict[str, Any] = {}
    for name, (kind, optional) in names.items():
        value = request.get(name)
        if name not in request or (optional and value is None):
            if not optional:
                raise SignatureRefused(f"the request lacks the field {name!r}")
            found[name] = None
            continue
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise SignatureRefused(
                f"the field {name!r} is {type(value).__name__}, wanted {getattr(kind, '__name__', kind)}"
            )
        found[name] = value
    return found
