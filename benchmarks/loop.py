"""How fast the loop closes, what issuing and ingest cost, and what each role weighs at rest.

    .venv/bin/python benchmarks/loop.py [--runs 100] [--json FILE]

One lachan on SQLite and loopback, as `lachan serve` starts it. Each run is a device of its own that enrols, holds a
connection open, sends the recorded attack about itself, and is cut off by the signed playbook:

* event → alert: from sending the deciding line to the alert at the people door (asked every 5 ms);
* event → refused: from the same moment to the first refusal on the connection held open (asked every 5 ms);
* EST and ingest: per CPU-second (user and system, from /proc) of all server processes together, clients not counted;
* memory: proportional set size of each role before any load (what is shared is counted once in the sum).

Wall times on a shared machine are noisy; the CPU figures and the ratios are what to compare.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lachan import clock
from lachan.demo import replay
from lachan.demo.camera import DemoDevice, Watch
from lachan.demo.city import City
from lachan.demo.story import CONTAINED, Story, enforce

GOALS = {"alert_ms": (150, 500), "refused_ms": (150, 500), "memory_mb": 400}
BUDGETS = {f"LACHAN_BUDGET_{name}": "100000" for name in ("SITE", "MODEL", "DETECTOR", "SENDER")}


def main() -> int:
    """Measure, print one table, write JSON when asked; returns 0 when every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--lines", type=int, default=20_000, help="benign lines for the ingest figure")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lachan-bench-"))
    city = City(folder, settings=BUDGETS)
    try:
        found = measure(city, args.runs, args.lines)
    except BaseException:
        log = folder / "lachan.log"
        print(log.read_text("utf-8")[-4000:] if log.exists() else "", file=sys.stderr)
        raise
    finally:
        city.close()
        shutil.rmtree(folder, ignore_errors=True)
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return 0 if all(row["met"] is not False for row in found["rows"]) else 1


def measure(city: City, runs: int, lines: int) -> dict[str, Any]:
    """All figures, as rows of name, value, unit, goal, met."""
    city.found()
    city.open()
    weight = memory(city)
    story = Story(city)
    story.people["admin"] = city.admin()
    story.people["an"] = city.person(story.admin, "an", "analyst")
    enforce(story)
    devices = [device(city, story, number) for number in range(runs)]
    before = cpu(city)
    for made, secret in devices:
        answer = made.enrol(secret)
        assert answer["ok"], answer
    issued = runs / (cpu(city) - before)
    ingested = ingest(city, devices[0][0], lines)
    times = [one(city, story, made) for made, _ in devices[1:]]
    rows = [
        *spread("event → alert", [alert for alert, _ in times], GOALS["alert_ms"]),
        *spread("event → refused", [refused for _, refused in times], GOALS["refused_ms"]),
        row("EST simpleenroll, fresh TLS each", issued, "certificates per server CPU-second"),
        row("ingest of log lines", ingested, "lines per server CPU-second"),
        *(row(f"memory of {role}", size, "MB (PSS)") for role, size in weight.items()),
        row("memory in all", sum(weight.values()), "MB (PSS)", goal=GOALS["memory_mb"]),
    ]
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    return {"command": "benchmarks/loop.py", "runs": len(times), "machine": machine, "rows": rows}


def device(city: City, story: Story, number: int) -> tuple[DemoDevice, str]:
    """Register one device and get its secret."""
    name = f"bench-{number:04}"
    body = {"name": name, "vendor": "Bench", "model": "B1", "serial_number": str(number), "site": "bench"}
    made = story.admin.post("/api/v1/devices", body)
    story.device_ids[name] = made["id"]
    story.admin.ask("PATCH", f"/api/v1/devices/{made['id']}", json={"criticality": "normal"})
    secret = story.admin.post(f"/api/v1/devices/{made['id']}/secret", {"profile": "camera"})["secret"]
    folder = city.folder / name
    folder.mkdir()
    words = {"name": name, "folder": folder, "door": city.urls["device"], "root": str(city.root), "tuf_root": ""}
    return DemoDevice(Namespace(**words)), secret


