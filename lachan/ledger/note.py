"""Signed notes and checkpoints (C2SP signed-note and tlog-checkpoint), with Ed25519.

A note is its text, an empty line, and signature lines ``— <name> <base64(key hash ‖ signature)>``. A checkpoint's text is
three lines: origin, size, root in base64. The public key travels as one line, ``name+hash+key`` (C2SP signed-note, "vkey").
Limits: Ed25519 only; unknown signatures are skipped as the specification says; extension lines are kept, not understood.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lachan.ledger.errors import NoteRefused

ED25519 = b"\x01"
_MARK = "— "


@dataclass(frozen=True)
class Verifier:
    """A named public key; ``public`` is the raw 32 bytes."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not self.name or any(c.isspace() or c == "+" or not c.isprintable() for c in self.name):
            raise NoteRefused("A key's name may hold neither spaces nor '+'.")
        if len(self.public) != 32:
            raise NoteRefused("An Ed25519 public key has 32 bytes.")

    @classmethod
    def parse(cls, vkey: str) -> "Verifier":
        """Read a key line.

        Raises:
            NoteRefused: it is malformed, of another algorithm, or its hash does not fit.
        """
        parts = vkey.strip().split("+", 2)
        if len(parts) != 3:
            raise NoteRefused("A public key line is name+hash+key.")
        name, digest, encoded = parts
        key = _base64(encoded, "public key")
        if key[:1] != ED25519:
            raise NoteRefused("The public key is not Ed25519.")
        found = cls(name, key[1:])
        if found.hash.hex() != digest.lower():
            raise NoteRefused("The public key's hash does not fit its name and bytes.")
        return found

    @property
    def hash(self) -> bytes:
        """Give the four bytes that name the key in a signature line."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        """Spell the key as one line."""
        return f"{self.name}+{self.hash.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a log: ``size`` leaves under ``root``."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """Spell the three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def origin_of(public: bytes) -> str:
    """Name a ledger after its own key, so that no two installations share one."""
    return f"lachan/{hashlib.sha256(public).hexdigest()[:16]}"


def sign(text: str, verifier: Verifier, signing: Callable[[bytes], bytes]) -> str:
    """Sign a text that ends in a newline, as a note; ``signing`` makes the raw signature."""
    signature = base64.b64encode(verifier.hash + signing(text.encode())).decode()
    return f"{text}\n{_MARK}{verifier.name} {signature}\n"


def open_note(note: str, verifier: Verifier) -> str:
    """Give the text of a note, once its signature by this key is checked.

    Raises:
        NoteRefused: the note is malformed, not signed by this key, or the signature is wrong.
    """
    text, gap, tail = note.rpartition("\n\n")
    if not gap or not tail.endswith("\n") or any(ord(c) < 0x20 and c != "\n" for c in note):
        raise NoteRefused("This is no signed note.")
    text += "\n"
    for line in tail[:-1].split("\n"):
        name, space, encoded = line.removeprefix(_MARK).partition(" ")
        if not line.startswith(_MARK) or not space:
            raise NoteRefused("A signature line of the note is malformed.")
        signature = _base64(encoded, "signature")
        if name != verifier.name or signature[:4] != verifier.hash:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(verifier.public).verify(signature[4:], text.encode())
        except InvalidSignature as error:
            raise NoteRefused("The note's signature is wrong: its text was changed, or the key is another.") from error
        return text
    raise NoteRefused("The note is not signed by this key.")


def open_checkpoint(note: str, verifier: Verifier) -> Checkpoint:
    """Give a checkpoint, once its signature is checked.

    Raises:
        NoteRefused: as `open_note`; or the text is no checkpoint of the ledger that the key names.
    """
    found = parse_checkpoint(open_note(note, verifier))
    if found.origin != verifier.name:
        raise NoteRefused("The checkpoint belongs to another ledger.")
    return found


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint's text without checking any signature.

    Raises:
        NoteRefused: it is none.
    """
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0]:
        raise NoteRefused("A checkpoint has three lines: origin, size, root.")
    origin, size, encoded = lines[:3]
    if not (size.isascii() and size.isdigit()) or (size != "0" and size.startswith("0")) or len(size) > 18:
        raise NoteRefused("A checkpoint's size is a plain decimal number.")
    root = _base64(encoded, "root")
    if len(root) != 32:
        raise NoteRefused("A checkpoint's root has 32 bytes.")
    return Checkpoint(origin, int(size), root)


def _base64(text: str, what: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteRefused(f"The {what} is not base64.") from error
    if base64.b64encode(raw).decode() != text:
        raise NoteRefused(f"The {what} is not canonical base64.")
    return raw
