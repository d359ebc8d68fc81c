"""A device is looked at, judged and recorded; trust hears of it, with reasons."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import clock, trust
from lachan.errors import Forbidden, NotFound
from lachan.identity import Principal, Role
from lachan.ledger import merkle
from lachan.net.sockets import Refusal, SocketRefused
from lachan.runtime import Runtime
from lachan.trust import Answer
from lachan.work import outbox
from lachan.work.worker import Worker
from posture import declarations, engagements, jobs, service
from posture.catalogue import catalogue
from posture.counts import By, counts
from posture.errors import AssessmentNotFound, DeclarationInvalid, NotApproved, Superseded
from posture.evaluate import OBSERVED_FOR, Result
from posture.models import assessments, catalogues, verdicts
from tests.conftest import person
from tests.posture.cameras import BadCamera, ChangedHandler, GoodCamera, make_certificate
from tests.posture.conftest import ANALYST, APPROVER, approved, register
from tests.posture.test_evaluate import GOOD

MAKER = person("maker", Role.MANUFACTURER, vendor="acme")


def present(rt: Runtime, device_id: str) -> dict[str, tuple[str, str]]:
    with rt.db.read() as connection:
        return {v.criterion: (str(v.result), v.reason) for v, _, _ in service.current(connection, device_id)}


def decision(rt: Runtime, device_id: str) -> trust.Decision:
    with rt.db.read() as connection:
        return trust.decision(connection, device_id)


def told(rt: Runtime, *names: str) -> list[Any]:
    with rt.db.read() as connection:
        return [e.event for e in outbox.read(connection, names=names, limit=1000)]


def declare(rt: Runtime, actor: Principal = MAKER, **changes: Any) -> None:
    with rt.db.write() as connection:
        declarations.accept(connection, {**GOOD, **changes}, actor=actor)


def test_planted_faults_are_found(rt: Runtime, bad: BadCamera) -> None:
    device = register(rt)
    found = service.assess(rt, device.id, actor=ANALYST, engagement_id=approved(rt, device.id, bad.port).id)
    now = present(rt, device.id)
    assert {row: why for row, (result, why) in now.items() if result == "fail"} == {
        "CAM-1.1": "default_login_accepted", "CAM-1.3": "basic_over_cleartext", "CAM-1.6": "default_login_accepted",
        "CAM-5.1": "plain_http_admin", "CAM-5.3": "basic_over_cleartext", "CAM-6.2": now["CAM-6.2"][1],
    }  # fmt: skip
    assert now["CAM-6.2"][1] in ("version_disclosed", "directory_listing")
    assert "pass" not in {result for result, _ in now.values()}, "nothing was declared: silence proves nothing"
    assert found.counts == {"pass": 0, "fail": 6, "not_applicable": 0, "unknown": 44}


def test_good_gets_no_pass_from_silence(rt: Runtime, cameras: Callable[..., Any], tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    good = cameras(GoodCamera.start(certificate, certificate.with_suffix(".key")))
    device = register(rt)
    found = service.assess(rt, device.id, actor=ANALYST, engagement_id=approved(rt, device.id, good.port).id)
    assert found.counts["fail"] == 0
    passed = {row for row, (result, _) in present(rt, device.id).items() if result == "pass"}
    assert passed == {"HN-V1-tls"}, "confirmed by what was seen, and nothing else"
    assert decision(rt, device.id).answer is Answer.ALLOW
    ports = [{"port": good.port, "protocol": "https"}]
    declare(rt, ports=ports)
    service.assess(rt, device.id, actor=ANALYST)
    now = present(rt, device.id)
    assert now["CAM-1.1"] == now["CAM-6.1"] == ("pass", "declared_and_tested")
    assert now["CAM-3.5"] == ("unknown", "not_implemented")
    declare(rt, ports=[{"port": 80, "protocol": "http"}])
    service.assess(rt, device.id, actor=ANALYST)
    assert present(rt, device.id)["CAM-6.1"] == ("fail", "undeclared_port")


def test_the_verdict_changes_the_trust_answer_with_reasons(rt: Runtime, cameras: Callable[..., Any]) -> None:
    camera = cameras(BadCamera.start())
    device = register(rt)
    engagement = approved(rt, device.id, camera.port)
    assert decision(rt, device.id).answer is Answer.ALLOW
    with rt.db.read() as connection:
        before = trust.version(connection)
    service.assess(rt, device.id, actor=ANALYST, engagement_id=engagement.id)
    found = decision(rt, device.id)
    assert found.answer is Answer.LIMITED
    reasons = {(s.source, s.ref, s.reason) for s in found.reasons}
    assert ("posture", "CAM-1.1", "default_login_accepted") in reasons
    assert all(catalogue().criteria[s.ref].blocking for s in found.reasons)
    assert "admin-admin" in next(s.detail for s in found.reasons if s.ref == "CAM-1.1")
    with rt.db.read() as connection:
        assert trust.version(connection) > before
    camera.RequestHandlerClass = ChangedHandler  # somebody set a password
    service.assess(rt, device.id, actor=ANALYST, engagement_id=engagement.id)
    assert "CAM-1.1" not in {s.ref for s in decision(rt, device.id).reasons}
    assert present(rt, device.id)["CAM-1.1"] == ("unknown", "no_declaration")
    changed = [e for e in told(rt, "VerdictChanged") if e.criterion == "CAM-1.1"]
    assert [(e.before, e.after, e.reason) for e in changed] == [("fail", "unknown", "no_declaration")]


def test_a_device_that_hides_stays_limited(rt: Runtime) -> None:
    camera = BadCamera.start()
    device = register(rt)
    engagement = approved(rt, device.id, camera.port)
    service.assess(rt, device.id, actor=ANALYST, engagement_id=engagement.id)
    since = {s.ref: s.since for s in decision(rt, device.id).reasons}
    camera.stop()
    service.assess(rt, device.id, actor=ANALYST, engagement_id=engagement.id)
    assert present(rt, device.id)["CAM-1.1"] == ("unknown", "unreachable")
    assert {s.ref: s.since for s in decision(rt, device.id).reasons} == since


def test_an_assessment_is_one_event_over_a_tree(rt: Runtime, bad: BadCamera) -> None:
    device = register(rt)
    engagement = approved(rt, device.id, bad.port)
    found = service.assess(rt, device.id, actor=ANALYST, engagement_id=engagement.id)
    (event,) = told(rt, "PostureAssessed")
    assert (event.run_id, event.merkle_root, event.counts) == (found.id, found.merkle_root, found.counts)
    assert event.catalogue == found.catalogue == catalogue().hash
    assert service.rows_root(found.rows) == event.merkle_root
    row = json.loads(found.rows[0])
    assert (row["device_id"], row["as_of"], row["catalogue"]) == (device.id, found.as_of.isoformat(), event.catalogue)
    assert service.rows_root([found.rows[0].replace('"fail"', '"pass"'), *found.rows[1:]]) != event.merkle_root
    shown = service.proof(found, "CAM-5.3")
    merkle.verify_inclusion(
        leaf=hashlib.sha256(b"\0" + shown["row"].encode()).digest(), index=shown["index"], size=shown["size"],
        path=[bytes.fromhex(step) for step in shown["path"]], root=bytes.fromhex(event.merkle_root),
    )  # fmt: skip
    with pytest.raises(AssessmentNotFound):
        service.proof(found, "CAM-99")
    with rt.db.read() as connection:
        kept = connection.execute(
            sa.select(catalogues.c.document).where(catalogues.c.hash == event.catalogue)
        ).scalar_one()
    assert kept == catalogue().document, "the catalogue that judged can be read again"


def test_unchanged_verdicts_are_no_events(rt: Runtime, bad: BadCamera) -> None:
    device = register(rt)
    engagement = approved(rt, device.id, bad.port)
    for _ in range(2):
        service.assess(rt, device.id, actor=ANALYST, engagement_id=engagement.id)
    assert len(told(rt, "PostureAssessed")) == 2
    assert told(rt, "VerdictChanged") == []


def test_every_verdict_rests_on_evidence_that_is_kept(rt: Runtime, bad: BadCamera) -> None:
    device = register(rt)
    declare(rt)
    found = service.assess(rt, device.id, actor=ANALYST, engagement_id=approved(rt, device.id, bad.port).id)
    with rt.db.read() as connection:
        declared = declarations.current(connection, vendor="acme", model="C1")
        rows = [v for v, _, _ in service.current(connection, device.id)]
    assert declared is not None
    kept = {o.digest for o in found.observations} | {declared.digest}
    for verdict in rows:
        assert kept.issuperset(verdict.evidence)
        if verdict.result in (Result.PASS, Result.FAIL):
            assert verdict.evidence
            assert verdict.valid_until is not None


@pytest.mark.parametrize("window", [(1, 2), (-2, -1)])
def test_outside_the_window_nothing_is_sent(rt: Runtime, bad: BadCamera, window: tuple[int, int]) -> None:
    device, now = register(rt), clock.now()
    with clock.travel(timedelta(hours=-3)):
        engagement = approved(
            rt,
            device.id,
            bad.port,
            not_before=now + timedelta(hours=window[0]),
            not_after=now + timedelta(hours=window[1]),
        )
    with pytest.raises(SocketRefused) as refused:
        service.assess(rt, device.id, actor=ANALYST, engagement_id=engagement.id)
    assert refused.value.reason is Refusal.OUTSIDE_WINDOW
    assert bad.connections == 0
    assert told(rt, "PostureAssessed") == []


def test_without_approval_nothing_is_sent(rt: Runtime, bad: BadCamera) -> None:
    from tests.posture.conftest import wanted

    device, other = register(rt), register(rt, "cam-2")
    with rt.db.write() as connection:
        asked = engagements.request(connection, wanted(device.id, bad.port), actor=ANALYST)
    for device_id, engagement_id in ((device.id, asked.id), (other.id, approved(rt, device.id, bad.port).id)):
        with pytest.raises(NotApproved):
            service.assess(rt, device_id, actor=ANALYST, engagement_id=engagement_id)
    with rt.db.write() as connection:
        stopped = engagements.stop(connection, asked.id, actor=APPROVER, reason="no")
    with pytest.raises(NotApproved):
        service.assess(rt, device.id, actor=ANALYST, engagement_id=stopped.id)
    assert bad.connections == 0


def test_a_stop_in_the_middle_ends_the_packets(rt: Runtime, cameras: Callable[..., Any]) -> None:
    """The engagement is stopped from within the first request that reaches the camera."""
    device = register(rt)
    stops: list[Callable[[], None]] = []

    class Stopping(ChangedHandler):
        def do_GET(self) -> None:
            while stops:
                stops.pop()()
            super().do_GET()

    camera = cameras(BadCamera.start(Stopping))
    engagement = approved(rt, device.id, camera.port)

    def stop() -> None:
        with rt.db.write() as connection:
            engagements.stop(connection, engagement.id, actor=ANALYST, reason="the ward called")

    stops.append(stop)
    service.assess(rt, device.id, actor=ANALYST, engagement_id=engagement.id)
    assert len(camera.requests) == 1
    assert present(rt, device.id)["CAM-1.1"] == ("unknown", "not_authorised")


def test_who_may_run(rt: Runtime) -> None:
    device = register(rt)
    for who in (person("au", Role.AUDITOR), MAKER):
        with pytest.raises(Forbidden):
            service.assess(rt, device.id, actor=who)
    with pytest.raises(NotFound):
        service.assess(rt, "nowhere", actor=ANALYST)


def test_nothing_known_is_unknown(rt: Runtime) -> None:
    device = register(rt)
    found = service.assess(rt, device.id, actor=ANALYST)
    assert found.counts == {"pass": 0, "fail": 0, "not_applicable": 0, "unknown": 50}
    assert present(rt, device.id)["CAM-1.1"] == ("unknown", "no_engagement")


def test_judged_for_another_day(rt: Runtime) -> None:
    device = register(rt)
    found = service.assess(rt, device.id, actor=ANALYST, as_of=date(2026, 6, 30))
    assert found.as_of == date(2026, 6, 30)
    assert present(rt, device.id)["CAM-11.7"] == ("not_applicable", "not_in_force")


def test_an_older_run_never_overwrites_a_newer(rt: Runtime) -> None:
    device = register(rt)
    service.assess(rt, device.id, actor=ANALYST)
    with clock.travel(timedelta(minutes=-5)), pytest.raises(Superseded):
        service.assess(rt, device.id, actor=ANALYST)
    assert len(told(rt, "PostureAssessed")) == 1


def test_racing_assessments_leave_one_set_of_verdicts(rt: Runtime) -> None:
    device = register(rt)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            service.assess(rt, device.id, actor=ANALYST)
        except Superseded:
            pass
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with rt.db.read() as connection:
        rows = connection.execute(sa.select(verdicts.c.assessment_id)).scalars().all()
        newest = service.latest(connection, device.id)
    assert len(rows) == 50
    assert set(rows) == {newest.id}


def test_asked_for_over_the_worker(rt: Runtime, bad: BadCamera) -> None:
    device = register(rt)
    engagement = approved(rt, device.id, bad.port)
    with rt.db.write() as connection:
        run_id = jobs.ask(rt, connection, device.id, engagement.id, actor=ANALYST)
    worker = Worker(rt)
    worker.run_due()
    with rt.db.read() as connection:
        found = service.get(connection, run_id)
        actor = connection.execute(sa.select(assessments.c.actor)).scalar_one()
    assert found.counts["fail"] == 6
    assert actor == "system:posture for person:an"
    seen = bad.connections
    again = service.assess(rt, device.id, actor=ANALYST, engagement_id=engagement.id, run_id=run_id)
    assert (again.id, bad.connections) == (run_id, seen), "the same run again sends nothing"
    with rt.db.write() as connection, pytest.raises(NotApproved):
        jobs.ask(rt, connection, register_other(rt, connection), engagement.id, actor=ANALYST)


def register_other(rt: Runtime, connection: sa.Connection) -> str:
    from lachan import devices

    new = devices.NewDevice(name="cam-9", vendor="acme", model="C1", serial_number="9", site="hk", address="127.0.0.1")
    return devices.register(connection, new, actor=person("root", Role.ADMIN)).id


def test_a_new_declaration_judges_anew_without_a_packet(rt: Runtime, bad: BadCamera) -> None:
    device = register(rt)
    service.assess(rt, device.id, actor=ANALYST, engagement_id=approved(rt, device.id, bad.port).id)
    seen = bad.connections
    declare(rt)
    Worker(rt).run_due()
    assert bad.connections == seen
    now = present(rt, device.id)
    assert now["CAM-1.1"] == ("fail", "default_login_accepted"), "what was seen beats what is declared"
    assert now["CAM-3.6"] == ("pass", "declared")
    assert decision(rt, device.id).answer is Answer.LIMITED


def test_expired_evidence_is_stale_and_told(rt: Runtime, bad: BadCamera) -> None:
    device = register(rt)
    service.assess(rt, device.id, actor=ANALYST, engagement_id=approved(rt, device.id, bad.port).id)
    with clock.travel(OBSERVED_FOR + timedelta(minutes=1)):
        assert present(rt, device.id)["CAM-1.1"] == ("unknown", "stale")
        with rt.db.read() as connection:
            (row,) = counts(connection, by=By.VENDOR, principal=ANALYST)
        assert (row["fail"], row["unknown"]) == (0, 50)
        jobs.expire(rt)
        Worker(rt).run_due()
        assert present(rt, device.id)["CAM-1.1"] == ("unknown", "no_engagement")
        assert {(e.before, e.after) for e in told(rt, "VerdictChanged")} == {("fail", "unknown")}
        assert decision(rt, device.id).answer is Answer.LIMITED, "time makes nobody better"
        jobs.expire(rt)
        assert Worker(rt).run_due() == 0


def test_counts_show_unknown_beside_fail(rt: Runtime, bad: BadCamera) -> None:
    device = register(rt)
    register(rt, "cam-2", vendor="other")
    service.assess(rt, device.id, actor=ANALYST, engagement_id=approved(rt, device.id, bad.port).id)
    with rt.db.read() as connection:
        assert counts(connection, by=By.VENDOR, principal=ANALYST) == [
            {"key": "acme", "devices": 1, "assessed": 1, "pass": 0, "fail": 6, "not_applicable": 0, "unknown": 44},
            {"key": "other", "devices": 1, "assessed": 0, "pass": 0, "fail": 0, "not_applicable": 0, "unknown": 0},
        ]
        (ward,) = counts(connection, by=By.WARD, principal=ANALYST)
        assert (ward["key"], ward["devices"], ward["assessed"]) == ("Hàng Bạc", 2, 1)
        (own,) = counts(connection, by=By.VENDOR, principal=person("o", Role.MANUFACTURER, vendor="other"))
        assert own["key"] == "other"
        rows = counts(connection, by=By.CRITERION, principal=ANALYST)
        assert len(rows) == 50
        assert next(r for r in rows if r["key"] == "CAM-1.1")["fail"] == 1


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"vendor": ""}, "vendor"), ({"model": 5}, "model"), ({"issued": "2026-13-01"}, "issued"), ({"more": 1}, "(whole)"),
        ({"support": {"end": "2026-02-30"}}, "support.end"), ({"manual_url": "http://plain.example"}, "manual_url"),
        ({"ports": [{"port": 0, "protocol": "x"}]}, "ports.0.port"),
        ({"authentication": {"preset_password": "secret123"}}, "authentication.preset_password"),
    ],
)  # fmt: skip
def test_declarations_that_are_refused(rt: Runtime, change: dict[str, Any], path: str) -> None:
    with pytest.raises(DeclarationInvalid) as refused:
        declare(rt, **change)
    assert refused.value.fields["path"] == path


def test_a_manufacturer_declares_for_itself_only(rt: Runtime) -> None:
    with pytest.raises(NotFound):
        declare(rt, person("o", Role.MANUFACTURER, vendor="other"))
    with pytest.raises(Forbidden):
        declare(rt, ANALYST)
    declare(rt)
    declare(rt)
    assert len(told(rt, "DeclarationAccepted")) == 1, "the same again is no news"
    with rt.db.read() as connection:
        assert declarations.find(connection, principal=person("o", Role.MANUFACTURER, vendor="other")) == []
        assert len(declarations.find(connection, principal=MAKER)) == 1
