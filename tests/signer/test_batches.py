"""Many requests in one message: one fsync, an answer each, turns between senders; and the count per device and hour."""

import asyncio
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from lachan import clock
from lachan.runtime import Runtime
from lachan.signer import dispatch, link, siglog
from lachan.signer.client import SignerClient
from lachan.signer.context import Handler, SignerContext, strict
from lachan.signer.counts import HourlyCounts
from lachan.signer.errors import SignatureRefused, SignerBusy, SignerRefused, SignerUnavailable, TooManySignatures
from lachan.signer.keystore import open_keys
from lachan.signer.server import SignerServer
from tests.pki.support import camera, csr

LOOKS: list[int] = []


def look(signer: SignerContext, requests: list[dict]) -> list[dict]:
    LOOKS.append(len(requests))
    return requests


def sign_word(signer: SignerContext, request: dict, seen: list[dict]) -> dict:
    wanted = strict(request, {"word": str, "device?": str})
    assert request in seen
    if wanted["word"] == "bad":
        raise SignatureRefused("no bad words", subject="bad")
    if wanted["word"] == "broken":
        raise RuntimeError("a bug")
    if wanted["device"]:
        signer.counts.check(wanted["device"])
    data = f"word:{wanted['word']}".encode()
    signature = signer.keys.sign("toy", data)
    signer.signed(wanted["word"], data, device_id=wanted["device"] or "")
    return {"word": wanted["word"], "signature": signature}


WORDS = Handler(look, sign_word)


@pytest.fixture
def toy(rt: Runtime, short_folder: Path) -> Iterator[Runtime]:
    changes = {"signer_socket": short_folder / "s", "signer_device_hour": 3, "signer_rates": {"word": 10_000.0}}
    moved = Runtime(rt.settings.model_copy(update=changes), rt.db, rt.wiring)
    open_keys(moved.settings.signer_home, create=True).generate("toy", "p256")
    LOOKS.clear()
    server = start(moved)
    yield moved
    moved.signer.close()
    server.close()


def start(rt: Runtime) -> SignerServer:
    server = SignerServer(rt.settings, rt.db, signing={"word": f"{__name__}:WORDS"})
    server.start()
    return server


def lines(rt: Runtime) -> list[dict]:
    return [line for _, line in siglog.read(rt.settings.signer_home / "signatures.log")]


async def together(rt: Runtime, *asked: dict, sender: str = "") -> list:
    way = link.SignerLink(rt.settings.signer_path)
    try:
        return await asyncio.gather(
            *(way.request("word", sender=sender, **fields) for fields in asked), return_exceptions=True
        )
    finally:
        await way.close()


def test_one_message_one_look_one_sync_and_an_answer_each(toy: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs, real = [], os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (syncs.append(descriptor), real(descriptor)))
    asked = [{"word": word} for word in ("a", "bad", "broken", "c", "d")] + [{"word": 7}]
    found = asyncio.run(together(toy, *asked))
    assert [each["word"] for each in found if isinstance(each, dict)] == ["a", "c", "d"]
    assert [type(each) for each in found[1:3]] == [SignerRefused, SignerUnavailable]
    assert isinstance(found[5], SignerRefused)
    written = lines(toy)
    assert [line["outcome"] for line in written] == ["signed", "refused", "failed", "signed", "signed", "refused"]
    assert "line 3 of the log" in str(found[2])
    assert LOOKS == [6]
    assert len(syncs) == 1


def test_what_comes_meanwhile_is_the_next_message(toy: Runtime) -> None:
    async def flow() -> list:
        way = link.SignerLink(toy.settings.signer_path)
        first = asyncio.ensure_future(way.request("word", word="first"))
        await asyncio.sleep(0)  # its frame is under way now
        await asyncio.sleep(0)
        rest = await asyncio.gather(*(way.request("word", word=f"w{n}") for n in range(100)))
        await way.close()
        return [await first, *rest]

    found = asyncio.run(flow())
    assert [each["word"] for each in found] == ["first", *(f"w{n}" for n in range(100))]
    assert LOOKS == [1, dispatch.MOST, 100 - dispatch.MOST]


