"""The doors' own server certificates: made at the first start, renewed before they expire.

Each TLS door has a key that never leaves ``<data>/doors`` (mode 0600) and a certificate from our issuing authority for
the names of the settings. Steps: is there a certificate for this key and these names with a third of its life left? →
else have a key and a certificate made, write both in one step each. Limits: a certificate of a public authority is put
there by the operator: ``<door>.pem`` and ``<door>.key`` with a file ``<door>.external`` beside them are left alone.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from lachan import clock
from lachan.addresses import written
from lachan.files import write_atomically
from lachan.runtime import Runtime
from pki import service
from pki.settings import PkiSettings


@dataclass(frozen=True)
class Files:
    """Where a door's certificate chain and key lie, both PEM."""

    chain: Path
    key: Path


def ensure(rt: Runtime, door: str) -> tuple[Files, bool]:
    """Make sure that a door has a certificate with at least a third of its life left.

    Args:
        rt: The open installation; its signer is asked when a certificate is needed.
        door: device or people.

    Returns:
        The files, and whether they are new.

    Raises:
        SignerUnavailable: If a certificate is needed and the signer does not answer.
    """
    folder = rt.settings.data / "doors"
    folder.mkdir(mode=0o700, exist_ok=True)
    files = Files(folder / f"{door}.pem", folder / f"{door}.key")
    names = _names(rt, door)
    with _alone(folder / "lock"):
        if (folder / f"{door}.external").exists() or _lasts(files, names):
            return files, False
        key, chain = service.issue_server_certificate(rt, names)
        files.chain.unlink(missing_ok=True)  # a crash between the two leaves a key without certificate: made anew
        write_atomically(files.key, key, mode=0o600)
        write_atomically(files.chain, chain, mode=0o600)
        return files, True


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Stand alone among the processes of the doors, or one would write the key and another the certificate."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _names(rt: Runtime, door: str) -> list[str]:
    host = urlsplit(rt.settings.device_url if door == "device" else rt.settings.people_url).hostname or "localhost"
    named = {host, rt.settings.host, *PkiSettings.of(rt.settings).pki_server_names}
    return sorted({*map(written, named)} - {"", "0.0.0.0", "::"})


def _lasts(files: Files, names: list[str]) -> bool:
    try:
        leaf = x509.load_pem_x509_certificates(files.chain.read_bytes())[0]
        held = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, ValueError, IndexError, x509.ExtensionNotFound):
        return False
    carried = {*held.get_values_for_type(x509.DNSName), *map(str, held.get_values_for_type(x509.IPAddress))}
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    lasts = leaf.not_valid_before_utc <= clock.now() < leaf.not_valid_after_utc - life / 3
    return files.key.exists() and set(names) <= carried and lasts
