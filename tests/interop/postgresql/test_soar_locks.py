"""Lock order and the trust version on PostgreSQL (issue 6, must show 1)."""

import threading

from lachan import clock, trust
from lachan.runtime import Runtime
from tests.soar_playbooks.test_lock_order import *  # noqa: F403
from tests.soar_playbooks.test_lock_order import settings  # noqa: F401


def signal(device_id: str) -> trust.Signal:
    return trust.Signal(
        device_id=device_id, source="test", answer=trust.Answer.DENY, reason="test", ref="1", since=clock.now()
    )


def test_a_change_waits_for_no_other_and_a_door_misses_none(rt: Runtime) -> None:
    """The first to change commits last: the version must tell of it then, or a door would never look again."""
    seen = []
    with rt.db.write() as first:
        trust.set_signal(first, signal("a"))
        second = threading.Thread(target=lambda: rt.db.run(lambda c: trust.set_signal(c, signal("b"))))
        second.start()
        second.join(10)
        assert not second.is_alive()
        with rt.db.read() as connection:
            seen.append(trust.snapshot(connection))
    with rt.db.read() as connection:
        seen.append(trust.snapshot(connection))
    assert [sorted(found.decisions) for found in seen] == [["b"], ["a", "b"]]
    assert seen[1].version > seen[0].version


def test_a_version_is_told_inside_the_transaction_that_it_numbers(rt: Runtime) -> None:
    told: list[int] = []

    def unit(connection: object) -> None:
        trust.touch(connection, told=told.append)  # type: ignore[arg-type]
        trust.set_signal(connection, signal("a"))  # type: ignore[arg-type]
        assert told == []

    rt.db.run(unit)
    with rt.db.read() as connection:
        assert told == [trust.version(connection)]