def test_senders_take_turns(toy: Runtime) -> None:
    order: list[str] = []

    async def flow() -> None:
        way = link.SignerLink(toy.settings.signer_path)

        async def ask(sender: str, word: str) -> None:
            await way.request("word", sender=sender, word=word)
            order.append(word)

        flood = [asyncio.ensure_future(ask("flood", f"f{n}")) for n in range(200)]
        await asyncio.sleep(0)
        await ask("quiet", "q")
        assert len(order) <= dispatch.MOST
        await asyncio.gather(*flood)
        await way.close()

    asyncio.run(flow())
    assert len(order) == 201


def test_a_sender_has_bounded_room(toy: Runtime) -> None:
    found = asyncio.run(together(toy, *({"word": f"w{n}"} for n in range(link.ROOM + 5)), sender="flood"))
    assert sum(isinstance(each, SignerBusy) for each in found) == 5
    assert sum(isinstance(each, dict) for each in found) == link.ROOM


def test_the_link_finds_a_signer_that_was_started_again(toy: Runtime, rt: Runtime, short_folder: Path) -> None:
    settings = toy.settings.model_copy(update={"signer_socket": short_folder / "t", "data": rt.settings.data / "other"})
    open_keys(settings.signer_home, create=True).generate("toy", "p256")
    moved = Runtime(settings, rt.db, rt.wiring)

    async def flow() -> None:
        way = link.SignerLink(settings.signer_path)
        with pytest.raises(SignerUnavailable):
            await way.request("word", word="nobody")
        for _ in range(2):
            server = await asyncio.to_thread(start, moved)
            assert (await way.request("word", word="a"))["word"] == "a"
            await asyncio.to_thread(server.close)
            await asyncio.sleep(0.01)  # the loop learns of the end of the stream
        await way.close()

    asyncio.run(flow())


