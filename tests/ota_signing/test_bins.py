"""Which bin lists what, and that what we encode by hand is what the standards' own libraries encode and read."""

import hashlib
import json
from dataclasses import asdict
from datetime import timedelta

import orjson
import pytest
import rfc8785
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Snapshot, SuccinctRoles, Targets, Timestamp

from lachan import clock
from ota_signing import bins, listing, online
from ota_signing.online import Online
from ota_signing.statement import ReleaseStatement
from ota_signing.tuf_metadata import RELEASES_LIFE, KeyStoreSigner, OnlineKeys

WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
STATEMENTS = st.builds(
    ReleaseStatement, release_id=WORDS, vendor=WORDS, model=WORDS, version=WORDS, proposer=WORDS, downgrade=st.booleans(),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex), length=st.integers(0, 2**53 - 1),
    approvals_needed=st.integers(1, 10),
)  # fmt: skip


def keys() -> OnlineKeys:
    private = ec.generate_private_key(ec.SECP256R1())
    public = SSlibKey.from_crypto(private.public_key())
    signer = KeyStoreSigner(public, lambda data: private.sign(data, ec.ECDSA(hashes.SHA256())))
    return OnlineKeys(releases=signer, snapshot=signer, timestamp=signer)


KEYS = keys()


def statement(number: int, **more: str) -> ReleaseStatement:
    words = {"release_id": f"r{number}", "vendor": "acme", "model": "cam1", "version": f"1.{number}", **more}
    return ReleaseStatement(
        **words, sha256=hashlib.sha256(b"%d" % number).hexdigest(), length=number, approvals_needed=2, proposer="x",
        downgrade=False,
    )  # fmt: skip


def listed(*statements: ReleaseStatement) -> online.Listing:
    """A listing of these."""
    found: dict[int, dict[str, bytes]] = {slot: {} for slot in range(bins.SLOTS)}
    for one in statements:
        found[bins.slot(one.target_path)][one.target_path] = listing.entry(one)
    return lambda slots: {slot: found[slot] for slot in slots}


def advance(before: Online, what: online.Listing, *, revision: int = 0, at: timedelta = timedelta()):
    return online.advance(
        clock.now() + at, before, targets_version=1, revisions=[revision] * bins.SLOTS, listing=what, keys=KEYS
    )


@given(STATEMENTS)
def test_a_statement_is_canonical_json(made: ReleaseStatement) -> None:
    assert made.encode() == rfc8785.dumps({"type": "lachan-firmware-release/1", **asdict(made)})


@given(st.text("abc/._~é", min_size=1, max_size=40), st.integers(bins.MIN_BITS, bins.MAX_BITS))
def test_bins_are_those_that_clients_look_into(path: str, bits: int) -> None:
    roles = SuccinctRoles([], 1, bits, bins.PREFIX)
    name = bins.name_of(bins.slot(path), bits)
    assert name == roles.get_role_for_target(path)
    assert bins.slot(path) in bins.slots_of(name, bits)
    assert bins.names(bits) == list(roles.get_roles())


@pytest.mark.parametrize("bits", range(bins.MIN_BITS, bins.MAX_BITS + 1))
def test_every_slot_is_in_one_bin(bits: int) -> None:
    assert [slot for name in bins.names(bits) for slot in bins.slots_of(name, bits)] == list(range(bins.SLOTS))


def test_there_are_more_bins_when_they_fill() -> None:
    assert [bins.bits_for(count) for count in (0, 4096, 4097, 8193, 16_384, 16_385, 10**6)] == [5, 5, 6, 7, 7, 8, 8]


@settings(deadline=None)  # each example signs 35 files
@given(st.lists(STATEMENTS, max_size=4))
def test_what_is_signed_is_what_clients_read(made: list[ReleaseStatement]) -> None:
    """python-tuf makes the canonical bytes again from what it parsed, and the signature must fit those."""
    made = [
        one
        for one in made
        if all(getattr(one, name).isprintable() for name in ("release_id", "vendor", "model", "version"))
    ]
    _, files = advance(Online(), listed(*made))
    kinds = {"snapshot": Snapshot, "timestamp": Timestamp}
    for role, encoded in files.items():
        metadata = Metadata[kinds.get(role, Targets)].from_bytes(encoded)  # type: ignore[misc]
        KEYS.releases.public_key.verify_signature(next(iter(metadata.signatures.values())), metadata.signed_bytes)
    paths = {
        path for role, encoded in files.items() if "-" in role for path in json.loads(encoded)["signed"]["targets"]
    }
    assert paths == {one.target_path for one in made}


def test_only_what_says_something_else_is_signed_again() -> None:
    one, two = statement(1), statement(2)
    first, files = advance(Online(), listed(one))
    assert len(files) == 32 + 3
    same, files = advance(first, listed(one))
    assert files.keys() == {"timestamp"}
    touched, files = advance(same, listed(one), revision=1)
    assert files.keys() == {"timestamp"}
    assert touched.revisions == (1,) * bins.SLOTS
    _, files = advance(touched, listed(one, two), revision=2)
    assert files.keys() == {bins.name_of(bins.slot(two.target_path), 5), "snapshot", "timestamp"}


def test_what_no_change_is_known_of_is_not_read() -> None:
    first, _ = advance(Online(), listed(statement(1)))

    def unread(slots):
        assert list(slots) == []
        return {}

    _, files = advance(first, unread)
    assert files.keys() == {"timestamp"}


def test_old_bins_are_renewed_with_the_same_content() -> None:
    first, before = advance(Online(), listed(statement(1)))
    later, files = advance(first, listed(statement(1)), at=RELEASES_LIFE / 2 + timedelta(minutes=1))
    assert files.keys() == before.keys()
    assert all(later.parts[role].version == 2 for role in files)
    name = bins.name_of(bins.slot(statement(1).target_path), 5)
    assert orjson.loads(files[name])["signed"]["targets"] == orjson.loads(before[name])["signed"]["targets"]
