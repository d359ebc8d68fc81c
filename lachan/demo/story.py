"""The steps of the story, each through the public doors, each with the ledger event that proves it.

A step returns (event id, one line of detail) or raises `DemoFailed`. The people: an administrator, a firmware engineer's
token, two approvers, an analyst. ``broken`` names a step whose cause is taken away (a rule removed, an approval skipped, a
playbook unsigned …): a test does that with each step in turn to see that the story notices.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from lachan import clock
from lachan.demo import replay
from lachan.demo.broker import Broker
from lachan.demo.city import Camera, City, Person, tell
from lachan.ledger.document import encode

VENDOR, MODEL, SITE, WARD = "Thăng Long Vision", "TL-200", "hk-01", "Hoàn Kiếm"
TURNING, NEIGHBOUR = "cam-0042", "cam-0043"
CONTAINED = ("403", "closed")
Proof = tuple[str | None, str]


# What shows a success in the recording; switched off to break the step `alert`.
SUCCESS_RULES = ("ssh_login_after_storm", "loader_fetch", "exec_from_shared_folder", "busybox_probe")


class Story:
    """The city, its people and cameras, and what was measured on the way."""

    def __init__(self, city: City, *, broken: str | None = None, broker: Broker | None = None) -> None:
        self.city = city
        self.broker = broker
        self.broken = broken
        self.people: dict[str, Person] = {}
        self.cameras: dict[str, Camera] = {}
        self.device_ids: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self.playbook_id = ""
        self.lines: list[bytes] = []
        self.sent = 0.0
        self.event_to_alert_ms: int | None = None
        self.event_to_refused_ms: int | None = None
        self.ledger_verified = False
        self.tamper_detected = False

    @property
    def admin(self) -> Person:
        """The administrator."""
        return self.people["admin"]

    def events(self, name: str, device: str | None = None) -> list[dict[str, Any]]:
        """Give the facts of one name, oldest first: from a device's timeline, else from the feed (sealed facts only)."""
        if device:
            shown = self.admin.get(f"/api/v1/devices/{self.device_ids[device]}/timeline?limit=200")["items"]
            return [event for event in reversed(shown) if event["name"] == name]
        found: list[dict[str, Any]] = []
        after = 0
        while True:
            feed = self.admin.get(f"/api/v1/events?after={after}&limit=500")
            found += [event for event in feed["events"] if event["name"] == name]
            if feed["next"] == after:
                return found
            after = feed["next"]

    def proof(self, name: str, device: str | None = None, **data: str) -> str:
        """Give the id of the newest fact of that name, with that data; waits for it a little."""

        def facts() -> list[str]:
            found = self.events(name, device)
            return [one["id"] for one in found if data.items() <= (one["data"] or {}).items()]

        return self.city.wait(facts, f"the event {name}")[-1]


def start(story: Story) -> Proof:
    """Found the installation, serve it, sign everybody in."""
    city = story.city
    if story.broken == "start":
        (city.data / "in-use").mkdir(parents=True)
    city.found()
    city.open()
    story.people["admin"] = city.admin()
    for name, role in (("an", "analyst"), ("binh", "approver"), ("chi", "approver")):
        story.people[name] = city.person(story.admin, name, role)
    roles = ", ".join(city.urls["roles"])
    return story.proof("AuthorityCreated"), f"{roles}; {city.urls['people']}"


def register(story: Story) -> Proof:
    """Make two cameras known and say how much depends on them."""
    for number, name in enumerate((TURNING, NEIGHBOUR), 1):
        body = {
            "name": name, "vendor": VENDOR, "model": MODEL, "serial_number": f"TL200-{number:05}", "site": SITE,
            "ward": WARD, "owner": "UBND phường Hoàn Kiếm", "address": "127.0.0.1",
        }  # fmt: skip
        if story.broken == "register":
            body["name"] = "Not A Name"
        made = story.admin.post("/api/v1/devices", body)
        story.device_ids[name] = made["id"]
        story.admin.ask("PATCH", f"/api/v1/devices/{made['id']}", json={"criticality": "normal"})
    return story.proof("DeviceRegistered", TURNING), f"{TURNING}, {NEIGHBOUR} ({VENDOR} {MODEL}, {WARD})"


