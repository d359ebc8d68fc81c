"""The signer over its socket: answers, refusals, limits, and what the log and the ledger keep of them."""

import json
import os
import threading
from pathlib import Path

import pytest

from lachan.runtime import Runtime
from lachan.signer import siglog
from lachan.signer.client import SignerClient
from lachan.signer.context import SignerContext, strict
from lachan.signer.errors import SignatureRefused, SignerBusy, SignerRefused, SignerRuns, SignerUnavailable
from lachan.signer.keystore import open_keys
from lachan.signer.server import SignerServer
from lachan.work import outbox
from tests.support.wait import until


def sign_word(signer: SignerContext, request: dict) -> dict:
    """A handler of this test: signs one word of its own, never the caller's bytes."""
    wanted = strict(request, {"word": str, "note?": str})
    if wanted["word"] == "bad":
        raise SignatureRefused("no bad words", subject="bad")
    if wanted["word"] == "broken":
        raise RuntimeError("a bug")
    data = f"word:{wanted['word']}".encode()
    signature = signer.keys.sign("toy", data)
    if wanted["word"] != "unlogged":
        signer.signed(wanted["word"], data)
    return {"signature": signature}


@pytest.fixture
def toy(rt: Runtime, short_folder: Path):
    settings = rt.settings.model_copy(update={"signer_socket": short_folder / "s", "signer_rates": {"few": 0.0001}})
    moved = Runtime(settings, rt.db, rt.wiring)
    open_keys(settings.signer_home, create=True).generate("toy", "p256")
    handlers = {"word": f"{__name__}:sign_word", "few": f"{__name__}:sign_word"}
    server = SignerServer(settings, rt.db, signing=handlers)
    server.start()
    yield moved
    moved.signer.close()
    server.close()


def lines(rt: Runtime) -> list[dict]:
    return [line for _, line in siglog.read(rt.settings.signer_home / "signatures.log")]


def refusals(rt: Runtime) -> list:
    with rt.db.read() as connection:
        return [stored.event for stored in outbox.read(connection, names=("SignatureRefused",))]


def test_a_signature_is_in_the_log_before_its_answer(toy: Runtime):
    answer = toy.signer.request("word", word="one")
    assert isinstance(answer["signature"], bytes)
    (line,) = lines(toy)
    assert (line["n"], line["kind"], line["subject"], line["outcome"]) == (1, "word", "one", "signed")
    assert line["uid"] == os.getuid()
    assert line["pid"] == os.getpid()
    assert len(line["digest"]) == 64


def test_refusals_reach_the_log_and_the_ledger(toy: Runtime):
    for fields in ({"word": "bad"}, {"word": "x", "ca": True}, {"word": 7}, {}):
        with pytest.raises(SignerRefused):
            toy.signer.request("word", **fields)
    with pytest.raises(SignerRefused, match="knows no request"):
        toy.signer.request("bytes", data=b"anything")
    until(lambda: len(refusals(toy)) == 5)
    found = refusals(toy)
    assert found[0].subject == "bad"
    assert "'ca'" in found[1].reason
    assert "'word' is int" in found[2].reason
    assert "lacks the field 'word'" in found[3].reason
    assert [event.number for event in found] == [1, 2, 3, 4, 5]


def test_refusals_do_not_wait_for_a_caller_who_holds_the_write_lock(toy: Runtime):
    with toy.db.write() as connection:
        connection.exec_driver_sql("SELECT 1")
        with pytest.raises(SignerRefused):
            toy.signer.request("word", word="bad")
        with toy.db.read() as other:
            assert outbox.read(other, names=("SignatureRefused",)) == []
    until(lambda: len(refusals(toy)) == 1)


def test_a_failure_tells_nothing_and_an_unlogged_signature_is_withheld(toy: Runtime):
    with pytest.raises(SignerUnavailable) as caught:
        toy.signer.request("word", word="broken")
    assert "a bug" not in str(caught.value)
    assert lines(toy)[0]["outcome"] == "failed"
    with pytest.raises(SignerUnavailable, match="recorded no signature"):
        toy.signer.request("word", word="unlogged")


