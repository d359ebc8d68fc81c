"""Scripts: what is to be asked of the database, written once for threads and for event loops (ADR 0036).

A script is a generator: it yields statements (`lachan.statements.Call`), is sent what came of them, and returns its result.
`play` runs one in a transaction that somebody else has begun; on PostgreSQL `lachan.loop_postgres` runs many of them on an
event loop, without a thread each. What a script yields as `Last` ends its unit of work: there COMMIT leaves with it, in
the same flush. Limits: nothing but statements is asked; a statement that must meet a row says so itself
(`Statement(exact=True)`), since after `Last` nothing can be taken back.
"""

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import sqlalchemy as sa

from lachan.statements import Call, Done, pipeline

R = TypeVar("R")


class Last(list[Call]):
    """The last statements of a unit of work."""


Script = Generator[Sequence[Call], Sequence[Done], R]
Make = Callable[[], Script[R]]  # a unit may run again, so what is handed over makes its script


def play(connection: sa.Connection, script: Script[R]) -> R:
    """Run a script in the transaction of a connection and give its result.

    Raises:
        Exception: what the script raised.
        sqlalchemy.exc.DBAPIError: of a statement.
    """
    try:
        asked = next(script)
        while True:
            asked = script.send(pipeline(connection, asked))
    except StopIteration as end:
        found: R = end.value
        return found
    finally:
        script.close()
