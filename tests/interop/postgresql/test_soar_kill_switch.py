"""The kill switch on PostgreSQL: nothing starves it, and its very first turn is ordered against who has looked."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from lachan.runtime import Runtime
from soar_playbooks.containment import approvals, service
from soar_playbooks.models import kill_switch
from tests.soar_playbooks.support import ADMIN, rows
from tests.soar_playbooks.test_kill_switch import *  # noqa: F403
from tests.soar_playbooks.test_kill_switch import LONG, asked, many, settings  # noqa: F401

WAITS = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


class Held:
    """A unit of work in a thread of its own that has done its part and commits when it is told to."""

    def __init__(self, rt: Runtime, unit: Callable[[sa.Connection], Any], *, hold: bool) -> None:
        self.rt, self.unit, self.found = rt, unit, list[Any]()
        self.done, self.let_go = threading.Event(), threading.Event()
        if not hold:
            self.let_go.set()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with self.rt.db.write() as connection:
            self.found.append(self.unit(connection))
            self.done.set()
            self.let_go.wait(LONG)

    def ends(self) -> Any:
        self.let_go.set()
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        return self.found[0]


def somebody_waits(rt: Runtime) -> bool:
    """Whether, before long, a session of this database waits for a lock."""
    ticks = threading.Event()
    for _ in range(1000):
        with rt.db.read() as connection:
            if connection.execute(WAITS).scalar_one():
                return True
        ticks.wait(0.01)
    return False


def switch_on(connection: sa.Connection) -> None:
    approvals.set_kill_switch(connection, ADMIN, active=True, reason="stop")


@pytest.mark.parametrize("first", [True, False], ids=["first-ever", "turned-before"])
def test_the_switch_waits_for_a_containment_that_has_looked(rt: Runtime, first: bool) -> None:
    (device,) = many(rt, 1)
    if not first:
        rt.db.run(lambda c: approvals.set_kill_switch(c, ADMIN, active=False, reason="go"))
    contains = Held(rt, lambda c: service.request(rt, c, asked(device.id)), hold=True)
    assert contains.done.wait(LONG)
    turns = Held(rt, switch_on, hold=False)
    assert somebody_waits(rt)
    assert not turns.done.is_set()
    assert contains.ends().state == "active"
    turns.ends()
    assert rows(rt, kill_switch)[0]["active"] is True


@pytest.mark.parametrize("first", [True, False], ids=["first-ever", "turned-before"])
def test_a_containment_waits_for_a_switch_that_is_being_turned_and_sees_it(rt: Runtime, first: bool) -> None:
    (device,) = many(rt, 1)
    if not first:
        rt.db.run(lambda c: approvals.set_kill_switch(c, ADMIN, active=False, reason="go"))
    turns = Held(rt, switch_on, hold=True)
    assert turns.done.wait(LONG)
    contains = Held(rt, lambda c: service.request(rt, c, asked(device.id)), hold=False)
    assert somebody_waits(rt)
    assert not contains.done.is_set()
    turns.ends()
    assert contains.ends().guard == "kill-switch"
