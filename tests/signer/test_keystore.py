"""The key files: encrypted, never overwritten, opened only with the passphrase."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lachan.program import serve
from lachan.signer.errors import KeyExists, KeyLocked, NoSuchKey
from lachan.signer.keystore import FileKeyStore, open_keys


def test_keys_survive_a_restart_and_sign(tmp_path: Path):
    made = open_keys(tmp_path / "signer", create=True)
    edwards, curve = made.generate("ledger", "ed25519"), made.generate("issuing-ca", "p256")
    again = open_keys(tmp_path / "signer")
    assert again.names() == ["issuing-ca", "ledger"]
    assert "ledger" in again
    assert "other" not in again
    edwards.verify(again.sign("ledger", b"data"), b"data")
    curve.verify(again.sign("issuing-ca", b"data"), b"data", ec.ECDSA(hashes.SHA256()))
    assert again.public("ledger") == edwards


def test_the_file_opens_neither_without_nor_with_the_bare_passphrase(tmp_path: Path):
    store = FileKeyStore(tmp_path / "keys", b"correct horse")
    store.generate("k", "p256")
    pem = (tmp_path / "keys" / "k.key").read_bytes()
    for password in (None, b"correct horse"):
        with pytest.raises((TypeError, ValueError)):
            serialization.load_pem_private_key(pem, password)
    with pytest.raises(KeyLocked):
        FileKeyStore(tmp_path / "keys", b"wrong").sign("k", b"")


def test_a_key_is_never_overwritten(tmp_path: Path):
    store = FileKeyStore(tmp_path / "keys", b"p")
    public = store.generate("k", "p256")
    with pytest.raises(KeyExists):
        store.generate("k", "ed25519")
    assert FileKeyStore(tmp_path / "keys", b"p").public("k") == public
    public.verify(FileKeyStore(tmp_path / "keys", b"p").sign("k", b"data"), b"data", ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("name", ["../k", "K", "", "a/b", "k\n", ".k"])
def test_names_stay_in_the_folder(tmp_path: Path, name: str):
    store = FileKeyStore(tmp_path / "keys", b"p")
    with pytest.raises(NoSuchKey):
        store.generate(name, "p256")
    with pytest.raises(NoSuchKey):
        store.sign(name, b"")


def test_without_a_passphrase_nothing_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LACHAN_SIGNER_PASSPHRASE", raising=False)
    with pytest.raises(KeyLocked):
        open_keys(tmp_path / "signer")
    monkeypatch.setenv("LACHAN_SIGNER_PASSPHRASE", "from the operator")
    made = open_keys(tmp_path / "signer", create=True)
    made.generate("k", "ed25519")
    assert not (tmp_path / "signer" / "passphrase").exists()


def test_the_passphrase_reaches_the_signer_only() -> None:
    given = {"LACHAN_SIGNER_PASSPHRASE": "p", "PATH": "/bin"}
    assert {role: serve.inherited(role, given) for role in serve.ROLES} == {
        role: given if role == "sign" else {"PATH": "/bin"} for role in ("sign", "doors", "detect", "work")
    }
