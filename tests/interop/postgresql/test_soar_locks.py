"""Lock order and the trust version on PostgreSQL (issue 6, must show 1)."""

import threading

import sqlalchemy as sa

from lachan import clock, trust
from lachan.runtime import Runtime
from lachan.statements import Statement
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


def test_a_transaction_bumps_the_version_once_and_what_follows_reads_it(rt: Runtime) -> None:
    c = trust.trust_signals.c
    noted = trust.trust_signals.update().values(
        detail=sa.cast(sa.select(trust.trust_version.c.version).scalar_subquery(), sa.Text)
    )
    note = Statement(noted.where(c.ref == sa.bindparam("ref_")))
    with rt.db.read() as connection:
        before = trust.version(connection)

    def unit(connection: sa.Connection) -> None:
        trust.touch(connection, then=[(note, {"ref_": signal("a").ref})])
        trust.set_signal(connection, signal("a"))
        assert trust.version(connection) == before

    rt.db.run(unit)
    with rt.db.read() as connection:
        assert trust.version(connection) == before + 1
        assert trust.signals(connection, "a")[0].detail == str(before + 1)
