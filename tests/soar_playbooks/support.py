"""What the tests of this room share: an operator's key made at test time, signed playbooks, alerts, people."""

import copy
import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec

from lachan import devices, trust
from lachan.devices import Criticality, Device, NewDevice
from lachan.events import AlertRaised
from lachan.identity import Role, system
from lachan.ids import new_id
from lachan.runtime import Runtime
from lachan.work import outbox
from lachan.work.worker import Worker
from soar_playbooks import playbooks
from soar_playbooks.cacao import jss
from soar_playbooks.cacao.model import EXTENSION
from soar_playbooks.models import containments, runs
from soar_playbooks.playbooks import Mode
from tests.conftest import person

CAMERA = Path("soar_playbooks/playbooks/quarantine-compromised-camera.cacao.json")
DETECTOR = system("detector")
AGENT = "organization--dd913dbf-72e5-4078-a01a-3e480c3627cd"
ADMIN = person("quyen", Role.ADMIN)
AN = person("an", Role.APPROVER)
BINH = person("binh", Role.APPROVER)
CHI = person("chi", Role.ANALYST)


def camera_document() -> dict[str, Any]:
    """The playbook of the repository, unsigned."""
    return json.loads((Path(__file__).parents[2] / CAMERA).read_text())


def signed(document: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> str:
    return json.dumps(jss.sign(document, key, signee="the operator"), indent=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def trusted_key(rt: Runtime) -> ec.EllipticCurvePrivateKey:
    key = new_key()
    with rt.db.write() as connection:
        playbooks.trust_signer(connection, ADMIN, pem=jss.public_pem(key.public_key()), name="operator")
    return key


def load(rt: Runtime, document: dict[str, Any] | None = None, *, mode: Mode = Mode.ENFORCE) -> playbooks.Loaded:
    """Sign and load a playbook (the repository's by default) with a fresh trusted key."""
    text = signed(document or camera_document(), trusted_key(rt))
    with rt.db.write() as connection:
        loaded = playbooks.load(connection, ADMIN, text=text, file="test.cacao.json")
        return playbooks.set_mode(connection, ADMIN, playbook_id=loaded.id, mode=mode)


def new_device(
    rt: Runtime,
    name: str = "cam-1",
    *,
    criticality: Criticality = Criticality.NORMAL,
    site: str = "hk-01",
    vendor: str = "Acme",
    model: str = "C1",
) -> Device:
    new = NewDevice(name=name, vendor=vendor, model=model, serial_number=f"sn-{name}", site=site)
    with rt.db.write() as connection:
        return devices.register(connection, new, actor=ADMIN, criticality=criticality)


def raise_alert(rt: Runtime, device: Device | None, **more: Any) -> str:
    """Write an AlertRaised as the detector does; success of one bound device unless told otherwise."""
    fields: dict[str, Any] = {
        "alert_id": new_id(), "rule_id": "ssh-login-storm", "rule_title": "Login storm", "severity": "high",
        "site": device.site if device else "", "subject_bound": device is not None, "outcome": "success", "sources": 1,
        "senders": (f"device:{device.id}",) if device else (),
    }  # fmt: skip
    alert = AlertRaised(device_id=device.id if device else None, **{**fields, **more})
    with rt.db.write() as connection:
        return outbox.append(connection, alert, actor=DETECTOR)


def work(rt: Runtime) -> int:
    return Worker(rt).run_due()


def decision(rt: Runtime, device: Device) -> trust.Answer:
    with rt.db.read() as connection:
        return trust.decision(connection, device.id).answer


def rows(rt: Runtime, table: sa.Table) -> list[dict[str, Any]]:
    with rt.db.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


def one_run(rt: Runtime) -> dict[str, Any]:
    (run,) = rows(rt, runs)
    return run


def one_containment(rt: Runtime) -> dict[str, Any]:
    (row,) = rows(rt, containments)
    return row


def told(rt: Runtime, *names: str) -> list[Any]:
    """The facts of these names, in order."""
    with rt.db.read() as connection:
        return [stored.event for stored in outbox.read(connection, names=names, limit=1000)]


def edited(document: dict[str, Any], **steps: dict[str, Any]) -> dict[str, Any]:
    """A copy whose steps (by the beginning of their id) are updated."""
    made = copy.deepcopy(document)
    for prefix, change in steps.items():
        for name, step in made["workflow"].items():
            if name.startswith(prefix):
                step.update(change)
    return made


def http_action(url: str, *, idempotent: bool, nxt: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """An http-api action; its target must be defined with `with_target`."""
    return {
        "type": "action",
        "name": "Ask the peer",
        "commands": [{"type": "http-api", "command": f"POST {url} HTTP/1.1", "content": json.dumps(content or {})}],
        "agent": AGENT,
        "targets": ["http-api--28a9ef49-aef4-43f0-86a9-ddbf74bcb98a"],
        "on_completion": nxt,
        "timeout": 2000,
        "step_extensions": {
            EXTENSION: {"idempotent": idempotent, "undo": {"nothing": "the peer only counts in this test"}}
        },
    }


def with_target(document: dict[str, Any], base: str) -> dict[str, Any]:
    made = copy.deepcopy(document)
    made["target_definitions"] = {
        "http-api--28a9ef49-aef4-43f0-86a9-ddbf74bcb98a": {
            "type": "http-api",
            "name": "peer",
            "address": {"url": [base]},
        }
    }
    return made
