"""A mark changes with every commit of anybody else, and with nothing else."""

import threading

import sqlalchemy as sa

from lachan import trust
from lachan.database import Database
from lachan.stillness import Stillness
from tests.support.wait import until


def elsewhere(what) -> None:
    thread = threading.Thread(target=what)
    thread.start()
    thread.join(10)


def test_a_mark_changes_with_every_commit(db: Database) -> None:
    eye = db.glances()
    still = Stillness(eye)
    for _ in range(3):
        until(lambda: still.mark() == still.mark(), what="nobody else writes, but for the server's own work")
        before = still.mark()
        db.run(trust.touch)
        assert still.mark() != before
    with db.write() as connection:
        trust.touch(connection)
        connection.execute(sa.text("SELECT 1"))
        open_ = still.mark()
    assert still.mark() != open_, "what was open has committed"
    eye.close()


def test_a_database_that_does_not_answer_has_no_mark_twice(db: Database) -> None:
    eye = db.glances()
    still = Stillness(eye)
    still.mark()
    eye.connection.driver_connection.close()  # type: ignore[union-attr]
    assert still.mark() != still.mark()
    eye.invalidate()
    eye.close()
