"""The key files: encrypted PKCS#8, one per name, opened only inside the signer process (and by ``lachan init``).

A key's file is ``<name>.key``, mode 0600; its public half lies beside it as ``<name>.pub``. The PKCS#8 password is not the
passphrase itself but scrypt over it (n = 2^15, r = 8, p = 1, salt in ``kdf.json``), because PKCS#8 files as OpenSSL writes
them spend only 2048 rounds of PBKDF2. Keys are opened when first used and never written again. Limits: a passphrase in a
file beside the keys protects a stolen backup of one of them, not a thief of both.
"""

import json
import os
import re
import secrets
import threading
from hashlib import scrypt
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from lachan.files import write_new
from lachan.signer.errors import KeyExists, KeyLocked, NoSuchKey
from lachan.signer.keys import KeyKind, KeyStore, PublicKey

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class FileKeyStore:
    """The keys of one folder: the `lachan.signer.keys.KeyStore` of an installation without a token.

    Args:
        folder: where the files are; made (mode 0700) when missing.
        passphrase: opens all of them.
    """

    def __init__(self, folder: Path, passphrase: bytes) -> None:
        self.folder = folder
        self._passphrase = passphrase
        self._password: bytes | None = None
        self._opened: dict[str, PrivateKey] = {}
        self._lock = threading.RLock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def generate(self, name: str, kind: KeyKind) -> PublicKey:
        """Make a key and keep it encrypted.

        Raises:
            KeyExists: there is one of that name; it stays as it is.
        """
        key: PrivateKey
        key = ec.generate_private_key(ec.SECP256R1()) if kind == "p256" else ed25519.Ed25519PrivateKey.generate()
        with self._lock:
            secret = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(self._key_password()),
            )
            public = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            try:
                write_new(self._file(name, "key"), secret)
            except FileExistsError as error:
                raise KeyExists(f"The key store has a key named {name} already.", name=name) from error
            self._file(name, "pub").unlink(missing_ok=True)
            write_new(self._file(name, "pub"), public)
            self._opened[name] = key
        return key.public_key()

    def names(self) -> list[str]:
        """List the names of all keys, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.key"))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._file(name, "key").exists()

    def sign(self, name: str, data: bytes) -> bytes:
        """Sign: Ed25519 as it is, P-256 as ECDSA over SHA-256 in DER.

        Raises:
            NoSuchKey: there is no key of that name.
            KeyLocked: the passphrase does not open it.
        """
        key = self._private(name)
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(data)
        return key.sign(data, ec.ECDSA(hashes.SHA256()))

    def sign_digest(self, name: str, digest: bytes) -> bytes:
        """Sign what is too large to be held as bytes, by its SHA-256 (P-256 only): ECDSA in DER.

        Raises:
            NoSuchKey: there is no P-256 key of that name.
            KeyLocked: the passphrase does not open it.
        """
        key = self._private(name)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise NoSuchKey(f"The key {name} does not sign digests.", name=name)
        return key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))

    def public(self, name: str) -> PublicKey:
        """Read the public half; needs no passphrase.

        Raises:
            NoSuchKey: there is no key of that name.
        """
        try:
            pem = self._file(name, "pub").read_bytes()
        except FileNotFoundError as error:
            raise NoSuchKey(f"No key is named {name}.", name=name) from error
        key = serialization.load_pem_public_key(pem)
        assert isinstance(key, PublicKey)
        return key

    def _private(self, name: str) -> PrivateKey:
        """Open the private key, at its first use.

        Raises:
            NoSuchKey: there is no key of that name.
            KeyLocked: the passphrase does not open it.
        """
        with self._lock:
            if name in self._opened:
                return self._opened[name]
            try:
                pem = self._file(name, "key").read_bytes()
            except FileNotFoundError as error:
                raise NoSuchKey(f"No key is named {name}.", name=name) from error
            try:
                key = serialization.load_pem_private_key(pem, self._key_password())
            except ValueError as error:
                raise KeyLocked(f"The passphrase does not open the key {name}.", name=name) from error
            assert isinstance(key, PrivateKey)
            self._opened[name] = key
            return key

    def _file(self, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise NoSuchKey(f"{name!r} cannot name a key.")
        return self.folder / f"{name}.{suffix}"

    def _key_password(self) -> bytes:
        if self._password is None:
            path = self.folder / "kdf.json"
            if not path.exists():
                fresh = {"kdf": "scrypt", "n": 1 << 15, "r": 8, "p": 1, "salt": secrets.token_hex(16)}
                write_new(path, json.dumps(fresh).encode())
            kdf = json.loads(path.read_bytes())
            self._password = (
                scrypt(
                    self._passphrase, salt=bytes.fromhex(kdf["salt"]), n=kdf["n"], r=kdf["r"], p=kdf["p"],
                    maxmem=256 << 20, dklen=32,
                ).hex().encode()
            )  # fmt: skip
        return self._password


def open_keys(folder: Path, *, create: bool = False) -> KeyStore:
    """Open the key store of a signer's folder, with the passphrase of ``LACHAN_SIGNER_PASSPHRASE`` or of its file.

    The one place that chooses which kind of store an installation has.

    Args:
        folder: the signer's folder (`lachan.settings.Settings.signer_home`).
        create: make a passphrase file when there is neither (``lachan init``).

    Raises:
        KeyLocked: there is no passphrase.
    """
    passphrase = os.environ.get("LACHAN_SIGNER_PASSPHRASE", "").encode()
    path = folder / "passphrase"
    if not passphrase:
        if create and not path.exists():
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            write_new(path, secrets.token_hex(32).encode() + b"\n")
        try:
            passphrase = path.read_bytes().strip()
        except FileNotFoundError as error:
            raise KeyLocked(f"Neither LACHAN_SIGNER_PASSPHRASE nor {path} gives a passphrase.") from error
    return FileKeyStore(folder / "keys", passphrase)
