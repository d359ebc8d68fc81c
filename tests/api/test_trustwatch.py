"""The door's watch over real doors: nobody before the first view, and a view that was pruned past is replaced."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from api.device.errors import TrustUnknown
from api.device.trustwatch import TrustWatch
from lachan import clock, trust
from lachan.trust import Answer
from lachan.trust_view import View
from tests.api.support import Credential, Town
from tests.api.test_device_access import SELF, ask, contain, refuse, wait_closed
from tests.support.wait import until


@contextmanager
def connected(town: Town, credential: Credential) -> Iterator[ssl.SSLSocket]:
    """A connection on which a device was let in."""
    raw = socket.create_connection(("127.0.0.1", town.ports["device"]), timeout=5)
    with town.context(credential).wrap_socket(raw, server_hostname="localhost") as made:
        made.sendall(f"GET {SELF} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert made.recv(65536).startswith(b"HTTP/1.1 200")
        yield made


class Gate:
    """Holds something back until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def stand(self) -> None:
        self.reached.set()
        assert self.open.wait(20)


def test_a_starting_door_lets_nobody_in_before_its_first_view(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = town.add_device("cam-1")
    credential, gate, load = town.authority.device(camera), Gate(), View.load

    def held(view: View, connection) -> Iterator[None]:
        yield from load(view, connection)
        while not gate.open.is_set():
            gate.reached.set()
            yield

    monkeypatch.setattr(View, "load", held)
    monkeypatch.setattr("api.device.trustwatch.FIRST", 0.1)
    with town.open():
        assert gate.reached.wait(10)
        assert ask(town, credential).json()["reason"] == "trust-unknown"
        gate.open.set()
        until(lambda: ask(town, credential).status_code == 200, timeout=5)


def test_a_door_behind_the_pruning_loads_beside_its_view_which_goes_on_refusing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It slept past two turns of pruning: what it missed must not be let in, what is still told must be heard."""
    missed, heard, fine = (town.add_device(f"cam-{n}") for n in range(3))
    credentials = {each.id: town.authority.device(each) for each in (missed, heard, fine)}
    asleep, loading, look, load = Gate(), Gate(), View.look, View.load
    sleeping, held = threading.Event(), threading.Event()

    def look_later(view: View, *more) -> None:
        if sleeping.is_set():
            asleep.stand()
        look(view, *more)

    def load_slowly(view: View, connection) -> Iterator[None]:
        yield from load(view, connection)
        while held.is_set() and not loading.open.is_set():
            loading.reached.set()
            yield

    monkeypatch.setattr(View, "look", look_later)
    monkeypatch.setattr(View, "load", load_slowly)
    with town.open(), connected(town, credentials[heard.id]) as live:
        assert ask(town, credentials[missed.id]).status_code == 200
        held.set()
        sleeping.set()
        assert asleep.reached.wait(5)
        contain(town, missed.id, Answer.QUARANTINE)
        trust.prune(town.rt.db)
        town.rt.db.run(lambda connection: trust.touch(connection, fine.id))
        trust.prune(town.rt.db)
        sleeping.clear()
        asleep.open.set()
        assert loading.reached.wait(5), "it noticed, and loads"
        contain(town, heard.id, Answer.QUARANTINE)
        wait_closed(live)  # by the old view, which is still brought up to date; the socket's timeout bounds it
        assert ask(town, credentials[missed.id]).status_code in (403, 503)
        assert ask(town, credentials[fine.id]).status_code == 503
        loading.open.set()
        until(lambda: ask(town, credentials[fine.id]).status_code == 200, timeout=10)
        assert ask(town, credentials[missed.id]).json()["reason"] == "quarantine"


def test_a_view_that_was_pruned_past_confirms_nothing(town: Town) -> None:
    camera, heard = town.add_device("cam-1"), []
    watch = TrustWatch(town.rt, on_news=heard.append)
    watch.step()
    until(lambda: (watch.step(), watch._known)[1], timeout=5)
    watch.current()
    contain(town, camera.id, Answer.QUARANTINE)
    trust.prune(town.rt.db)
    town.rt.db.run(trust.touch)
    trust.prune(town.rt.db)
    confirmed = watch._confirmed
    watch.step()
    assert watch._known is not None
    assert watch._known.view.behind
    with pytest.raises(TrustUnknown):
        watch.current()
    assert watch._confirmed == confirmed
    until(lambda: (watch.step(), not watch._known.view.behind)[1], timeout=5)
    assert watch._confirmed > confirmed
    assert watch._known.view.standing(camera.id) is not None
    assert heard[-1].changes is None, "everybody is looked at again"
    watch._look_away()


def test_a_clock_that_is_put_back_has_everything_read_again(town: Town) -> None:
    """What ended while the clock was ahead is in force again."""
    camera = town.add_device("cam-1")
    watch = TrustWatch(town.rt, on_news=lambda _news: None)
    signal = trust.Signal(
        device_id=camera.id, source="containment", answer=Answer.DENY, reason="test", ref="1", since=clock.now(),
        until=clock.now() + timedelta(days=30),
    )  # fmt: skip
    town.rt.db.run(lambda connection: trust.set_signal(connection, signal))
    until(lambda: (watch.step(), watch._known)[1], timeout=5)
    with clock.travel(timedelta(days=36)):
        until(lambda: (watch.step(), watch.current().view.standing(camera.id) is None)[1], timeout=5)
    until(lambda: (watch.step(), watch.current().view.standing(camera.id))[1], timeout=5)
    watch._look_away()


def test_a_failed_load_is_begun_anew(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that could not be read must not be missing from the view that is taken."""
    camera = town.add_device("cam-1")
    contain(town, camera.id, Answer.DENY)
    refuse(town, camera.id, town.authority.device(camera), "revoked")
    load, failed = View.load, []

    def broken(view: View, connection) -> Iterator[None]:
        if not failed:
            failed.append(True)
            raise OSError("the disk says no")
        yield from load(view, connection)

    monkeypatch.setattr(View, "load", broken)
    monkeypatch.setattr("api.device.trustwatch.PAUSE", 0.0)
    watch = TrustWatch(town.rt, on_news=lambda _news: None)
    watch.step()
    watch.step()
    assert failed
    until(lambda: (watch.step(), watch._known)[1], timeout=5)
    assert len(watch.current().view) == 3
    watch._look_away()