def enrol(story: Story) -> Proof:
    """Give each camera its one-time secret; each makes a key and enrols over EST."""
    serials = []
    for name, device_id in story.device_ids.items():
        secret = story.admin.post(f"/api/v1/devices/{device_id}/secret", {"profile": "camera"})["secret"]
        camera = story.cameras[name] = story.city.camera(name)
        story.secrets[name] = secret
        serials.append(camera.must("enrol", secret="lce_wrong" if story.broken == "enrol" else secret)["serial_number"])
        if story.broker:
            story.broker.admit(story.city, camera)
    return story.proof(
        "CertificateIssued", TURNING
    ), f"EST simpleenroll, serial numbers {', '.join(s[:8] + '…' for s in serials)}"


def firmware(story: Story) -> Proof:
    """Upload, propose, approve by two people, sign, publish; both cameras verify and install it."""
    image = os.urandom(256 * 1024)
    admin = story.admin
    headers = {"Content-Type": "application/octet-stream"}
    query = {"vendor": VENDOR, "name": "tl200.bin"}
    artifact = admin.ask("POST", "/api/v1/artifacts", params=query, content=image, headers=headers)
    body = {"artifact_id": artifact["id"], "model": MODEL, "version": "2.0.1", "approvals_needed": 2}
    release = admin.post("/api/v1/releases", body)
    approvers = ("binh",) if story.broken == "firmware" else ("binh", "chi")
    for name in approvers:
        story.people[name].post(f"/api/v1/releases/{release['id']}/approve", {"digest": release["digest"]})
    admin.post(f"/api/v1/releases/{release['id']}/sign", {})
    admin.post(f"/api/v1/releases/{release['id']}/publish", {})
    for camera in story.cameras.values():
        done = camera.must("update")
        tell(done.get("outcome") == "installed", f"{camera.name} did not install the firmware: {done}")
    return story.proof("FirmwareInstalled", TURNING), "2.0.1, approved by binh and chi; TUF and CMS verified by both"


def judge(story: Story) -> Proof:
    """Probe both cameras' pages under an engagement that a person approved; the careless one is limited."""
    details = []
    for name, camera in story.cameras.items():
        weak = name == TURNING and story.broken != "judge"
        port = camera.must("page", weak=weak)["port"]
        answer = _assess(story, name, port)
        details.append(f"{name}: {answer}")
    tell("limited" in details[0], f"a camera with admin/admin was not limited ({details[0]})")
    tell("limited" not in details[1], f"the careful camera was limited ({details[1]})")
    return story.proof("PostureAssessed", TURNING), "; ".join(details)


def _assess(story: Story, name: str, port: int) -> str:
    now = clock.now()
    wanted = {
        "reason": "acceptance test of the demo", "device_ids": [story.device_ids[name]], "ports": [port],
        "methods": ["tls", "http", "default-login"], "loopback": True, "rate": 100, "burst": 100,
        "not_before": clock.iso(now - timedelta(seconds=1)), "not_after": clock.iso(now + timedelta(minutes=10)),
    }  # fmt: skip
    engagement = story.people["an"].post("/api/v1/engagements", wanted)
    story.people["binh"].post(f"/api/v1/engagements/{engagement['id']}/approve")
    path = f"/api/v1/devices/{story.device_ids[name]}/assess"
    run = story.people["an"].post(path, {"engagement_id": engagement["id"]})["run_id"]
    found = f"/api/v1/posture/assessments/{run}"

    def recorded() -> dict[str, Any]:
        answer: dict[str, Any] = story.people["an"].get(found, expect=(200, 404))
        return answer if "counts" in answer else {}

    result = story.city.wait(recorded, f"the assessment of {name}")
    answer = story.admin.get(f"/api/v1/trust/{story.device_ids[name]}")["answer"]
    counts = result["counts"]
    rows = [json.loads(row) for row in result["rows"]]
    failed = ", ".join(f"{row['criterion']} ({row['reason']})" for row in rows if row["result"] == "fail")
    return f"{failed or 'no fail'}, {counts['pass']} pass, {counts['unknown']} unknown → {answer}"


def enforce(story: Story) -> Proof:
    """Sign the playbook with the operator's key, load it, and let an administrator switch it to enforce."""
    source = Path(__file__).parents[2] / "soar_playbooks" / "playbooks" / "quarantine-compromised-camera.cacao.json"
    made = story.city.lachan("playbooks", "keygen", str(story.city.offline / "operator"))
    story.city.lachan("playbooks", "trust", made["public"], "--name", "operator")
    file = source
    if story.broken != "enforce":
        file = story.city.folder / "quarantine.signed.json"
        story.city.lachan("playbooks", "sign", str(source), "--key", made["private"], "--out", str(file))
    body = {"file": file.name, "text": file.read_text("utf-8")}
    story.playbook_id = story.admin.post("/api/v1/playbooks", body)["id"]
    story.admin.ask("PUT", f"/api/v1/playbooks/{story.playbook_id}/mode", json={"mode": "enforce"})
    return story.proof("PlaybookModeChanged"), "propose → enforce"