def test_the_rate_of_a_kind_is_limited_and_the_flood_is_logged_once(toy: Runtime):
    toy.signer.request("few", word="a")
    for _ in range(20):
        with pytest.raises(SignerBusy) as caught:
            toy.signer.request("few", word="c")
    assert caught.value.fields["retry_after"] >= 1
    assert toy.signer.request("word", word="other kinds go on")
    assert [line["outcome"] for line in lines(toy)] == ["signed", "refused", "signed"]


def test_threads_share_the_log_without_losing_a_line(toy: Runtime):
    def work(name: str) -> None:
        for i in range(25):
            toy.signer.request("word", word=f"{name}{i}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(toy)
    assert [line["n"] for line in found] == list(range(1, 151))
    assert len({line["subject"] for line in found}) == 150


def test_own_requests_sign_nothing(toy: Runtime):
    toy.signer.request("word", word="one")
    assert toy.signer.request("ping") == {"keys": ["toy"], "kinds": ["few", "word"]}
    assert toy.signer.request("public", name="toy")["spki"].startswith(b"0Y0")
    answer = toy.signer.request("log", after=0)
    assert answer["lines"][0][1]["subject"] == "one"
    assert toy.signer.request("log", after=answer["size"])["lines"] == []
    with pytest.raises(SignerRefused):
        toy.signer.request("public", name="../passphrase")


def test_no_signer_and_a_restarted_signer(rt: Runtime, short_folder: Path):
    open_keys(rt.settings.signer_home, create=True)
    with pytest.raises(SignerUnavailable, match="No signer listens"):
        SignerClient(short_folder / "nobody").request("ping")
    settings = rt.settings.model_copy(update={"signer_socket": short_folder / "t"})
    client = SignerClient(short_folder / "t")
    for _ in range(2):  # the second time the client holds a connection to the signer that is gone
        server = SignerServer(settings, rt.db, signing={})
        server.start()
        assert client.request("ping")["kinds"] == []
        server.close()
    client.close()


def test_garbage_ends_the_connection_and_nothing_else(toy: Runtime):
    import socket

    for garbage in (b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x05hello", b"\0\0\0\x09"):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(toy.settings.signer_path))
            raw.settimeout(5)
            raw.sendall(garbage)
            raw.shutdown(socket.SHUT_WR)
            assert raw.recv(100) == b""
    for message in (b'{"kind":"word"}', b'{"kind":3,"fields":{}}', b'{"kind":"word","fields":[]}'):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(toy.settings.signer_path))
            raw.settimeout(5)
            raw.sendall(len(message).to_bytes(4, "big") + message)
            assert "failed" in json.loads(raw.recv(1000)[4:])
    assert toy.signer.request("ping")


def test_a_user_who_is_not_allowed_is_not_heard(rt: Runtime, short_folder: Path):
    open_keys(rt.settings.signer_home, create=True)
    settings = rt.settings.model_copy(update={"signer_socket": short_folder / "t"})
    server = SignerServer(settings, rt.db, signing={})
    server.allowed = {os.getuid() + 1}
    server.start()
    client = SignerClient(short_folder / "t")
    with pytest.raises(SignerRefused, match="may not ask"):
        client.request("ping")
    client.close()
    server.close()
    until(lambda: any("may not ask" in event.reason for event in refusals(rt)))


def test_the_files_are_closed_to_others(toy: Runtime):
    toy.signer.request("word", word="one")
    home = toy.settings.signer_home
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.rglob("*")}
    assert modes["keys"] == 0o700
    assert modes["toy.key"] == modes["passphrase"] == modes["kdf.json"] == 0o600
    assert toy.settings.signer_path.stat().st_mode & 0o777 == 0o660


def test_one_signer_per_folder(toy: Runtime):
    with pytest.raises(SignerRuns):
        SignerServer(toy.settings, toy.db, signing={})
    assert toy.signer.request("ping")
