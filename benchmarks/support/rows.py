"""Rows in bulk, straight in the database: what would take hours through the doors, before anything is measured.

A row that the command line made is the pattern; the copies differ in their names and keys only, so a column that is added
later comes along by itself. Columns that are unique and have no value of their own get random hex. This is the one module
that knows names of tables.
"""

import base64
import hashlib
import hmac
import os
import sqlite3
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from benchmarks.support.est import Candidate
from benchmarks.support.installation import Installation

SITE = "bench"


class Rows:
    """The database of an installation that is not served just now."""

    def __init__(self, lab: Installation) -> None:
        self.lab = lab
        url = lab.env.get("LACHAN_DATABASE_URL") or f"sqlite:///{lab.data / 'lachan.db'}"
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)
        self.postgres = self.engine.dialect.name == "postgresql"

    def hex(self, octets: int) -> str:
        """Give the SQL of random hex."""
        if self.postgres:
            return f"substr({' || '.join(['md5(random()::text || i)'] * -(-octets // 16))}, 1, {2 * octets})"
        return f"lower(hex(randomblob({octets})))"

    def number(self, width: int) -> str:
        """Give the SQL of the row's number ``i`` with leading zeros."""
        return f"lpad(i::text, {width}, '0')" if self.postgres else f"printf('%0{width}d', i)"

    def copy(self, table: str, pattern: str, first: int, count: int, **values: str) -> None:
        """Copy one row many times.

        Args:
            table: its name.
            pattern: the SQL condition that selects the row to copy.
            first: number of the first copy, ``i`` in the values.
            count: how many copies.
            values: SQL of the columns that differ.
        """
        look = sa.inspect(self.engine)
        columns = {column["name"]: column for column in look.get_columns(table)}
        alone: list[list[str | None]] = [list(found["column_names"]) for found in look.get_unique_constraints(table)]
        alone += [found["column_names"] for found in look.get_indexes(table) if found.get("unique")]
        for names in alone:
            if len(names) == 1 and names[0] in columns and names[0] not in values:
                values[str(names[0])] = self.hex(16)
        chosen = ", ".join(f'"{name}"' for name in columns)
        given = ", ".join(values.get(name, f'o."{name}"') for name in columns)
        for start in range(first, first + count, 50_000):
            last = min(start + 50_000, first + count) - 1
            series = f"(SELECT generate_series({start}, {last}) AS i) n"
            if not self.postgres:
                series = f"(WITH RECURSIVE s(i) AS (SELECT {start} UNION ALL SELECT i + 1 FROM s WHERE i < {last}) SELECT i FROM s) n"
            one = f"(SELECT * FROM {table} WHERE {pattern} LIMIT 1) o"
            self.run(f"INSERT INTO {table} ({chosen}) SELECT {given} FROM {series}, {one}")

    def run(self, statement: str) -> None:
        """Run one statement in a transaction of its own."""
        with self.engine.connect() as connection:
            if not self.postgres:  # nobody else has it open
                connection.exec_driver_sql("PRAGMA synchronous = OFF")
                connection.exec_driver_sql("PRAGMA cache_size = -500000")
                connection.commit()
            connection.exec_driver_sql(statement)
            connection.commit()

    def ask(self, query: str) -> list[Any]:
        """Read rows."""
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql(query))

    def one(self, query: str) -> int:
        """Read one number."""
        return int(self.ask(query)[0][0])

    def checkpoint(self) -> None:
        """Leave the database as after a rest: SQLite's log folded in, PostgreSQL's statistics made."""
        if self.postgres:
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")
                connection.exec_driver_sql("CHECKPOINT")
            return
        with closing(sqlite3.connect(self.lab.data / "lachan.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def devices(
    lab: Installation, count: int, *, prefix: str = "bench", site: str = SITE, first: int = 0, state: str = "registered"
) -> Rows:
    """Register ``count`` devices named ``<prefix>-<number of 7 digits>``, like one that `device add` made."""
    rows = Rows(lab)
    name = f"{prefix}-pattern-{first}"
    lab.lachan("device", "add", name, "--vendor", "Bench", "--model", "B1", "--serial-number",
               f"{prefix}p{first}", "--site", site, "--criticality", "normal")  # fmt: skip
    family = hashlib.sha256(prefix.encode()).hexdigest()[:8]
    rows.copy(
        "devices", f"name = '{name}'", first, count,
        id=f"'{family}-0000-7000-8000-' || {rows.number(12)}",
        name=f"'{prefix}-' || {rows.number(7)}",
        serial_number=f"'{prefix}-' || {rows.number(7)}",
        state=f"'{state}'",
    )  # fmt: skip
    return rows


def candidates(lab: Installation, count: int, *, prefix: str = "bench", first: int = 0) -> list[Candidate]:
    """Register devices, each with a one-time secret (kept as HMAC-SHA-256 under the installation's pepper)."""
    rows = devices(lab, count, prefix=prefix, first=first)
    lab.lachan("pki", "secret", "issue", f"{prefix}-pattern-{first}")
    pepper = (lab.data / "pepper").read_bytes()
    made = []
    for number in range(first, first + count):
        secret = "lce_" + base64.b32encode(os.urandom(20)).decode().lower()
        made.append(Candidate(f"{prefix}-{number:07}", secret))
    kept = [hmac.new(pepper, one.secret.encode(), hashlib.sha256).hexdigest() for one in made]
    family = hashlib.sha256(prefix.encode()).hexdigest()[:8]
    pattern = f"device_id = (SELECT id FROM devices WHERE name = '{prefix}-pattern-{first}')"
    rows.run("CREATE TABLE bench_digests (i INTEGER PRIMARY KEY, digest VARCHAR(64))")
    with rows.engine.begin() as connection:
        table = sa.table("bench_digests", sa.column("i"), sa.column("digest"))
        connection.execute(table.insert(), [{"i": first + n, "digest": digest} for n, digest in enumerate(kept)])
    rows.copy(
        "pki_enrolment_secrets", pattern, first, count,
        id=f"'{family}-0000-7000-8001-' || {rows.number(12)}",
        device_id=f"'{family}-0000-7000-8000-' || {rows.number(12)}",
        digest="(SELECT b.digest FROM bench_digests b WHERE b.i = n.i)",
    )  # fmt: skip
    rows.run("DROP TABLE bench_digests")
    rows.checkpoint()
    return made


def grow(lab: Installation, count: int) -> None:
    """Fill in ``count`` devices, each with a certificate like the one that a device of the installation has."""
    rows = devices(lab, count, prefix="grown", site="elsewhere", state="enrolled")
    family = hashlib.sha256(b"grown").hexdigest()[:8]
    rows.copy(
        "pki_certificates", "profile = 'camera'", 0, count,
        id=f"'{family}-0000-7000-8002-' || {rows.number(12)}",
        device_id=f"'{family}-0000-7000-8000-' || {rows.number(12)}",
        serial_number=rows.hex(16), fingerprint=rows.hex(32), spki_sha256=rows.hex(32),
    )  # fmt: skip
    rows.checkpoint()