def attack(story: Story) -> Proof:
    """Give the storm of the recording goes out through the turning camera's own mutual TLS: seen, but attempts never contain."""
    camera = story.cameras[TURNING]
    story.lines = replay.ending(replay.BENIGN if story.broken == "attack" else replay.ATTACK, clock.now())
    for made in (camera, story.cameras[NEIGHBOUR]):
        made.must("watch")
        made.must("resume")  # a first handshake, whose session is offered again in quarantine
        story.city.wait(lambda made=made: made.must("seen")["changes"], f"{made.name}'s open connection")  # type: ignore[misc]
    success = replay.before(story.lines, b"auth succeeded")
    camera.must("bulk", lines=b"".join(story.lines[:success]).decode())
    story.city.wait(lambda: _alerts(story, "attempt"), "an alert about the storm")
    tell(camera.do("ask")["status"] == 200, "attempts alone must not contain a device")
    proof = story.proof("AlertRaised", TURNING, outcome="attempt")
    return proof, f"{success} lines of a real storm, sent by {TURNING} about itself; still allowed"


def alert(story: Story) -> Proof:
    """Give the login succeeds and a loader runs: the alert names its rule, its fields, and the lines."""
    success = replay.before(story.lines, b"auth succeeded")
    story.sent = time.time()
    story.cameras[TURNING].must("bulk", lines=b"".join(story.lines[success:]).decode())
    found = story.city.wait(lambda: _alerts(story, "success"), "an alert about the success", every=0.005)
    story.event_to_alert_ms = round((time.time() - story.sent) * 1000)
    detail = story.people["an"].get(f"/api/v1/alerts/{found[0]['id']}")
    tell(bool(detail["why"]) and bool(detail["evidence"]), "the alert does not say why")
    tell(detail["subject_bound"], "the alert is not bound to the device that spoke")
    last = json.loads(detail["evidence"][-1]["line"])["message"]
    proof = story.proof("AlertRaised", TURNING, alert_id=detail["id"])
    return proof, f"{detail['rule_title']} ({detail['severity']}): {last!r}"


def _alerts(story: Story, outcome: str) -> list[dict[str, Any]]:
    found = story.people["an"].get(f"/api/v1/alerts?device_id={story.device_ids[TURNING]}")["items"]
    return [one for one in found if one["outcome"] == outcome]


def quarantine(story: Story) -> Proof:
    """Give the open session closes; a new one, the renewal, the old secret with a new key: all refused."""
    camera = story.cameras[TURNING]
    if story.broken == "quarantine":
        story.device_ids[TURNING], story.sent = story.device_ids[NEIGHBOUR], time.time()

    def cut() -> float | None:
        changes = camera.must("seen")["changes"]
        return next((at for at, state in changes if at >= story.sent and state in CONTAINED), None)

    at = story.city.wait(cut, "the camera being refused", within=5) or 0.0
    story.event_to_refused_ms = round((at - story.sent) * 1000)
    tell(story.event_to_refused_ms <= 1000, f"refused only after {story.event_to_refused_ms} ms")
    tell(camera.do("ask").get("status") == 403, "a new session is not refused")
    resumed = camera.do("resume")
    tell(resumed.get("reused") is True and resumed["status"] == 403, f"a resumed TLS session is not refused: {resumed}")
    for what, words in (
        ("renewal", {"renew": True}),
        ("the old secret with a new key", {"secret": story.secrets[TURNING]}),
    ):
        answer = camera.do("enrol", save=False, **words)
        tell(answer.get("ok") is False and answer.get("status") in (401, 403), f"{what} is not refused: {answer}")
    broker = story.broker.cut(story.city, camera, story.sent) if story.broker else ""
    proof = story.proof("DeviceContained", TURNING)
    return proof, f"open session closed; new session, renewal, old secret, new key refused{broker}"


def neighbour(story: Story) -> Proof:
    """Give the other camera never noticed: its connection held, and it may renew."""
    camera = story.cameras[NEIGHBOUR]
    if story.broken == "neighbour":
        story.admin.post(f"/api/v1/devices/{story.device_ids[NEIGHBOUR]}/suspend", {"reason": "broken on purpose"})
    changes = camera.must("seen")["changes"]
    tell([state for _, state in changes] == ["200"], f"the neighbour saw {changes}")
    tell(camera.must("enrol", renew=True)["status"] == 200, "the neighbour could not renew")
    broker = story.broker.untouched(camera) if story.broker else ""
    proof = story.proof("CertificateIssued", NEIGHBOUR)
    return proof, f"one connection all along, and a renewal by mutual TLS{broker}"


