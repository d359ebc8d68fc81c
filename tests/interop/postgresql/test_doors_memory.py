"""Answers from memory on PostgreSQL: one look for all who ask, and none older than the bound of ADR 0032."""

import asyncio
import time

import sqlalchemy as sa

from api import memory
from api.memory import Marks
from lachan.database import insert_ignore
from lachan.runtime import Runtime
from pki.models import revisions
from tests.api.test_status_memory import *  # noqa: F403


def bump(rt: Runtime, authority: str) -> None:
    """Do what every change of a certificate's state does."""
    with rt.db.write() as connection:
        insert_ignore(connection, revisions, {"authority": authority, "revision": 0}, index=("authority",))
        connection.execute(revisions.update().values(revision=revisions.c.revision + 1))


def test_marks_are_looked_at_once_for_all_and_no_later_than_the_bound(rt: Runtime) -> None:
    marks, looks = Marks(rt.db), []
    read = marks._read_marks

    def counted(connection: sa.Connection) -> list[object]:
        looks.append(time.monotonic())
        return read(connection)

    marks._read_marks = counted  # type: ignore[method-assign]

    async def run() -> None:
        assert marks.fresh() is None
        first = await asyncio.gather(*(marks.now() for _ in range(50)))
        assert len(looks) == 1
        assert len({id(mark) for mark in first}) == 1
        for number in range(1, 6):
            await asyncio.to_thread(bump, rt, "issuing")
            committed = time.monotonic()
            while (await marks.now()).revisions.get("issuing", 0) < number:
                assert time.monotonic() - committed < memory.LOOK + 2  # a busy machine's look takes its time
            told = looks[-1] - committed
            assert told < memory.LOOK + 0.5
        before = len(looks)
        until = time.monotonic() + 5 * memory.LOOK
        asked = 0
        while time.monotonic() < until:
            await marks.now()
            asked += 1
        assert asked > 20 and len(looks) - before <= 7  # kept in between

    asyncio.run(run())
    marks.close()
