"""Views of trust on PostgreSQL, where a change that was numbered first may commit last (design decision 21)."""

import threading
from collections.abc import Callable

import sqlalchemy as sa

from lachan import trust
from lachan.database import Database
from tests.lachan.test_trust_view import *  # noqa: F403
from tests.lachan.test_trust_view import Follower, contain, follower, signal  # noqa: F401


def elsewhere(what: Callable[[], object]) -> None:
    """Do something in another thread, as another process would."""
    thread = threading.Thread(target=what)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def numbered(connection: sa.Connection) -> None:
    """Have what waits for its turn sent: the change gets its number, the transaction goes on."""
    connection.execute(sa.text("SELECT 1"))


def test_a_change_that_was_numbered_first_and_commits_last_is_seen(db: Database, follower: Follower) -> None:  # noqa: F811
    with db.write() as first:
        trust.set_signal(first, signal("a"))
        numbered(first)
        elsewhere(lambda: contain(db, "b"))  # waits for nobody: no row is everybody's
        follower.look()
        assert follower.kept_out() == {"b"}
        older, newer = (trust.last_number(first, each) for each in ("a", "b"))
        assert older < newer
        assert not follower.view.position.covers(older)
        assert follower.view.position.covers(newer)
    assert follower.look().kept_out() == {"a", "b"}
    assert follower.view.position.covers(older)


def test_a_transaction_left_open_makes_nobody_read_again(db: Database, follower: Follower) -> None:  # noqa: F811
    """Behind one horizon all that is above it would be read at every look, for as long as somebody stays open."""
    with db.write() as first:
        trust.set_signal(first, signal("a"))
        numbered(first)
        elsewhere(lambda: contain(db, *(f"d{n}" for n in range(30))))
        follower.look()
        told = len(follower.told)
        for _ in range(3):
            follower.look()
        assert len(follower.told) == told
        elsewhere(lambda: contain(db, "last"))
        assert [each.devices for each in follower.look().told[told:]] == [{"last"}]
    assert follower.look().told[-1].devices == {"a"}


def test_one_open_transaction_with_more_than_a_slice(db: Database, follower: Follower) -> None:  # noqa: F811
    with db.write() as first:
        for n in range(1100):
            trust.set_signal(first, signal(f"d{n}"))
        numbered(first)
        elsewhere(lambda: contain(db, *(f"e{n}" for n in range(1100))))
        assert len(follower.look().kept_out()) == 1100
    assert len(follower.look().kept_out()) == 2200


def test_a_restored_database_counts_from_the_start(db: Database) -> None:
    """Numbers of another cluster are higher than any here: they are passed over, make nobody behind, and are pruned."""
    far = 2**40
    with db.write() as connection:
        connection.execute(trust.trust_changes.insert(), [{"txid": far + n, "device_id": f"old{n}"} for n in range(3)])
        connection.execute(trust.trust_pruned.insert().values(id=1, number=far, next=far))
    follower = Follower(db)  # noqa: F811
    contain(db, "a")
    follower.look()
    assert [each.devices for each in follower.told] == [{"a"}]
    assert not follower.view.behind
    trust.prune(db)
    with db.read() as connection:
        left = connection.execute(sa.select(trust.trust_changes.c.device_id)).scalars().all()
        assert not trust.reached(connection, far)
    assert left == ["a"]
    assert not follower.look().view.behind
    follower.eye.close()
