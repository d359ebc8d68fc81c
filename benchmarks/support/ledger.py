"""Sealing, exporting and verifying a large ledger: CPU-seconds and peak memory of the commands that people run.

The events are written straight into the table, each as the outbox would have written it. Then, with nothing but a signer
running, ``lachan ledger checkpoint`` seals all of it, ``export`` writes a file and ``verify`` checks it. The yardstick does
the same with fewer events, because it keeps all of them in memory: rates are compared, memory stands beside the size.
"""

import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.support import cpu
from benchmarks.support.installation import Checkout, Installation
from benchmarks.support.rows import Rows
from benchmarks.support.table import Row

COUNT, QUICK, OLD = 1_000_000, 20_000, 100_000
CHUNK = 20_000
COLUMNS = ("id", "name", "actor", "device_id", "vendor", "happened_at", "recorded_at", "body", "leaf_hash", "txid")
Say = Callable[[str], None]
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True)
class Figures:
    """What one side spent on ``events``: CPU seconds and, of the command alone, peak resident megabytes."""

    events: int
    seal: float
    export: tuple[float, float]
    verify: tuple[float, float]
    megabytes: float


def measure(
    sides: list[Checkout], *, postgres: bool = False, quick: bool = False, count: int | None = None, say: Say
) -> list[Row]:
    """Measure each side.

    Args:
        sides: ours first, then the yardstick, if it is there.
        postgres: on PostgreSQL instead of SQLite.
        quick: a small ledger.
        count: events of ours; the yardstick has at most `OLD`.
        say: told of each step.
    """
    count = count or (QUICK if quick else COUNT)
    found = [
        one(side, count if place == 0 else min(count, OLD), postgres=postgres, say=say)
        for place, side in enumerate(sides)
    ]
    return rows(found, sides, "PostgreSQL" if postgres else "SQLite")


def rows(found: list[Figures], sides: list[Checkout], database: str) -> list[Row]:
    """Put figures into rows."""
    ours, old = found[0], found[1] if len(found) > 1 else None
    beside = sides[1].name if old else ""
    size = f"{ours.events:,} events" + (f", peer {old.events:,}" if old else "")

    def rate(name: str, mine: float, theirs: float | None) -> Row:
        peer = old.events / theirs if old and theirs else None
        return Row(f"ledger {name}, {database}", ours.events / mine, beside=beside, peer=peer, note=size)

    def memory(name: str, mine: float, theirs: float | None) -> Row:
        return Row(f"ledger {name} memory, {database}", mine, "MB", beside, theirs, size)

    return [
        rate("seal", ours.seal, old and old.seal),
        rate("export", ours.export[0], old and old.export[0]),
        memory("export", ours.export[1], old and old.export[1]),
        Row(f"ledger export size, {database}", ours.megabytes * 1e6 / ours.events, "bytes an event", beside,
            old and old.megabytes * 1e6 / old.events, size),
        rate("verify", ours.verify[0], old and old.verify[0]),
        memory("verify", ours.verify[1], old and old.verify[1]),
    ]  # fmt: skip


def one(side: Checkout, count: int, *, postgres: bool, say: Say) -> Figures:
    """Make a ledger of ``count`` events and measure what is done with it."""
    with Installation(side, postgres=postgres) as lab:
        say(f"{side.name}: {count:,} events are written")
        events = Rows(lab)
        generate(events, count)
        events.checkpoint()
        file, key = lab.folder / "export.ndjson", lab.folder / "key"
        with _signer(lab) as pid:
            say(f"{side.name}: sealing")
            before = cpu.trees(_server(lab, pid))
            seal, _ = _command(lab, "ledger", "checkpoint")
            seal += sum(cpu.trees(_server(lab, pid)).values()) - sum(before.values())
            say(f"{side.name}: exporting")
            before = cpu.trees(_server(lab, pid))
            spent, peak = _command(lab, "ledger", "export", "-o", str(file))
            spent += sum(cpu.trees(_server(lab, pid)).values()) - sum(before.values())
        key.write_text(lab.lachan("ledger", "key")["key"] + "\n")
        say(f"{side.name}: verifying {file.stat().st_size / 1e6:.0f} MB")
        verify = _command(lab, "ledger", "verify", str(file), "--key", str(key))
        return Figures(count, seal, (spent, peak), verify, file.stat().st_size / 1e6)