def one(city: City, story: Story, made: DemoDevice) -> tuple[float, float]:
    """One device turns: (event → alert, event → refused) in milliseconds."""
    own = [pair.replace(b"recording-", f"{made.name}-".encode()) for pair in replay.ending(replay.ATTACK, clock.now())]
    success = replay.before(own, b"auth succeeded")
    watch = Watch(made)
    watch.start()
    city.wait(lambda: watch.changes, "the open connection", every=0.005)
    assert made.bulk(b"".join(own[:success]).decode())["ok"]
    sent = time.time()
    assert made.bulk(b"".join(own[success:]).decode())["ok"]
    mine = story.device_ids[made.name]
    path = f"/api/v1/alerts?device_id={mine}"

    def seen() -> bool:
        return any(a["outcome"] == "success" for a in story.people["an"].get(path)["items"])

    city.wait(seen, "the alert", every=0.005)
    alert = (time.time() - sent) * 1000

    def cut() -> float | None:
        return next((at for at, state in watch.changes if at >= sent and state in CONTAINED), None)

    refused = (city.wait(cut, "the refusal", every=0.005) - sent) * 1000
    watch.stop()
    return alert, refused


def ingest(city: City, made: DemoDevice, lines: int) -> float:
    """Lines per CPU-second of all server processes, until the last line was looked at."""
    # Logins are left out: an ordinary day repeated forty times a second is a storm, and the detector says so.
    ordinary = [pair for pair in replay.ending(replay.BENIGN, clock.now()) if b"assword" not in pair]
    before, sent = cpu(city), 0
    batch = 0
    while sent < lines:
        batch += 1
        own = [pair.replace(b"benign-", f"bench-{batch}-".encode()) for pair in ordinary * 40]
        pairs = [pair.replace(b'"_id": "', b'"_id": "%d-' % place) for place, pair in enumerate(own)]
        answer = made.bulk(b"".join(pairs).decode())
        if answer["status"] == 429:  # the detector is behind: the sender keeps its lines and waits, as it should
            batch -= 1
            time.sleep(1)
            continue
        assert answer["ok"], answer["error"]
        sent += len(pairs)
    idle = cpu(city)
    while True:  # the detector may still be at it: wait until a second costs next to nothing
        time.sleep(1)
        now = cpu(city)
        if now - idle < 0.25:
            return sent / (now - before)
        idle = now


def pids(city: City) -> dict[str, int]:
    """Process ids of the supervisor and of every role."""
    return {"supervisor": city.urls["pid"], **city.urls["roles"]}


def cpu(city: City) -> float:
    """CPU seconds that all server processes have used."""
    tick = os.sysconf("SC_CLK_TCK")
    total = 0
    for pid in pids(city).values():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / tick


def memory(city: City) -> dict[str, float]:
    """Proportional set size of each process, in MB."""
    found = {}
    for role, pid in pids(city).items():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        size = next(line for line in lines if line.startswith("Pss:"))
        found[role] = int(size.split()[1]) / 1024
    return found


def spread(name: str, values: list[float], goals: Any) -> list[dict[str, Any]]:
    """Rows for the median and the 99th percentile."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return [
        row(f"{name}, p50", statistics.median(ordered), "ms", goal=goals[0]),
        row(f"{name}, p99", p99, "ms", goal=goals[1]),
    ]


def row(name: str, value: float, unit: str, *, goal: float | None = None) -> dict[str, Any]:
    """One line of the table; goals are upper bounds."""
    return {
        "name": name,
        "value": round(value, 1),
        "unit": unit,
        "goal": goal,
        "met": None if goal is None else value <= goal,
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{found['runs']} runs, {found['machine']}", file=sys.stderr)
    for line in found["rows"]:
        goal = "" if line["goal"] is None else f"≤ {line['goal']:g} {'met' if line['met'] else 'MISSED'}"
        print(f"{line['name']:<36} {line['value']:>10.1f}  {line['unit']:<38} {goal}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
