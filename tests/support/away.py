"""Databases that are busy or away for a while, and the log lines in which roles say so."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg


@contextmanager
def locked_file(database: Path) -> Iterator[None]:
    """Hold SQLite's write lock as a program does that knows nothing of our gate."""
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def locked_tables(url: str, *tables: str) -> Iterator[None]:
    """Hold tables of PostgreSQL so that nobody may even read them."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=False) as connection:
        connection.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


def lines(log: Path, start: int = 0) -> list[dict[str, Any]]:
    """The JSON lines that an installation logged from an offset on; what is no JSON comes as ``{"text": …}``."""
    found = []
    with log.open("rb") as file:
        file.seek(start)
        for line in file.read().decode("utf-8", "replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"text": line})
    return found
