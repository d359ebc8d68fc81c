"""A town with something on every page of the console: devices, alerts, runs, containments, verdicts, releases.

What rooms write by their own functions is written so; what needs a signer or a detector is put into the tables directly,
as those would leave it. Names and log lines carry what an attacker would write there.
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from lachan import clock, devices
from lachan.devices import Criticality, Device, NewDevice
from lachan.enforcement import Level
from lachan.events import AlertRaised, CertificateIssued, FirmwareInstalled, RunStarted, VerdictChanged
from lachan.identity.principal import system
from lachan.ids import new_id
from lachan.work import outbox
from ota_signing import bins
from ota_signing.models import artifacts, releases
from ota_signing.statement import ReleaseStatement
from pki.models import certificates
from posture.catalogue import catalogue
from posture.models import verdicts
from siem_rules.models import alerts
from soar_playbooks.containment import effects, service
from soar_playbooks.containment.service import Request
from soar_playbooks.models import containments, playbook_versions, run_journal, runs
from tests.api.support import SETUP, Session, Town

HOSTILE = 'root<script>alert(1)</script>"\u202egnp.exe\u2066 https://evil.example/\u0007'
PLAYBOOK = "playbook--694acdac-23ea-466c-aa07-2dc2a6c38a8e"
STEP = "action--8570d5c6-2abb-407e-bf2e-2cdb9605b9ba"


@dataclass
class Console:
    """The town, and the ids of what stands in it."""

    town: Town
    devices: dict[str, Device] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    people: dict[str, Session] = field(default_factory=dict)
    browsers: ExitStack = field(default_factory=ExitStack)


def furnish(town: Town) -> Console:
    """Fill a town."""
    made = Console(town)
    _devices(made)
    _certificates(made)
    _alerts(made)
    _runs(made)
    _containment(made)
    _verdicts(made)
    _release(made)
    return made


def _devices(made: Console) -> None:
    rows = [
        ("cam-0042", "Thăng Long Vision", "TL-200", "Phường Hoàn Kiếm", "normal"),
        ("cam-0043", "Thăng Long Vision", "TL-200", "Phường Hoàn Kiếm", "essential"),
        ("cam-0044", "Thăng Long Vision", "TL-200", "Phường Ba Đình", "normal"),
        ("gate-0007", "Sông Hồng IoT", "SH-G1", "Phường Tây Hồ", "life_safety"),
        ("meter-0100", "Sông Hồng IoT", "SH-M4 <b>x</b>", "", "unknown"),
    ]
    with made.town.rt.db.write() as connection:
        for name, vendor, model, ward, criticality in rows:
            new = NewDevice(
                name=name, vendor=vendor, model=model, serial_number=f"SN-{name}", site="hoan-kiem", ward=ward,
                owner="Sở Xây dựng", place="12 Hàng Bài" if ward else "",
            )  # fmt: skip
            device = devices.register(connection, new, actor=SETUP, criticality=Criticality(criticality))
            if name != "meter-0100":
                values = {
                    "state": "enrolled",
                    "firmware_version": "2.0.1",
                    "last_seen": clock.now() - timedelta(minutes=3),
                }
                connection.execute(devices.devices.update().where(devices.devices.c.id == device.id).values(**values))
            made.devices[name] = devices.get(connection, device.id)


def _der(serial: str) -> bytes:
    """A certificate of that serial number; nothing but its bytes is looked at here."""
    key, now = ec.generate_private_key(ec.SECP256R1()), clock.now()
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), int(serial, 16), now, now + timedelta(days=90))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _certificates(made: Console) -> None:
    now = clock.now()
    with made.town.rt.db.write() as connection:
        for number, (name, device) in enumerate(made.devices.items()):
            if name == "meter-0100":
                continue
            serial = f"{0x5A00 + number:040x}"
            connection.execute(
                certificates.insert().values(
                    id=new_id(), serial_number=serial, device_id=device.id, profile="camera", subject=f"CN={name}",
                    fingerprint=f"{number:064x}", spki_sha256=f"{number:064x}", certificate=_der(serial), not_before=now,
                    not_after=now + timedelta(days=90), state="valid", state_since=now, issued_at=now,
                )
            )  # fmt: skip
            event = CertificateIssued(
                device_id=device.id, serial_number=serial, fingerprint=f"{number:064x}", profile="camera",
                not_after=clock.iso(now + timedelta(days=90)),
            )  # fmt: skip
            outbox.append(connection, event, actor=system("pki"))


def _alerts(made: Console) -> None:
    now, device = clock.now(), made.devices["cam-0042"]
    line = f"Nov 22 cam-0042 dropbear[311]: Password auth succeeded for 'root' from 198.51.100.23:5511 {HOSTILE}"
    evidence = [
        {
            "sender": f"device:{device.id}",
            "received": clock.iso(now),
            "line": line,
            "stream": "s",
            "offset": 0,
            "number": 1,
        }
    ]
    why = {
        "rule": {"id": "r-4", "name": "ssh_login_after_storm", "title": "t", "file": "ssh.yml", "author": "lachan"},
        "description": "A password was accepted after many were refused.", "false_positives": ["A person who mistypes"],
        "fields": {"user.name": "root", "source.ip": "198.51.100.23"}, "group": {"host.name": "cam-0042"}, "count": 12,
        "window_seconds": 300, "condition": "temporal_ordered",
    }  # fmt: skip
    with made.town.rt.db.write() as connection:
        for key, severity, bound in (("alert", "critical", True), ("unbound", "medium", False)):
            made.ids[key] = new_id()
            connection.execute(
                alerts.insert().values(
                    id=made.ids[key], key=f"{key:0>64}", rule_id="5b1d3e1c-6c0e-4a55-9f6b-1d1f0a8f7a04",
                    rule_title="SSH login succeeded after a storm of refused passwords", severity=severity,
                    outcome="success" if bound else "attempt", tags=["attack.t1110.001"], group_key="g",
                    group_values={"host.name": "cam-0042"}, device_id=device.id if bound else None,
                    vendor=device.vendor if bound else None, site="hoan-kiem", subject=HOSTILE[:100], subject_bound=bound,
                    senders=[f"device:{device.id}"], sources=1, first_at=now - timedelta(seconds=40), last_at=now, received_first=now, received_last=now, matches=12,
                    why=why, evidence=evidence, state="open", verdict="", assignee="", created_at=now,
                )
            )  # fmt: skip
        raised = AlertRaised(
            device_id=device.id, alert_id=made.ids["alert"], rule_id="r-4", rule_title="SSH login after a storm",
            severity="critical", subject_bound=True, outcome="success", senders=(f"device:{device.id}",),
        )  # fmt: skip
        outbox.append(connection, raised, actor=system("detector"), happened_at=now - timedelta(seconds=1))
        installed = FirmwareInstalled(
            device_id=device.id, release_id=new_id(), version=HOSTILE[:60], outcome="installed"
        )
        outbox.append(connection, installed, actor=system("ota"))


def _runs(made: Console) -> None:
    now, device = clock.now(), made.devices["cam-0044"]
    document = {"workflow": {STEP: {"name": "Quarantine the device", "type": "action"}}}
    run_id = made.ids["run"] = new_id()
    plan = [
        {
            "step": STEP,
            "name": "Quarantine the device",
            "verb": "containment.set",
            "parameters": {"level": "quarantine"},
        }
    ]
    with made.town.rt.db.write() as connection:
        connection.execute(
            playbook_versions.insert().values(
                digest="d" * 64, playbook_id=PLAYBOOK, version="2026-11-22T09:00:00.000Z", document=json.dumps(document),
                signer="s" * 64, loaded_at=now,
            )
        )  # fmt: skip
        connection.execute(
            runs.insert().values(
                id=run_id, playbook_id=PLAYBOOK, playbook_name="Quarantine a compromised camera",
                playbook_version="2026-11-22T09:00:00.000Z", digest="d" * 64, mode="propose", event_id=new_id(),
                alert_id=made.ids["alert"], device_id=device.id, vendor=device.vendor, facts={"outcome": "success"},
                variables={}, state="waiting", step=STEP, waiting_for_kind="approval", waiting_for_ref=STEP, guard="propose", needed=2, plan=plan,
                created_at=now - timedelta(minutes=2), updated_at=now,
            )
        )  # fmt: skip
        entry: dict[str, Any] = {"run_id": run_id, "step_id": "start--1", "phase": "outcome", "position": 0, "fence": 1}
        connection.execute(run_journal.insert().values(**entry, body={"ok": True}, at=now))
        started = RunStarted(
            device_id=device.id, run_id=run_id, playbook_id=PLAYBOOK, playbook_version="1", mode="propose"
        )
        outbox.append(connection, started, actor=system("playbooks"))


def _containment(made: Console) -> None:
    rt = made.town.rt
    device = made.devices["cam-0042"]
    with rt.db.write() as connection:
        now = clock.now()
        row: dict[str, Any] = {
            "id": new_id(), "device_id": device.id, "vendor": device.vendor, "site": device.site, "state": "waiting",
            "level": "quarantine", "wanted": "quarantine", "reason": "A detection shows a compromise.", "run_id": "",
            "alert_id": made.ids["alert"], "requested_by": "system:playbooks", "counted": [], "created_at": now,
        }  # fmt: skip
        connection.execute(containments.insert().values(**row))
        found = service.find(connection, row["id"])
        effects.activate(rt, connection, found, Level.QUARANTINE, actor=system("playbooks"))
        made.ids["containment"] = row["id"]
    with rt.db.write() as connection:
        asked = Request(device_id=made.devices["cam-0043"].id, level=Level.QUARANTINE, reason=HOSTILE, principal=SETUP)
        made.ids["waiting"] = service.request(rt, connection, asked).id


def _verdicts(made: Console) -> None:
    now, device = clock.now(), made.devices["cam-0042"]
    with made.town.rt.db.write() as connection:
        for place, row in enumerate(catalogue().device_criteria()):
            result = ("fail", "unknown", "pass", "not_applicable")[place % 4]
            connection.execute(
                verdicts.insert().values(
                    device_id=device.id, criterion=row.id, result=result, reason="default_login_accepted", basis="observed",
                    detail=HOSTILE, evidence=["a" * 64], valid_until=now + timedelta(days=30), assessment_id=new_id(),
                    since=now,
                )
            )  # fmt: skip
        changed = VerdictChanged(
            device_id=device.id, criterion="CAM-1.1", before="unknown", after="fail", reason="seen"
        )
        outbox.append(connection, changed, actor=system("posture"))


def _release(made: Console) -> None:
    now = clock.now()
    artifact, release_id = new_id(), new_id()
    made.ids["release"] = release_id
    values: dict[str, Any] = {
        "id": release_id, "vendor": "Thăng Long Vision", "artifact_id": artifact, "sha256": "ab" * 32, "length": 4096,
        "proposer": "token:ci", "proposer_id": "ci", "state": "proposed", "proposed_at": now, "model": "TL-200",
        "version": "2.0.2", "approvals_needed": 2, "downgrade": False, "notes": HOSTILE,
    }  # fmt: skip
    statement = ReleaseStatement.of(values)
    with made.town.rt.db.write() as connection:
        connection.execute(
            artifacts.insert().values(
                id=artifact, vendor="Thăng Long Vision", name="fw.bin", sha256="ab" * 32, length=4096, uploaded_by="token:ci",
                uploaded_at=now,
            )
        )  # fmt: skip
        connection.execute(
            releases.insert().values(
                **values,
                digest=statement.digest,
                target_path=statement.target_path,
                slot=bins.slot(statement.target_path),
            )
        )