def release(story: Story) -> Proof:
    """Two people release it in their own sessions; then everything works again."""
    device_id = story.device_ids[TURNING]
    found = [c for c in story.people["binh"].get("/api/v1/containments")["items"] if c["device_id"] == device_id]
    tell(len(found) == 1, f"{len(found)} containments stand for {TURNING}")
    path = f"/api/v1/containments/{found[0]['id']}/release"
    people = ("binh",) if story.broken == "release" else ("binh", "chi")
    for name in people:
        story.people[name].post(path, {"note": "root login closed, password changed"})
    camera = story.cameras[TURNING]
    story.city.wait(lambda: camera.do("ask").get("status") == 200, "the camera being let in again", within=5)
    tell(camera.must("enrol", renew=True)["status"] == 200, "the released camera could not renew")
    broker = story.broker.back(story.city, camera) if story.broker else ""
    proof = story.proof("ContainmentEnded", TURNING)
    return proof, f"binh and chi agreed; the camera works and renewed its certificate{broker}"


def ledger(story: Story) -> Proof:
    """Export the ledger and verify it with nothing but the export and the public key."""
    last = story.events("ContainmentEnded", TURNING)[-1]["id"]
    proof = f"/api/v1/ledger/events/{last}/proof"
    story.city.wait(lambda: "proof" in story.admin.get(proof, expect=(200, 404)), "the release being sealed")
    export, key = story.city.folder / "ledger.export", story.city.folder / "ledger.pub"
    export.write_text(story.admin.get("/api/v1/ledger/export"), "utf-8")
    key.write_text(story.admin.get("/api/v1/ledger/key"), "utf-8")
    if story.broken == "ledger":
        key.write_text("other+00000000+AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAh\n", "utf-8")
    checked = _verify(story, export, key)
    story.ledger_verified = checked.get("ok") is True
    tell(story.ledger_verified, f"the export does not verify: {checked}")
    tell(last in export.read_text("utf-8"), "the release does not stand in the export")
    return (
        last,
        f"{checked.get('events', checked.get('size', '?'))} events under a signed root, verified without lachan's database",
    )


def tamper(story: Story) -> Proof:
    """Change one word of one event in the export: the verifier refuses it and names the event."""
    export, key = story.city.folder / "ledger.export", story.city.folder / "ledger.pub"
    target = story.events("DeviceContained", TURNING)[-1]["id"]
    changed = story.city.folder / "tampered.export"
    changed.write_text(_tampered(export.read_text("utf-8"), target, spared=story.broken == "tamper"), "utf-8")
    checked = _verify(story, changed, key)
    story.tamper_detected = checked.get("ok") is not True and target in json.dumps(checked)
    tell(story.tamper_detected, f"the tampered export was not refused by name: {checked}")
    return target, "one word of DeviceContained changed: refused, and the event named"


def _verify(story: Story, export: Path, key: Path) -> dict[str, Any]:
    found: dict[str, Any] = story.city.lachan("ledger", "verify", str(export), "--key", str(key), expect=None)
    return found


def _tampered(text: str, event_id: str, *, spared: bool) -> str:
    """Give the export with one word of one event changed, and its closing sum made to fit, as somebody who intends it would."""
    lines = text.splitlines()
    for place, line in enumerate(lines):
        entry = json.loads(line)
        if entry["type"] == "event" and event_id in entry["body"] and not spared:
            entry["body"] = entry["body"].replace('"quarantine"', '"observe"')
            lines[place] = encode(entry).decode().rstrip("\n")
    kept = "".join(line + "\n" for line in lines[:-1])
    digest = hashlib.sha256(kept.encode()).hexdigest()
    return kept + encode({"type": "end", "lines": len(lines) - 1, "sha256": digest}).decode()


STEPS: tuple[tuple[str, Callable[[Story], Proof]], ...] = (
    ("start", start), ("register", register), ("enrol", enrol), ("firmware", firmware), ("judge", judge),
    ("enforce", enforce), ("attack", attack), ("alert", alert), ("quarantine", quarantine), ("neighbour", neighbour),
    ("release", release), ("ledger", ledger), ("tamper", tamper),
)  # fmt: skip
