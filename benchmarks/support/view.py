"""Rows of the trust view: what four door processes cost and how soon they see a change, while very much is contained.

Everything that stands is written straight into the database before it is served: devices, signals, refused certificates. A
change is one transaction of ours beside lachan's, without any wake-up: what is measured is the doors' own looking. Whether
it is seen is asked over one kept connection to each of the four processes: the device's answer turns to ``limited``, which
no door closes a connection for.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from benchmarks.support import cpu, est, rows
from benchmarks.support.enrolment import enrolled
from benchmarks.support.installation import Checkout, Installation
from benchmarks.support.table import Row

DOORS = 4
SIZES = (1_000_000, 100_000, 200)  # devices; contained, and refused certificates; changes
QUICK = (5_000, 2_000, 20)
EVERY = 0.005  # seconds between two questions on one connection
AT_REST = 20.0  # seconds
PATIENCE = 30.0


def measure(checkout: Checkout, *, postgres: bool, quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Fill, serve, measure: rest, memory, changes, and a storm of changes."""
    where = "PostgreSQL" if postgres else "SQLite"
    devices, held, changes = QUICK if quick else SIZES
    with Installation(checkout, postgres=postgres, settings={"LACHAN_DOORS": str(DOORS)}) as lab:
        first = rows.candidates(lab, 1, prefix="first")
        lab.open()
        (one,) = enrolled(lab, first)
        lab.settle()
        lab.close()
        say(f"{where}: filling {devices} devices, {held} contained, {held} refused certificates")
        filled = rows.devices(lab, devices, prefix="grown", site="elsewhere", state="enrolled")
        hold(filled, held)
        filled.checkpoint()
        began = time.monotonic()
        lab.open()
        ready = time.monotonic() - began
        doors = {name: pid for name, pid in lab.pids.items() if name.startswith("doors")}
        say(f"{where}: at rest")
        rest = resting(doors, AT_REST / 4 if quick else AT_REST)
        device_id = filled.ask("SELECT id FROM devices WHERE name = 'first-0000000'")[0][0]
        with Watchers(lab, one, doors) as watchers:
            say(f"{where}: {changes} changes")
            took = [watchers.seen(filled, device_id, on=number % 2 == 0) for number in range(changes)]
            say(f"{where}: a storm of {held // 10} changes")
            storm = watchers.storm(filled, device_id, held // 10)
            refused = watchers.others
        memory = {name: pss(pid) for name, pid in doors.items()}
    took.sort()
    name = f"{{}}, {where}"
    return [
        Row(name.format("change seen by four doors, p50"), 1000 * took[len(took) // 2], "ms"),
        Row(name.format("change seen by four doors, longest"), 1000 * took[-1], "ms", note=f"{len(took)} changes"),
        Row(name.format("door at rest, the busiest"), 1000 * max(rest.values()), "ms CPU a second"),
        Row(name.format("memory of a door, the largest"), max(memory.values()), "MB (PSS)"),
        Row(name.format("answers other than 200"), float(refused), "of all that were asked"),
        Row(name.format(f"storm of {held // 10} changes seen by four doors"), 1000 * storm, "ms"),
        Row(name.format("start to at rest"), ready, "s", note="all roles, four doors"),
    ]


def hold(filled: rows.Rows, count: int) -> None:
    """Contain so many devices (half of them for a time), and refuse a certificate of each."""
    some = f"(SELECT id, row_number() OVER () AS i FROM devices WHERE site = 'elsewhere' LIMIT {count}) n"
    since, until = (_moment(datetime.now(UTC) + timedelta(days=days)) for days in (-1, 300))
    filled.run(
        "INSERT INTO trust_signals (device_id, source, ref, answer, reason, detail, since, until) SELECT n.id, 'containment',"
        f" n.id, 'quarantine', 'contained-quarantine', 'A detection shows that the device is compromised.', '{since}',"
        f" CASE WHEN i & 1 = 0 THEN {'CAST' if filled.postgres else ''}('{until}'{' AS timestamptz' if filled.postgres else ''})"
        f" END FROM {some}"
    )
    filled.run(
        "INSERT INTO trust_refused_certificates (tbs_sha256, issuer_serial, device_id, reason, until)"
        f" SELECT {filled.hex(32)}, {filled.hex(32)}, n.id, 'suspended', '{until}' FROM {some}"
    )


def resting(doors: dict[str, int], seconds: float) -> dict[str, float]:
    """CPU seconds a second of each door when nobody asks for anything."""
    before = {name: cpu.precise({name: pid}) for name, pid in doors.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {name: (cpu.precise({name: pid}) - before[name]) / took for name, pid in doors.items()}


def pss(pid: int) -> float:
    """Proportional set size of a process, in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no Pss of {pid}")


class Watchers:
    """One kept connection to each door process, asked again and again.

    Attributes:
        others: answers that were no 200.
    """

    def __init__(self, lab: Installation, device: est.Enrolled, doors: dict[str, int]) -> None:
        self._port = int(lab.urls["device"].rpartition(":")[2])
        self._context = ssl.create_default_context(cafile=str(lab.root))
        self._context.load_cert_chain(device.certificate, device.key)
        self._stop, self._answers = threading.Event(), dict[int, tuple[str, float]]()
        self.others = 0
        self._links = self._one_each(set(doors.values()))
        self._threads = [threading.Thread(target=self._ask, args=pair) for pair in self._links.items()]

    def __enter__(self) -> Self:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and close the connections."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for link in self._links.values():
            link.close()

    def seen(self, filled: rows.Rows, device_id: str, *, on: bool) -> float:
        """Make one change; gives the seconds until all doors tell it."""
        time.sleep(0.013)  # so that changes fall anywhere between two looks
        return self._until(change(filled, [device_id], on=on), "limited" if on else "allow")

    def storm(self, filled: rows.Rows, device_id: str, count: int) -> float:
        """Change so many devices in one transaction, the asked one last; gives the seconds until all doors tell it."""
        listed = filled.ask(f"SELECT id FROM devices WHERE site = 'elsewhere' ORDER BY id DESC LIMIT {count}")
        return self._until(change(filled, [*(row[0] for row in listed), device_id], on=True), "limited")

    def _until(self, began: float, wanted: str) -> float:
        while True:
            told = list(self._answers.values())
            if len(told) == len(self._links) and all(answer == wanted for answer, _ in told):
                return max(0.0, *(at - began for _, at in told))
            if time.monotonic() - began > PATIENCE:
                raise TimeoutError(f"the doors tell {told}, not {wanted}")
            time.sleep(0.001)

    def _ask(self, pid: int, link: ssl.SSLSocket) -> None:
        while not self._stop.is_set():
            link.sendall(b"GET /device/v1/self HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head, _, body = link.recv(65536).partition(b"\r\n\r\n")
            if b" 200 " not in head[:15]:
                self.others += 1
            answer = "limited" if b'"answer":"limited"' in body else "allow" if b'"answer":"allow"' in body else "?"
            if self._answers.get(pid, ("", 0.0))[0] != answer:
                self._answers[pid] = (answer, time.monotonic())
            time.sleep(EVERY)

    def _one_each(self, pids: set[int]) -> dict[int, ssl.SSLSocket]:
        found: dict[int, ssl.SSLSocket] = {}
        for _ in range(400):
            raw = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
            own = raw.getsockname()[1]
            link = self._context.wrap_socket(raw, server_hostname="localhost")
            owner = _owner(self._port, own, pids - found.keys())
            if owner is None:
                link.close()
            else:
                found[owner] = link
            if len(found) == len(pids):
                return found
        raise RuntimeError(f"only {len(found)} of {len(pids)} door processes took a connection")


def change(filled: rows.Rows, device_ids: list[str], *, on: bool) -> float:
    """Set or take back a signal of devices, in one transaction; gives when it had committed."""
    number = "pg_current_xact_id()::text::bigint" if filled.postgres else "0"
    signal = "INSERT INTO trust_signals (device_id, source, ref, answer, reason, detail, since) VALUES (:d, 'bench', 'b', 'limited', 'bench', '', :now)"
    gone = "DELETE FROM trust_signals WHERE device_id = :d AND source = 'bench'"
    told = f"INSERT INTO trust_changes (txid, device_id) VALUES ({number}, :d)"
    now = datetime.now(UTC) if filled.postgres else _moment(datetime.now(UTC))
    values = [{"d": device_id, "now": now} for device_id in device_ids]
    with filled.engine.begin() as connection:
        connection.execute(sa.text(signal if on else gone), values if on else [{"d": each["d"]} for each in values])
        connection.execute(sa.text(told), [{"d": each["d"]} for each in values])
    return time.monotonic()


def _owner(port: int, client: int, pids: set[int]) -> int | None:
    """The process that has the door's end of a connection, if it is one of these."""
    for line in Path("/proc/net/tcp").read_text("utf-8").splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[2].endswith(f":{client:04X}"):
            for pid in pids:
                for each in Path(f"/proc/{pid}/fd").iterdir():
                    try:
                        if os.readlink(each) == f"socket:[{fields[9]}]":
                            return pid
                    except FileNotFoundError:
                        continue
    return None


def _moment(at: datetime) -> str:
    return at.replace(tzinfo=None).isoformat(" ", "microseconds")
