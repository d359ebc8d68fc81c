"""What the signer asks of whatever holds the private keys: files today (`lachan.signer.keystore`), a token later.

Keys are met by their names, and only what they sign comes out: a key of a PKCS#11 token never leaves it, so there is no
way here to ask for one. A store is used by several threads at once.
"""

from typing import Literal, Protocol, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
KeyKind: TypeAlias = Literal["p256", "ed25519"]


class KeyStore(Protocol):
    """Named key pairs that make signatures."""

    def names(self) -> list[str]:
        """List the names of all keys, sorted."""

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a key of that name."""

    def generate(self, name: str, kind: KeyKind) -> PublicKey:
        """Make a key and keep it.

        Raises:
            KeyExists: there is one of that name; it stays as it is.
        """

    def public(self, name: str) -> PublicKey:
        """Read the public half.

        Raises:
            NoSuchKey: there is no key of that name.
        """

    def sign(self, name: str, data: bytes) -> bytes:
        """Sign: Ed25519 as it is, P-256 as ECDSA over SHA-256 in DER.

        Raises:
            NoSuchKey: there is no key of that name.
            KeyLocked: the store cannot be opened.
        """

    def sign_digest(self, name: str, digest: bytes) -> bytes:
        """Sign what is too large to be held as bytes, by its SHA-256 (P-256 only): ECDSA in DER.

        Raises:
            NoSuchKey: there is no P-256 key of that name.
            KeyLocked: the store cannot be opened.
        """