def generate(rows: Rows, count: int) -> None:
    """Write ``count`` facts about 1000 devices of 10 vendors, as the outbox would: canonical JSON, salt and leaf hash."""
    began = datetime(2026, 11, 1, tzinfo=UTC)
    names = ", ".join(COLUMNS)
    for first in range(0, count, CHUNK):
        made = [_event(number, began) for number in range(first, min(first + CHUNK, count))]
        with rows.engine.begin() as connection:  # the driver's own ways: the fastest that there are
            driver = connection.connection.driver_connection
            assert driver is not None
            if rows.postgres:
                with driver.cursor() as cursor, cursor.copy(f"COPY events ({names}) FROM STDIN") as copy:
                    for event in made:
                        copy.write_row(event)
            else:
                driver.executemany(f"INSERT INTO events ({names}) VALUES ({', '.join('?' * len(COLUMNS))})", made)


def _event(number: int, began: datetime) -> tuple[object, ...]:
    moment = (began + timedelta(milliseconds=10 * number)).isoformat(sep=" ", timespec="microseconds")
    text = moment[:26].replace(" ", "T") + "Z"
    device, vendor = f"0be9c0de-0000-7000-8000-{number % 1000:012}", f"v{number % 10}"
    event_id = f"0be9c0de-{number >> 16 & 0xFFFF:04x}-7{number & 0xFFF:03x}-8000-{number:012x}"
    body = (
        f'{{"actor":"system:bench","data":{{"alert_id":"a{number}","comment":"{"x" * 60}"}},"device_id":"{device}",'
        f'"happened_at":"{text}","id":"{event_id}","name":"AlertCommented","recorded_at":"{text}",'
        f'"salt":"{os.urandom(16).hex()}","vendor":"{vendor}"}}'
    ).encode()
    leaf = hashlib.sha256(b"\0" + body).digest()
    return event_id, "AlertCommented", "system:bench", device, vendor, moment[:26], moment[:26], body, leaf, 1


@contextmanager
def _signer(lab: Installation) -> Iterator[int]:
    """Run the signer alone; gives its process."""
    line = [str(lab.checkout.python), "-m", "lachan", "serve", "--role", "sign"]
    with (lab.folder / "log").open("ab") as log:
        process = subprocess.Popen(line, env=lab.env, cwd=lab.checkout.top, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not any(lab.data.rglob("signer.sock")):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{lab.checkout.name}: the signer did not start")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _server(lab: Installation, signer: int) -> dict[str, int]:
    return {"sign": signer} | ({"postgresql": lab.cluster.pid} if lab.cluster else {})


def _command(lab: Installation, *words: str) -> tuple[float, float]:
    """Run a command; give its CPU seconds and its peak memory in megabytes.

    The peak is read while it runs: what the kernel tells afterwards counts the parent before the exec, too.

    Raises:
        RuntimeError: it failed.
    """
    line, peak = [str(lab.checkout.python), "-m", "lachan", *words], 0
    with (lab.folder / "out").open("w+b") as out:
        process = subprocess.Popen(line, env=lab.env, cwd=lab.checkout.top, stdout=out, stderr=out)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if found := _PEAK.search(_status(process.pid)):
                peak = max(peak, int(found[1]))
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            out.seek(0)
            raise RuntimeError(f"{lab.checkout.name}: lachan {' '.join(words[:2])}: {out.read()[-1000:]!r}")
    return usage.ru_utime + usage.ru_stime, peak / 1000


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it ended meanwhile
        return ""
