"""Helpers of the detection tests: senders, devices, batches."""

import json
import random
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import lachan.demo.recording as recordings
from lachan import clock
from lachan.devices import Criticality, NewDevice, register
from lachan.identity import Principal, PrincipalKind, Role, system
from lachan.recording import shift
from lachan.runtime import Runtime
from lachan.work import outbox
from siem_rules import bulk, ingest, ruleset
from siem_rules.delivery import Sender
from siem_rules.detector import Detector
from siem_rules.models import alerts

RECORDING = Path(recordings.__file__).parent / "recording.bulk"
BENIGN = Path(recordings.__file__).parent / "benign.bulk"
#: Names of the rules that the recorded attack raises, once each.
EXPECTED = ("busybox_probe", "exec_from_shared_folder", "loader_fetch", "ssh_login_after_storm", "ssh_login_storm")


def device(
    rt: Runtime, name: str, *, site: str = "ward-7", criticality: Criticality = Criticality.UNKNOWN, **more: Any
) -> Principal:
    """Register a device and return the principal that its certificate would make."""
    with rt.db.write() as connection:
        made = register(
            connection,
            NewDevice(name=name, vendor="acme", model="cam-1", serial_number=f"sn-{name}", site=site, **more),
            actor=system("test"),
            criticality=criticality,
        )
    return Principal(kind=PrincipalKind.DEVICE, id=made.id, name=name, roles=frozenset({Role.DEVICE}), vendor="acme")


def collector(name: str, site: str | None = "ward-7") -> Principal:
    """A collector with a token for one site."""
    return Principal(
        kind=PrincipalKind.COLLECTOR, id=f"id-{name}", name=name, roles=frozenset({Role.COLLECTOR}), site=site
    )


def shifted(path: Path, to: datetime | None = None) -> bytes:
    """A recording whose first line is a minute ago (or at a given time)."""
    return shift(path.read_bytes(), to or clock.now() - timedelta(minutes=1))


def pairs(body: bytes) -> list[tuple[bytes, bytes]]:
    """Action and document lines of a body, in pairs."""
    lines = body.rstrip(b"\n").split(b"\n")
    return list(zip(lines[::2], lines[1::2], strict=True))


def joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    """The body of such pairs."""
    return b"\n".join(line for pair in parts for line in pair) + b"\n"


def delayed(body: bytes, seed: int, seconds: float = 60) -> bytes:
    """The body as it arrives when each line is delayed by up to some seconds."""
    chance = random.Random(seed)

    def arrival(pair: tuple[bytes, bytes]) -> float:
        return datetime.fromisoformat(json.loads(pair[1])["@timestamp"]).timestamp() + chance.uniform(0, seconds)

    return joined(sorted(pairs(body), key=arrival))


def documents(*found: dict[str, Any], ids: str = "") -> bytes:
    """A body of documents; with ``ids`` each has an ``_id`` made of it and its number."""
    parts = []
    for number, document in enumerate(found):
        action = {"create": {"_index": "logs"} | ({"_id": f"{ids}{number}"} if ids else {})}
        parts.append((json.dumps(action).encode(), json.dumps(document).encode()))
    return joined(parts)


def send(rt: Runtime, sender: Principal, body: bytes, *, batch: str = "") -> ingest.BulkAnswer:
    """Deliver a body as somebody, the way the doors do."""
    return ingest.instance(rt).deliver(Sender.of(sender), bulk.read(body), batch=batch)


def rule_names() -> dict[str, str]:
    """Rule id → name."""
    return {rule.id: rule.name for rule in ruleset.ours().all}


def raised(rt: Runtime) -> Counter[str]:
    """How often each rule has raised an alert, by the facts."""
    with rt.db.read() as connection:
        facts = outbox.read(connection, names=("AlertRaised",), limit=5000)
    return Counter(rule_names()[fact.event.rule_id] for fact in facts)


def episodes(rt: Runtime, sender: str) -> list[tuple[str, datetime, datetime]]:
    """Rule, first and last moment of a collector's alerts, merged ones left out."""
    with rt.db.read() as connection:
        rows = connection.execute(sa.select(alerts).where(alerts.c.merged_into.is_(None))).mappings().all()
    label = f"collector:{sender}"
    return sorted(
        (rule_names()[row["rule_id"]], row["first_at"], row["last_at"]) for row in rows if row["senders"] == [label]
    )


def detect(rt: Runtime) -> Detector:
    """Run a fresh detector over all that is new."""
    detector = Detector(rt, ruleset.ours())
    while detector.round():
        pass
    detector.commit()
    return detector
