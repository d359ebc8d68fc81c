"""The half of the repository that is signed on ordinary days: bins, ``releases``, snapshot, timestamp.

`advance` takes what stands now and says what must replace it; nothing here reads a clock, a database or a file. A bin is
made again when one of its slots changed, when half of its life is over, or when there will be more bins; it gets a new
version only if it says something else or grows old, and then so do snapshot and timestamp. One release therefore costs the
bin that it falls into, a snapshot of all bins and a timestamp, however many releases there are.

Canonical JSON (OLPC) of bins and snapshots is written with orjson: the same bytes for text without control characters, which
is all that `ota_signing.listing` lets in.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import orjson
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Signer
from tuf.api.metadata import Delegations, SuccinctRoles

from ota_signing import bins
from ota_signing.tuf_metadata import (
    RELEASES_LIFE,
    SNAPSHOT_LIFE,
    TIMESTAMP_LIFE,
    OnlineKeys,
    half_over,
    whole,
)

SPEC_VERSION = "1.0.31"
Listing = Callable[[Sequence[int]], Mapping[int, Mapping[str, bytes]]]
"""Slots → slot → target path → encoded entry, for every release of these slots that may be handed out."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One signed file.

    Attributes:
        version: counts from 1.
        expires: aware UTC.
        length: bytes.
        sha256: of the file, hex.
        content: SHA-256 of what it says apart from version and expiry; empty when it has to be made again.
    """

    version: int
    expires: datetime
    length: int
    sha256: str
    content: str

    @property
    def meta(self) -> dict[str, Any]:
        """What a snapshot or timestamp says of it."""
        return {"hashes": {"sha256": self.sha256}, "length": self.length, "version": self.version}


@dataclass(frozen=True, kw_only=True)
class Online:
    """What was signed last.

    Attributes:
        bits: there are ``2**bits`` bins.
        revisions: of each slot, when its bin was made; -1 for never.
        counts: releases listed, of each slot.
        parts: role → file; of ``releases``, the bins, ``snapshot`` and ``timestamp``.
        snapshot: encoded.
        timestamp: encoded.
    """

    bits: int = bins.MIN_BITS
    revisions: tuple[int, ...] = (-1,) * bins.SLOTS
    counts: tuple[int, ...] = (0,) * bins.SLOTS
    parts: Mapping[str, Part] = field(default_factory=dict)
    snapshot: bytes = b""
    timestamp: bytes = b""


def advance(
    now: datetime,
    before: Online,
    *,
    targets_version: int,
    revisions: Sequence[int],
    listing: Listing,
    keys: OnlineKeys,
    everything: bool = False,
) -> tuple[Online, dict[str, bytes]]:
    """Tell what must stand now, given what stood before.

    Args:
        now: aware UTC.
        before: what was signed last.
        targets_version: of the offline-signed top-level targets.
        revisions: of each slot, read before what ``listing`` reads.
        listing: reads and verifies what slots list.
        keys: signers of the three roles.
        everything: read all slots again, though nothing seems to have changed.

    Returns:
        What stands now, and the files that are new (role → encoded), the timestamp always among them.
    """
    due, bits, found = _read(now, before, revisions, listing, everything)
    listed = {name: _targets(found, bins.slots_of(name, bits)) for name in due}
    parts, files = _sign(now, before.parts, listed, _delegations(bits, keys), targets_version, keys)
    after = Online(
        bits=bits, parts=parts, snapshot=files.get("snapshot", before.snapshot), timestamp=files["timestamp"],
        revisions=tuple(new if slot in found else before.revisions[slot] for slot, new in enumerate(revisions)),
        counts=tuple(len(found[slot]) if slot in found else old for slot, old in enumerate(before.counts)),
    )  # fmt: skip
    return after, files


def _sign(
    now: datetime,
    before: Mapping[str, Part],
    listed: Mapping[str, orjson.Fragment],
    delegations: dict[str, Any],
    targets_version: int,
    keys: OnlineKeys,
) -> tuple[dict[str, Part], dict[str, bytes]]:
    """Sign, from the bins up to the timestamp, what says something else than before or grows old."""
    parts, files = dict(before), dict[str, bytes]()

    def renew(role: str, life: timedelta, key: Signer, **content: Any) -> None:
        made = _renewed(now, parts.get(role), life, content, key)
        if made is not None:
            parts[role], files[role] = made

    for name, targets in listed.items():
        renew(name, RELEASES_LIFE, keys.releases, _type="targets", targets=targets)
    renew("releases", RELEASES_LIFE, keys.releases, _type="targets", targets={}, delegations=delegations)
    meta = {f"{role}.json": part.meta for role, part in parts.items() if role not in ("snapshot", "timestamp")}
    meta["targets.json"] = {"version": targets_version}
    renew("snapshot", SNAPSHOT_LIFE, keys.snapshot, _type="snapshot", meta=meta)
    if "timestamp" in parts:
        parts["timestamp"] = replace(parts["timestamp"], content="")  # new every time
    about = {"snapshot.json": parts["snapshot"].meta}
    renew("timestamp", TIMESTAMP_LIFE, keys.timestamp, _type="timestamp", meta=about)
    return parts, files


def _read(
    now: datetime, before: Online, revisions: Sequence[int], listing: Listing, everything: bool
) -> tuple[list[str], int, dict[int, Mapping[str, bytes]]]:
    """Read what has to be made again: the bins, of how many bits, and what their slots list."""
    bits = before.bits
    due = [name for name in bins.names(bits) if everything or _is_due(now, before, revisions, name)]
    found = dict(listing([slot for name in due for slot in bins.slots_of(name, bits)]))
    counted = sum(len(found[slot]) if slot in found else old for slot, old in enumerate(before.counts))
    bits = max(bits, bins.bits_for(counted))
    if bits > before.bits:
        found |= listing([slot for slot in range(bins.SLOTS) if slot not in found])
        due = bins.names(bits)
    return due, bits, found


def _is_due(now: datetime, before: Online, revisions: Sequence[int], name: str) -> bool:
    part = before.parts.get(name)
    if part is None or not part.content or half_over(part.expires, RELEASES_LIFE, now):
        return True
    return any(revisions[slot] != before.revisions[slot] for slot in bins.slots_of(name, before.bits))


def _renewed(
    now: datetime, before: Part | None, life: timedelta, content: dict[str, Any], key: Signer
) -> tuple[Part, bytes] | None:
    """Sign the next version, unless the one before says the same and has more than half of its life left."""
    digest = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
    if before is not None and before.content == digest and not half_over(before.expires, life, now):
        return None
    version, expires = 1 if before is None else before.version + 1, whole(now + life)
    rest = {"expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"), "spec_version": SPEC_VERSION, "version": version}
    signed = orjson.dumps({**content, **rest}, option=orjson.OPT_SORT_KEYS)
    # A key's PEM has line ends, which JSON escapes and canonical JSON does not; all else is the same in both.
    canonical = str(encode_canonical({**content, **rest})).encode() if "delegations" in content else signed
    signature = key.sign(canonical)
    words = (signature.keyid.encode(), signature.signature.encode(), signed)
    encoded = b'{"signatures":[{"keyid":"%s","sig":"%s"}],"signed":%s}' % words
    sha256 = hashlib.sha256(encoded).hexdigest()
    return Part(version=version, expires=expires, length=len(encoded), sha256=sha256, content=digest), encoded


def _targets(found: Mapping[int, Mapping[str, bytes]], covered: range) -> orjson.Fragment:
    entries = sorted((path, entry) for slot in covered for path, entry in found[slot].items())
    return orjson.Fragment(b"{%s}" % b",".join(b"%s:%s" % (orjson.dumps(path), entry) for path, entry in entries))


def _delegations(bits: int, keys: OnlineKeys) -> dict[str, Any]:
    key = keys.releases.public_key
    roles = SuccinctRoles([key.keyid], 1, bits, bins.PREFIX)
    return Delegations({key.keyid: key}, succinct_roles=roles).to_dict()