def test_where_there_was_company_a_frame_waits_some_turns_of_the_loop_for_it(toy: Runtime) -> None:
    async def ask() -> None:
        way = link.SignerLink(toy.settings.signer_path)
        await asyncio.gather(*(way.request("word", word=word) for word in "ab"))
        first = asyncio.create_task(way.request("word", word="c"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.gather(first, way.request("word", word="d"))
        assert LOOKS == [2, 2]
        for word in "efghi":
            await way.request("word", word=word)
        alone = asyncio.create_task(way.request("word", word="j"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.gather(alone, way.request("word", word="k"))
        assert LOOKS[2:] == [1] * 7, "who asks alone waits for nobody"
        await way.close()

    asyncio.run(ask())


def test_a_signer_that_says_nothing_is_waited_for_so_long_and_the_next_frame_is_of_a_new_connection(
    toy: Runtime, short_folder: Path
) -> None:
    async def ask() -> None:
        heard: list[asyncio.StreamWriter] = []

        async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(writer)

        server = await asyncio.start_unix_server(mute, short_folder / "mute")
        way = link.SignerLink(short_folder / "mute", timeout=0.2)
        began = asyncio.get_running_loop().time()
        with pytest.raises(SignerUnavailable):
            await way.request("word", word="a")
        assert asyncio.get_running_loop().time() - began < 5
        way.path, way.timeout = toy.settings.signer_path, 30.0
        found = await asyncio.gather(*(way.request("word", word=word) for word in "bc"))
        assert [each["word"] for each in found] == ["b", "c"]
        assert len(heard) == 1
        await way.close()
        with pytest.raises(SignerUnavailable):
            await link.SignerLink(short_folder / "nobody").request("word", word="a")
        heard[0].close()
        server.close()

    asyncio.run(ask())


@pytest.mark.parametrize("items", [[], [{"word": "a"}] * (dispatch.MOST + 1), [7], "x", None])
def test_messages_of_other_shapes_fail(toy: Runtime, items: object) -> None:
    from lachan.signer import wire

    client = SignerClient(toy.settings.signer_path)
    connection = client._take()
    wire.send(connection, {"kind": "word", "items": items})
    assert "1 to 64 items" in wire.receive(connection)["failed"]
    connection.close()


def test_the_signer_counts_per_device_and_tells_once(toy: Runtime) -> None:
    asked = [{"word": f"w{n}", "device": "d-1"} for n in range(6)] + [{"word": "other", "device": "d-2"}]
    found = asyncio.run(together(toy, *asked))
    assert [isinstance(each, dict) for each in found] == [True, True, True, False, False, False, True]
    assert all(isinstance(each, SignerBusy) and 1 <= each.fields["retry_after"] <= 3600 for each in found[3:6])
    outcomes = [(line["outcome"], line.get("device_id")) for line in lines(toy)]
    assert outcomes == [("signed", "d-1")] * 3 + [("refused", None), ("signed", "d-2")]


def test_the_counts_survive_a_restart_and_end_with_the_hour(rt: Runtime, short_folder: Path) -> None:
    changes = {"signer_socket": short_folder / "s", "signer_device_hour": 3, "signer_rates": {"word": 10_000.0}}
    moved = Runtime(rt.settings.model_copy(update=changes), rt.db, rt.wiring)
    open_keys(moved.settings.signer_home, create=True).generate("toy", "p256")
    with clock.travel(timedelta(hours=1) - timedelta(minutes=clock.now().minute)):  # the hour has just begun
        for expected in (True, True, True, False):
            server = start(moved)
            found = asyncio.run(together(moved, {"word": "a", "device": "d-1"}))
            server.close()
            assert isinstance(found[0], dict) is expected
        with clock.travel(timedelta(hours=1)):
            server = start(moved)
            assert isinstance(asyncio.run(together(moved, {"word": "a", "device": "d-1"}))[0], dict)
            server.close()


def test_counts_never_tell_too_few_and_keep_their_memory() -> None:
    counts = HourlyCounts(100)
    for n in range(3000):
        counts.add(f"device-{n % 1000}")
    assert all(3 <= counts.count(f"device-{n}") <= 4 for n in range(1000))
    assert counts.count("nobody") == 0
    for _ in range(300):
        counts.add("busy")
    with pytest.raises(TooManySignatures):
        counts.check("busy")


def test_the_log_is_read_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = siglog.SignatureLog(tmp_path / "log")
    with clock.travel(-timedelta(hours=2)):
        log.append("old", [{"subject": str(n), "digest": "", "outcome": "signed"} for n in range(500)])
    log.append("new", [{"subject": str(n), "digest": "", "outcome": "signed"} for n in range(500)])
    log.close()
    monkeypatch.setattr(siglog, "WINDOW", 4096)
    since = clock.now() - timedelta(hours=1)
    assert [line["kind"] for line in siglog.since(tmp_path / "log", since)] == ["new"] * 500
    assert len(list(siglog.since(tmp_path / "log", since - timedelta(hours=3)))) == 1000


def test_one_message_of_enrolments_is_read_at_one_moment(signer_rt: Runtime) -> None:
    from pki import csr as requests

    cams = [camera(signer_rt, f"cam-{n}") for n in range(5)]
    spki = requests.read(csr()).spki

    async def flow() -> list:
        way = link.SignerLink(signer_rt.settings.signer_path)
        ids = [*(cam.id for cam in cams), "nobody", "nul\0"]
        asked = (way.request("issue", profile="camera", device_id=device_id, spki=spki) for device_id in ids)
        found = await asyncio.gather(*asked, return_exceptions=True)
        await way.close()
        return found

    found = asyncio.run(flow())
    assert [isinstance(each, dict) for each in found] == [True] * 5 + [False] * 2
    assert {line.get("device_id") for line in lines(signer_rt) if line.get("device_id")} == {cam.id for cam in cams}
