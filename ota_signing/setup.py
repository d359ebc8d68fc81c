"""What ``lachan init`` does for firmware: the keys of the update framework and the first metadata.

Root and targets keys (three each, two needed) are written to the offline folder and nowhere else; releases, snapshot
and timestamp keys are made in the signer. The first repository is complete and lists nothing. `renew` is the yearly
ceremony: with the offline folder at hand, root and targets get their next version and a new expiry. Run again, `init`
changes nothing. Limits: rotating offline keys is not offered yet; the folder is written unencrypted, as it leaves the
machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Root, Targets

from lachan import clock
from lachan.errors import Invalid
from lachan.files import write_atomically, write_new
from lachan.settings import Settings
from ota_signing import bins, online, tuf_metadata
from ota_signing.memory import Memory
from ota_signing.repository import Repository
from ota_signing.signing import ROLE_KEYS, online_keys

if TYPE_CHECKING:
    from lachan.signer.context import InitContext

OFFLINE_KEYS = 3  # of each role; tuf_metadata.root needs two of them


def init(context: "InitContext") -> None:
    """Make keys and the first metadata, unless that was done already."""
    repository = Repository(context.settings)
    if repository.read("timestamp") is not None:
        return
    for name in ROLE_KEYS.values():
        if name not in context.keys:
            context.keys.generate(name, "p256")
    now = clock.now()
    keys = online_keys(context.keys, lambda name: lambda data: context.keys.sign(name, data))
    root_signers, targets_signers = (_make_offline(context.offline, role) for role in ("root", "targets"))
    root = tuf_metadata.encode(
        tuf_metadata.root(
            now,
            version=1,
            root_keys=[signer.public_key for signer in root_signers],
            targets_keys=[signer.public_key for signer in targets_signers],
            snapshot=keys.snapshot.public_key,
            timestamp=keys.timestamp.public_key,
        ),
        root_signers,
    )
    targets = tuf_metadata.encode(
        tuf_metadata.targets(now, version=1, releases=keys.releases.public_key), targets_signers
    )
    memory = Memory(context.settings.signer_home / "tuf", repository)
    memory.begin(root, targets)
    made, files = online.advance(
        now, memory.online(), targets_version=1, revisions=[0] * bins.SLOTS, listing=_nothing, keys=keys
    )
    memory.remember(made, files)
    write_atomically(context.offline / "tuf-root.json", root)  # what a device is given at manufacture
    repository.add("root", root)
    repository.add("targets", targets)
    for role in [role for role in files if role != "timestamp"]:
        repository.add(role, files[role])
    repository.switch(made.timestamp)


def _nothing(slots: Sequence[int]) -> dict[int, dict[str, bytes]]:
    return {slot: {} for slot in slots}


def renew(settings: Settings, offline: Path) -> tuple[int, int]:
    """Sign root and targets again with the offline keys; the recurring refresh then takes them up.

    Args:
        settings: of the installation.
        offline: folder with at least two root and two targets keys.

    Returns:
        The new versions of root and targets.

    Raises:
        Invalid: fewer than two keys of a role are there, or they are not the repository's.
    """
    repository, now = Repository(settings), clock.now()
    with repository.locked():
        root = Metadata[Root].from_bytes(repository.read("root") or b"{}")
        targets = Metadata[Targets].from_bytes(repository.read("targets") or b"{}")
        root_signers = _find_offline(offline, "root", root.signed)
        targets_signers = _find_offline(offline, "targets", root.signed)
        root.signed.version += 1
        targets.signed.version += 1
        root.signed.expires = (now + tuf_metadata.ROOT_LIFE).replace(microsecond=0)
        targets.signed.expires = (now + tuf_metadata.TARGETS_LIFE).replace(microsecond=0)
        repository.add("targets", tuf_metadata.encode(targets, targets_signers))
        repository.add("root", tuf_metadata.encode(root, root_signers))
    return root.signed.version, targets.signed.version


def _make_offline(folder: Path, role: str) -> list[CryptoSigner]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = []
    for number in range(1, OFFLINE_KEYS + 1):
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_new(folder / f"tuf-{role}-{number}.pem", pem)
        made.append(CryptoSigner(key))
    return made


def _find_offline(folder: Path, role: str, root: Root) -> list[CryptoSigner]:
    found = []
    for path in sorted(folder.glob(f"tuf-{role}-*.pem")):
        key = load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Invalid(f"{path.name} is no P-256 key.", file=path.name)
        if SSlibKey.from_crypto(key.public_key()).keyid in root.roles[role].keyids:
            found.append(CryptoSigner(key))
    if len(found) < root.roles[role].threshold:
        raise Invalid(f"{folder} has {len(found)} of the {root.roles[role].threshold} {role} keys needed.", role=role)
    return found
