"""Signed notes: the published example of the format, our own, and what is refused."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lachan.ledger.errors import NoteRefused
from lachan.ledger.note import Checkpoint, Verifier, open_checkpoint, open_note, origin_of, parse_checkpoint, sign

# The example of golang.org/x/mod/sumdb/note's documentation.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NOTE = (
    TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
KEY = Ed25519PrivateKey.generate()
MINE = Verifier(origin_of(KEY.public_key().public_bytes_raw()), KEY.public_key().public_bytes_raw())


def test_the_published_example():
    peter = Verifier.parse(PETER)
    assert peter.vkey == PETER
    assert open_note(NOTE, peter) == TEXT
    with pytest.raises(NoteRefused, match="wrong"):
        open_note(NOTE.replace("answer", "Answer"), peter)


def test_a_checkpoint_there_and_back():
    point = Checkpoint(MINE.name, 42, bytes(range(32)))
    note = sign(point.text, MINE, KEY.sign)
    assert Verifier.parse(MINE.vkey + "\n") == MINE
    assert open_checkpoint(note, MINE) == point
    other = Ed25519PrivateKey.generate()
    cosigned = note + "— witness AAAAAAAA\n"
    assert open_checkpoint(cosigned, MINE) == point
    with pytest.raises(NoteRefused, match="not signed by this key"):
        open_checkpoint(note, Verifier(MINE.name, other.public_key().public_bytes_raw()))
    foreign = sign(Checkpoint("elsewhere", 42, bytes(32)).text, MINE, KEY.sign)
    with pytest.raises(NoteRefused, match="another ledger"):
        open_checkpoint(foreign, MINE)


@pytest.mark.parametrize("note", [
    "", "x", "\n\n", "text\n\n", "text\n\n— a\n", "text\n\n- a AAAA\n", "text\n\n— a !!\n", "te\x1bxt\n\n— a AAAA\n", "text\n\n— a AAAA",
])  # fmt: skip
def test_malformed_notes(note: str):
    with pytest.raises(NoteRefused):
        open_note(note, MINE)


@pytest.mark.parametrize("text", [
    "", "o\n", "o\n1\n", "o\n-1\nAAAA\n", "o\n01\n" + base64.b64encode(bytes(32)).decode() + "\n", "o\n1\nAAAA\n",
    "o\n1\nnot base64\n", "\n1\n" + base64.b64encode(bytes(32)).decode() + "\n", "o\n²\n" + base64.b64encode(bytes(32)).decode() + "\n",
])  # fmt: skip
def test_malformed_checkpoints(text: str):
    with pytest.raises(NoteRefused):
        parse_checkpoint(text)


@pytest.mark.parametrize("vkey", [
    "", "name", "name+00000000", PETER.replace("c74f20a3", "c74f20a4"), PETER.replace("Peter", "Paul"),
    "name+00000000+AAAA", "name+00000000+?", "na me" + PETER[12:],
])  # fmt: skip
def test_malformed_keys(vkey: str):
    with pytest.raises(NoteRefused):
        Verifier.parse(vkey)
